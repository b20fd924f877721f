"""Does the evidence lie where it should? Each metric says its range, its direction and what chance would give."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from concept_cam.errors import EmptyMask


def energy_inside(heatmap: Float[Tensor, "height width"], mask: Bool[Tensor, "height width"]) -> float:
    """The share of the positive evidence that lies inside the mask: 0 to 1, higher is better; chance is the mask's area share.

    The energy-based pointing game of Score-CAM (Wang et al., arXiv 1910.01279, section 4.3) with a mask for the box. Pixels
    that the model did not see (NaN) count for nothing. A map without positive evidence has 0.

    Raises:
        EmptyMask: the mask has no pixel.

    Example:
        >>> import torch
        >>> energy_inside(torch.tensor([[3.0, 1.0, -2.0]]), torch.tensor([[True, False, True]]))
        0.75
    """
    _check(mask)
    positive = heatmap.nan_to_num(nan=0.0).clamp(min=0).double()
    total = positive.sum()
    return float(positive[mask].sum() / total) if total > 0 else 0.0


def pointing_hit(peak: tuple[float, float], mask: Bool[Tensor, "height width"], tolerance: float = 0.0) -> bool:
    """Whether a point (x, y) lies in the mask, or at most ``tolerance`` pixels from it along x and along y.

    The pointing game (Zhang et al., arXiv 1608.00507) with its tolerance, here measured along the axes. True is better;
    chance is the share of the possible peaks that would hit.

    Raises:
        EmptyMask: the mask has no pixel.

    Example:
        >>> import torch
        >>> pointing_hit((0.5, 0.5), torch.tensor([[False, True]])), pointing_hit((0.5, 0.5), torch.tensor([[False, True]]), 1)
        (False, True)
    """
    _check(mask)
    y, x = mask.nonzero(as_tuple=True)
    # A pixel is a unit square: its distance from the point is that of its nearest edge.
    across = ((x + 0.5 - peak[0]).abs() - 0.5).clamp(min=0)
    down = ((y + 0.5 - peak[1]).abs() - 0.5).clamp(min=0)
    return bool((torch.maximum(across, down) <= tolerance).any())


def _check(mask: Tensor) -> None:
    if not mask.any():
        raise EmptyMask(f"The mask of {tuple(mask.shape)} pixels is empty; leave such pictures out.")
