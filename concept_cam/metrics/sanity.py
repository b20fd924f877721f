"""Sanity checks without ground truth: does a map depend on the model and on the target, and does it move with the image?

Maps are compared by rank, so that scale and offset do not count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from concept_cam.backbones.site import TokenLayout
from concept_cam.images import WHOLE, Span
from concept_cam.metrics.shapes import check_shapes

Explain: TypeAlias = Callable[[Float[Tensor, "B 3 height width"]], Float[Tensor, "*K B rows cols"]]
"""A function from pixels to signed maps at token resolution."""


def rank_correlation(
    ours: Float[Tensor, "*batch rows cols"], theirs: Float[Tensor, "*batch rows cols"]
) -> Float[Tensor, "*batch"]:
    """Spearman's rank correlation of two maps, tied values with their mean rank: -1 to 1; 0 if one of them is flat.

    The measure of Adebayo et al., Sanity Checks for Saliency Maps (arXiv 1810.03292), section 4, signed ("no ABS"). Between a
    model and one with randomised parameters, or between two labels, near 0 is better: then the map depends on them.

    Raises:
        OptionError: the maps differ in shape.

    Example:
        >>> import torch
        >>> rank_correlation(torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[0.0, 0.1, 0.2]])).round(decimals=4)
        tensor(1., dtype=torch.float64)
    """
    check_shapes(ours=(ours, "*batch rows cols"), theirs=(theirs, "*batch rows cols"))
    first, second = (_ranks(maps) for maps in (ours, theirs))
    spread = first.norm(dim=-1) * second.norm(dim=-1)
    return (first * second).sum(-1) / torch.where(spread > 0, spread, 1)


def flip_agreement(explain: Explain, pixels: Float[Tensor, "B 3 height width"], span: Span = WHOLE) -> Float[Tensor, "*K B"]:
    """Rank correlation of the map with the map of the mirrored image, mirrored back: -1 to 1, higher is better.

    If a map reaches beyond the image on one side, only the columns that both maps cover are compared.

    Args:
        explain: makes maps of pixels.
        pixels: the images.
        span: the part of the input that maps cover, as in ``TokenLayout``.

    Example:
        >>> import torch
        >>> flip_agreement(lambda pixels: pixels[:, 0], torch.rand(1, 3, 4, 4)).round(decimals=4)
        tensor([1.], dtype=torch.float64)
    """
    own, mirrored = explain(pixels), explain(pixels.flip(-1)).flip(-1)
    layout = TokenLayout(0, own.shape[-2], own.shape[-1], span)
    back, (left, _, right, _) = layout.mirrored(), span
    kept = _columns(layout, max(left, back.span[0]), min(right, back.span[2]))
    return rank_correlation(own[..., kept], back.moved(mirrored, layout)[..., kept])


def shift_agreement(
    explain: Explain, pixels: Float[Tensor, "B 3 height width"], patches: int = 1, span: Span = WHOLE
) -> Float[Tensor, "*K B"]:
    """Rank correlation of the map with the map of the image shifted by whole patches, shifted back: -1 to 1, higher is better.

    The image moves to the right and its left edge fills the gap. Only the cells that lie on the image in both positions are
    compared.

    Args:
        explain: makes maps of pixels.
        pixels: the images.
        patches: how far they are shifted.
        span: the part of the input that maps cover, as in ``TokenLayout``; it gives the width of a cell.

    Example:
        >>> import torch
        >>> shift_agreement(lambda pixels: pixels[:, 0], torch.rand(1, 3, 4, 4)).round(decimals=4)
        tensor([1.], dtype=torch.float64)
    """
    own, width = explain(pixels), pixels.shape[-1]
    layout = TokenLayout(0, own.shape[-2], own.shape[-1], span)
    step = round(patches * width * (span[2] - span[0]) / layout.cols)
    moved = torch.cat([pixels[..., :1].expand(*pixels.shape[:-1], step), pixels[..., :-step]], -1)
    kept = _columns(layout, max(0.0, span[0]), min(1.0, span[2]) - step / width)
    return rank_correlation(own[..., kept], explain(moved)[..., patches:][..., kept])


def swap_agreement(
    forwards: Float[Tensor, "*batch rows cols"], backwards: Float[Tensor, "*batch rows cols"]
) -> Float[Tensor, "*batch"]:
    """Rank correlation of the map of A against B with the negated map of B against A: -1 to 1, higher is better.

    The two maps should mark the same places with opposite signs. For methods that are linear in the direction they do so by
    definition at strength 1; the check says something at other strengths and about other methods.

    Raises:
        OptionError: the maps differ in shape.

    Example:
        >>> import torch
        >>> forwards = torch.tensor([[2.0, -1.0, 0.5]])
        >>> swap_agreement(forwards, -forwards).round(decimals=4)
        tensor(1., dtype=torch.float64)
    """
    return rank_correlation(forwards, -backwards)


def _columns(layout: TokenLayout, left: float, right: float) -> slice:
    """The columns of a grid between two positions, in shares of the input; a span is known to a quarter of a cell."""
    start, _, stop, _ = layout.span
    cell = (stop - start) / layout.cols
    found = [c for c in range(layout.cols) if start + cell * (c + 0.25) >= left and start + cell * (c + 0.75) <= right]
    return slice(found[0], found[-1] + 1) if found else slice(0)


def _ranks(maps: Float[Tensor, "*batch rows cols"]) -> Float[Tensor, "*batch N"]:
    """Ranks minus their mean; a rank counts all smaller values and half of the equal ones."""
    values = maps.flatten(-2)
    order = values.sort(-1).values.contiguous()
    below = torch.searchsorted(order, values.contiguous(), side="left")
    upto = torch.searchsorted(order, values.contiguous(), side="right")
    ranks = (below + upto).double() / 2
    return ranks - ranks.mean(-1, keepdim=True)
