"""Does the evidence lie where it should? Each metric says its range, its direction and what chance would give.

Maps are signed, in the pixels of the image; pixels that the model did not see are NaN and count as no evidence. All
functions take any number of maps of one size. An empty mask is neither a hit nor a miss: it is refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from concept_cam.errors import EmptyMask, OptionError
from concept_cam.regions import bounding_boxes

THRESHOLDS = tuple(step / 20 for step in range(1, 20))
"""Shares of the strongest evidence at which boxes are drawn."""


def energy_inside(
    heatmaps: Float[Tensor, "*batch height width"], masks: Bool[Tensor, "*batch height width"]
) -> Float[Tensor, "*batch"]:
    """The share of the positive evidence that lies inside the mask: 0 to 1, higher is better; chance is the mask's area share.

    The energy-based pointing game of Score-CAM (Wang et al., arXiv 1910.01279, section 4.3) with a mask for the box. A map
    without positive evidence has 0.

    Raises:
        EmptyMask: a mask has no pixel.

    Example:
        >>> import torch
        >>> energy_inside(torch.tensor([[3.0, 1.0, -2.0]]), torch.tensor([[True, False, True]]))
        tensor(0.7500, dtype=torch.float64)
    """
    check_masks(masks)
    positive = heatmaps.nan_to_num(nan=0.0).clamp(min=0).double()
    total = positive.sum((-2, -1))
    return (positive * masks).sum((-2, -1)) / torch.where(total > 0, total, 1)


def pointing_hit(
    peaks: Float[Tensor, "*batch 2"], masks: Bool[Tensor, "*batch height width"], tolerance: float = 0.0
) -> Bool[Tensor, "*batch"]:
    """Whether a point (x, y) lies in the mask, or at most ``tolerance`` pixels from it along x and along y.

    The pointing game (Zhang et al., arXiv 1608.00507) with its tolerance, here measured along the axes. Without tolerance it
    says whether a keypoint lies in its part. True is better; chance is the share of the possible peaks that would hit.

    Raises:
        EmptyMask: a mask has no pixel.

    Example:
        >>> import torch
        >>> mask, peak = torch.tensor([[False, True]]), torch.tensor([0.5, 0.5])
        >>> pointing_hit(peak, mask), pointing_hit(peak, mask, tolerance=1)
        (tensor(False), tensor(True))
    """
    check_masks(masks)
    height, width = masks.shape[-2:]
    # A pixel is a unit square: its distance from the point is that of its nearest edge.
    x, y = (torch.arange(side, device=masks.device, dtype=torch.float32) + 0.5 for side in (width, height))
    across = ((x - peaks[..., :1]).abs() - 0.5).clamp(min=0) <= tolerance
    down = ((y - peaks[..., 1:]).abs() - 0.5).clamp(min=0) <= tolerance
    hit: Tensor = (masks & across[..., None, :] & down[..., :, None]).flatten(-2).any(-1)
    return hit


def iou(
    heatmaps: Float[Tensor, "*batch height width"], masks: Bool[Tensor, "*batch height width"], threshold: float = 0.5
) -> Float[Tensor, "*batch"]:
    """Intersection over union of the mask with the pixels of at least ``threshold`` of the strongest evidence.

    0 to 1, higher is better; what marks the whole image has the mask's area share. A map without positive evidence has 0.

    Args:
        heatmaps: signed.
        masks: what should be marked.
        threshold: above 0, at most 1.

    Raises:
        EmptyMask: a mask has no pixel.
        OptionError: the threshold is outside.
    """
    check_masks(masks)
    if not 0 < threshold <= 1:
        raise OptionError(f"threshold is {threshold}; expected a share of the maximum, above 0 and at most 1.")
    values = heatmaps.nan_to_num(nan=-math.inf)
    strongest = values.amax((-2, -1), keepdim=True)
    marked = (values >= threshold * strongest) & (strongest > 0)
    both, either = ((marked & masks).sum((-2, -1)), (marked | masks).sum((-2, -1)))
    return both.float() / either.float()


def best_iou(
    heatmaps: Float[Tensor, "*batch height width"], masks: Bool[Tensor, "*batch height width"]
) -> Float[Tensor, "*batch"]:
    """The largest intersection over union that any threshold gives, negative ones too: 0 to 1, higher is better.

    Never less than the mask's area share, which marks the whole image. An upper bound, as the threshold knows the mask.

    Raises:
        EmptyMask: a mask has no pixel.
    """
    inside, counts, ends, masked = _ranked(heatmaps, masks)
    overlap = inside / (counts + masked - inside)
    return torch.where(ends, overlap, 0).amax(-1)


def f1_of(overlap: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """The F1 score (Dice) of an intersection over union, 2 IoU / (1 + IoU); so the best threshold is the same for both.

    Example:
        >>> import torch
        >>> f1_of(torch.tensor(0.5))
        tensor(0.6667)
    """
    return 2 * overlap / (1 + overlap)


def average_precision(
    heatmaps: Float[Tensor, "*batch height width"], masks: Bool[Tensor, "*batch height width"]
) -> Float[Tensor, "*batch"]:
    """Area under the precision-recall steps of the pixels, equal values at once: 0 to 1, higher is better.

    Chance is the mask's area share. As scikit-learn and torchmetrics define it; pixels not seen come last.

    Raises:
        EmptyMask: a mask has no pixel.
    """
    inside, counts, ends, masked = _ranked(heatmaps, masks)
    last = ends.shape[-1] - 1
    places = torch.where(ends, torch.arange(last + 1, device=ends.device, dtype=torch.int64), last)
    # For each pixel, where its group of equal values ends.
    group = places.flip(-1).cummin(-1).values.flip(-1)
    precision = (inside / counts).gather(-1, group)
    gained = inside.diff(dim=-1, prepend=torch.zeros_like(inside[..., :1]))
    return (precision * gained).sum(-1) / masked[..., 0]


def box_iou(ours: Float[Tensor, "A 4"], theirs: Float[Tensor, "B 4"]) -> Float[Tensor, "A B"]:
    """Intersection over union of half-open boxes (left, top, right, bottom): 0 to 1."""
    corner, opposite = torch.maximum(ours[:, None, :2], theirs[:, :2]), torch.minimum(ours[:, None, 2:], theirs[:, 2:])
    both = (opposite - corner).clamp(min=0).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(-1) for boxes in (ours, theirs)]
    either = areas[0][:, None] + areas[1] - both
    return both / either.clamp(min=torch.finfo(both.dtype).tiny)


def box_overlaps(
    heatmap: Float[Tensor, "height width"], boxes: Float[Tensor, "B 4"], thresholds: Sequence[float] = THRESHOLDS
) -> Float[Tensor, " T"]:
    """At each threshold, the best overlap of a true box with the box around a connected region of the map: 0 to 1.

    What ``box_accuracy`` counts. Source: Choe et al., Evaluating Weakly Supervised Object Localization Methods Right
    (arXiv 2001.07437), MaxBoxAccV2, where all regions count. Departure: thresholds are shares of the strongest evidence, not
    of the span from the weakest to the strongest, so that zero stays zero.
    """
    values = heatmap.nan_to_num(nan=-math.inf).cpu()
    strongest = float(values.max())
    found = []
    for threshold in thresholds:
        regions = bounding_boxes(values >= threshold * strongest, values) if strongest > 0 else ()
        overlaps = box_iou(torch.tensor(regions, dtype=torch.float64, device="cpu").reshape(-1, 4), boxes.double().cpu())
        found.append(overlaps.amax() if overlaps.numel() else torch.zeros((), dtype=torch.float64, device="cpu"))
    return torch.stack(found)


def box_accuracy(overlaps: Float[Tensor, "N T"], least: Sequence[float] = (0.3, 0.5, 0.7)) -> float:
    """The share of images whose box fits, at the threshold that is best for all; the mean over what counts as a fit.

    0 to 1, higher is better. MaxBoxAccV2 of Choe et al. (arXiv 2001.07437); with ``least=(0.5,)`` MaxBoxAcc.

    Args:
        overlaps: of each image at each threshold, from ``box_overlaps``.
        least: overlaps that count as a fit.
    """
    best = [(overlaps >= delta).double().mean(0).amax() for delta in least]
    return float(torch.stack(best).mean())


def pck(
    points: Float[Tensor, "*batch P 2"],
    truth: Float[Tensor, "*batch P 2"],
    visible: Bool[Tensor, "*batch P"],
    length: Float[Tensor, "*batch"],
    alpha: float = 0.1,
) -> Float[Tensor, "*batch"]:
    """The share of the visible keypoints found within ``alpha`` times a reference length: 0 to 1, higher is better.

    Source: Yang and Ramanan, Articulated Human Detection with Flexible Mixtures of Parts (TPAMI 2013), where the length is the
    longer side of the object's box.

    Raises:
        EmptyMask: an image has no visible keypoint.
    """
    if not visible.any(-1).all():
        raise EmptyMask("An image has no visible keypoint; leave such images out.")
    right = (torch.linalg.vector_norm(points - truth, dim=-1) <= alpha * length[..., None]) & visible
    share: Tensor = right.sum(-1).float() / visible.sum(-1).float()
    return share


def check_masks(masks: Bool[Tensor, "*batch height width"]) -> None:
    """Refuse masks without a pixel.

    Raises:
        EmptyMask: there is one.
    """
    if not masks.flatten(-2).any(-1).all():
        raise EmptyMask(f"A mask of {tuple(masks.shape[-2:])} pixels is empty; leave such images out.")


def _ranked(
    heatmaps: Tensor, masks: Tensor
) -> tuple[Float[Tensor, "*batch P"], Float[Tensor, " P"], Bool[Tensor, "*batch P"], Float[Tensor, "*batch 1"]]:
    """Strongest first: masked pixels so far, pixels so far, whether a group of equal values ends; all masked."""
    check_masks(masks)
    values, order = heatmaps.nan_to_num(nan=-math.inf).flatten(-2).sort(-1, descending=True)
    chosen = masks.flatten(-2).gather(-1, order).double()
    inside = chosen.cumsum(-1)
    counts = torch.arange(1, values.shape[-1] + 1, device=values.device, dtype=torch.float64)
    ends = torch.ones_like(values, dtype=torch.bool)
    ends[..., :-1] = values[..., 1:] != values[..., :-1]
    return inside, counts, ends, inside[..., -1:]
