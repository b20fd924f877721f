"""Localization metrics: is the evidence where it should be? Each docstring states range, direction and chance level.

Maps are signed, in the pixels of the image. Pixels that the model did not see are NaN and count as no evidence. All functions
take any number of maps of one size. With an empty mask there is neither a hit nor a miss: it raises ``EmptyMask``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from concept_cam.errors import EmptyMask, OptionError
from concept_cam.metrics.shapes import check_shapes
from concept_cam.regions import bounding_boxes

THRESHOLDS = tuple(step / 20 for step in range(1, 20))
"""Shares of the map's maximum at which ``box_overlaps`` draws boxes."""


def energy_inside(
    heatmaps: Float[Tensor, "*batch height width"], masks: Bool[Tensor, "*batch height width"]
) -> Float[Tensor, "*batch"]:
    """Share of the positive evidence that lies inside the mask: 0 to 1, higher is better.

    The energy-based pointing game of Score-CAM (Wang et al., arXiv 1910.01279, section 4.3) with a mask in place of the box.
    Chance is the area share of the mask. A map without positive evidence has 0.

    Raises:
        EmptyMask: a mask has no pixel.
        OptionError: maps and masks differ in shape.

    Example:
        >>> import torch
        >>> energy_inside(torch.tensor([[3.0, 1.0, -2.0]]), torch.tensor([[True, False, True]]))
        tensor(0.7500, dtype=torch.float64)
    """
    _check(heatmaps, masks)
    positive = heatmaps.nan_to_num(nan=0.0).clamp(min=0).double()
    total = positive.sum((-2, -1))
    return (positive * masks).sum((-2, -1)) / torch.where(total > 0, total, 1)


def pointing_hit(
    peaks: Float[Tensor, "*batch 2"], masks: Bool[Tensor, "*batch height width"], tolerance: float = 0.0
) -> Bool[Tensor, "*batch"]:
    """Whether a peak (x, y) lies in the mask, or within ``tolerance`` pixels of it along x and along y.

    The pointing game (Zhang et al., arXiv 1608.00507); its tolerance is measured along the axes here. With a tolerance of 0
    the function says whether a keypoint lies in its part. True is better; chance is the share of all possible peaks that
    would hit.

    Args:
        peaks: points (x, y) in pixels; the centre of the first pixel is (0.5, 0.5).
        masks: where the peak should be.
        tolerance: in pixels, 0 or more.

    Raises:
        EmptyMask: a mask has no pixel.
        OptionError: there is not one peak for each mask.

    Example:
        >>> import torch
        >>> mask, peak = torch.tensor([[False, True]]), torch.tensor([0.5, 0.5])
        >>> pointing_hit(peak, mask), pointing_hit(peak, mask, tolerance=1)
        (tensor(False), tensor(True))
    """
    check_shapes(peaks=(peaks, "*batch 2"), masks=(masks, "*batch height width"))
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
    """Intersection over union of the mask and the pixels that reach a share of the map's maximum: 0 to 1, higher is better.

    A map that marks the whole image has the area share of the mask. A map without positive evidence has 0.

    Args:
        heatmaps: signed maps.
        masks: what the maps should mark.
        threshold: share of the map's maximum, above 0 and at most 1.

    Raises:
        EmptyMask: a mask has no pixel.
        OptionError: maps and masks differ in shape, or the threshold is out of range.

    Example:
        >>> import torch
        >>> iou(torch.tensor([[1.0, 0.6, 0.1]]), torch.tensor([[True, False, False]]))
        tensor(0.5000)
    """
    _check(heatmaps, masks)
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
    """Largest intersection over union at any threshold, negative ones included: 0 to 1, higher is better.

    It is never below the area share of the mask, which marking the whole image gives. It is an upper bound, because the
    threshold is chosen with the mask in hand.

    Raises:
        EmptyMask: a mask has no pixel.
        OptionError: maps and masks differ in shape.

    Example:
        >>> import torch
        >>> best_iou(torch.tensor([[1.0, 0.6, 0.1]]), torch.tensor([[True, False, False]]))
        tensor(1., dtype=torch.float64)
    """
    inside, counts, ends, masked = _ranked(heatmaps, masks)
    overlap = inside / (counts + masked - inside)
    return torch.where(ends, overlap, 0).amax(-1)


def f1_of(overlap: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """F1 score (Dice) of an intersection over union, 2 IoU / (1 + IoU); the best threshold is the same for both.

    Example:
        >>> import torch
        >>> f1_of(torch.tensor(0.5))
        tensor(0.6667)
    """
    return 2 * overlap / (1 + overlap)


def average_precision(
    heatmaps: Float[Tensor, "*batch height width"], masks: Bool[Tensor, "*batch height width"]
) -> Float[Tensor, "*batch"]:
    """Average precision of the pixels, ranked by their evidence: 0 to 1, higher is better.

    Defined as in scikit-learn and torchmetrics: the area under the steps of the precision-recall curve, equal values together.
    Chance is the area share of the mask. Pixels that the model did not see rank last.

    Raises:
        EmptyMask: a mask has no pixel.
        OptionError: maps and masks differ in shape.

    Example:
        >>> import torch
        >>> average_precision(torch.tensor([[1.0, 0.6, 0.1]]), torch.tensor([[False, True, False]]))
        tensor(0.5000, dtype=torch.float64)
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
    """Intersection over union of every pair of half-open boxes (left, top, right, bottom): 0 to 1.

    Raises:
        OptionError: a box does not have four numbers.

    Example:
        >>> import torch
        >>> box_iou(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[0.0, 0.0, 2.0, 1.0], [2.0, 2.0, 3.0, 3.0]]))
        tensor([[0.5000, 0.0000]])
    """
    check_shapes(ours=(ours, "A 4"), theirs=(theirs, "B 4"))
    corner, opposite = torch.maximum(ours[:, None, :2], theirs[:, :2]), torch.minimum(ours[:, None, 2:], theirs[:, 2:])
    both = (opposite - corner).clamp(min=0).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(-1) for boxes in (ours, theirs)]
    either = areas[0][:, None] + areas[1] - both
    return both / either.clamp(min=torch.finfo(both.dtype).tiny)


def box_overlaps(
    heatmap: Float[Tensor, "height width"], boxes: Float[Tensor, "B 4"], thresholds: Sequence[float] = THRESHOLDS
) -> Float[Tensor, " T"]:
    """Best overlap, at each threshold, of a true box with the box around a connected region of the map: 0 to 1.

    ``box_accuracy`` takes these overlaps. Source: Choe et al., Evaluating Weakly Supervised Object Localization Methods Right
    (arXiv 2001.07437), MaxBoxAccV2, where all regions count. Departure: a threshold is a share of the map's maximum, not of
    the range from its minimum to its maximum, so that zero stays zero.

    Args:
        heatmap: one signed map.
        boxes: true boxes, half-open (left, top, right, bottom).
        thresholds: shares of the map's maximum.

    Raises:
        OptionError: the map does not have two axes, or a box does not have four numbers.

    Example:
        >>> import torch
        >>> box_overlaps(torch.tensor([[1.0, 0.6, 0.1]]), torch.tensor([[0.0, 0.0, 1.0, 1.0]]), thresholds=(0.5, 0.9))
        tensor([0.5000, 1.0000], dtype=torch.float64)
    """
    check_shapes(heatmap=(heatmap, "height width"), boxes=(boxes, "B 4"))
    values = heatmap.nan_to_num(nan=-math.inf).cpu()
    strongest = float(values.max())
    found = []
    for threshold in thresholds:
        regions = bounding_boxes(values >= threshold * strongest, values) if strongest > 0 else ()
        overlaps = box_iou(torch.tensor(regions, dtype=torch.float64, device="cpu").reshape(-1, 4), boxes.double().cpu())
        found.append(overlaps.amax() if overlaps.numel() else torch.zeros((), dtype=torch.float64, device="cpu"))
    return torch.stack(found)


def box_accuracy(overlaps: Float[Tensor, "N T"], least: Sequence[float] = (0.3, 0.5, 0.7)) -> float:
    """Share of the images whose box fits, at the one threshold that is best for all images: 0 to 1, higher is better.

    MaxBoxAccV2 of Choe et al. (arXiv 2001.07437), the mean over several overlaps that count as a fit; with ``least=(0.5,)``
    MaxBoxAcc.

    Args:
        overlaps: of each image at each threshold, from ``box_overlaps``.
        least: the overlaps from which on a box fits.

    Raises:
        OptionError: the overlaps do not have two axes.

    Example:
        >>> import torch
        >>> box_accuracy(torch.tensor([[0.6, 0.2], [0.6, 0.9]]), least=(0.5,))
        1.0
    """
    check_shapes(overlaps=(overlaps, "N T"))
    best = [(overlaps >= delta).double().mean(0).amax() for delta in least]
    return float(torch.stack(best).mean())


def pck(
    points: Float[Tensor, "*batch P 2"],
    truth: Float[Tensor, "*batch P 2"],
    visible: Bool[Tensor, "*batch P"],
    length: Float[Tensor, "*batch"],
    tolerance: float = 0.1,
) -> Float[Tensor, "*batch"]:
    """Share of the visible keypoints that are found within ``tolerance`` times a reference length: 0 to 1, higher is better.

    PCK (percentage of correct keypoints) of Yang and Ramanan, Articulated Human Detection with Flexible Mixtures of Parts
    (TPAMI 2013), where the length is the longer side of the object's box.

    Args:
        points: predicted keypoints (x, y).
        truth: true keypoints, in the same order.
        visible: which true keypoints are visible; the others do not count.
        length: reference length of each image, in pixels.
        tolerance: share of the length; PCK@0.1 by default.

    Raises:
        EmptyMask: an image has no visible keypoint.
        OptionError: the arguments differ in shape.

    Example:
        >>> import torch
        >>> truth, visible = torch.tensor([[10.0, 10.0], [40.0, 20.0]]), torch.tensor([True, True])
        >>> pck(truth + torch.tensor([[3.0, 0.0], [0.0, 9.0]]), truth, visible, length=torch.tensor(50.0))
        tensor(0.5000)
    """
    axes = "*batch points 2"
    check_shapes(
        points=(points, axes), truth=(truth, axes), visible=(visible, "*batch points"), length=(length[..., None], "*batch 1")
    )
    if not visible.any(-1).all():
        raise EmptyMask("An image has no visible keypoint; skip such images.")
    right = (torch.linalg.vector_norm(points - truth, dim=-1) <= tolerance * length[..., None]) & visible
    share: Tensor = right.sum(-1).float() / visible.sum(-1).float()
    return share


def check_masks(masks: Bool[Tensor, "*batch height width"]) -> None:
    """Raise EmptyMask if a mask has no pixel."""
    if not masks.flatten(-2).any(-1).all():
        raise EmptyMask(f"A mask of {tuple(masks.shape[-2:])} pixels is empty; skip such images.")


def _check(heatmaps: Tensor, masks: Tensor) -> None:
    """Raise unless there is one mask of the same size for each map, and none of them is empty."""
    check_shapes(heatmaps=(heatmaps, "*batch height width"), masks=(masks, "*batch height width"))
    check_masks(masks)


def _ranked(
    heatmaps: Tensor, masks: Tensor
) -> tuple[Float[Tensor, "*batch P"], Float[Tensor, " P"], Bool[Tensor, "*batch P"], Float[Tensor, "*batch 1"]]:
    """Pixels ranked by evidence: masked pixels so far, pixels so far, whether a group of equal values ends; all masked."""
    _check(heatmaps, masks)
    values, order = heatmaps.nan_to_num(nan=-math.inf).flatten(-2).sort(-1, descending=True)
    chosen = masks.flatten(-2).gather(-1, order).double()
    inside = chosen.cumsum(-1)
    counts = torch.arange(1, values.shape[-1] + 1, device=values.device, dtype=torch.float64)
    ends = torch.ones_like(values, dtype=torch.bool)
    ends[..., :-1] = values[..., 1:] != values[..., :-1]
    return inside, counts, ends, inside[..., -1:]
