"""Regions as data sets store them: grey levels of an image, polygons, run lengths, boxes. They go to other processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw
from torch import Tensor

from concept_cam.datasets.example import Region
from concept_cam.datasets.files import size_of
from concept_cam.errors import DatasetError, one_line
from concept_cam.images import read_levels
from concept_cam.regions import Box
from concept_cam.runlengths import run_lengths

_FORGIVEN = 1.0
"""Pixels by which a polygon may extend beyond its image, because annotation tools round."""


def _above_zero(levels: Any) -> Any:
    """The levels that are part of a region, as a rule."""
    return levels > 0


def of_levels(file: Path, image: Path, wanted: Callable[[Any], Any] = _above_zero) -> Region:
    """The region of a mask image: the pixels whose level (or palette index) is selected, by default all above zero.

    Args:
        file: the mask of the upright image.
        image: the image, which must have the size of the mask.
        wanted: selects levels.
    """
    return partial(_in_levels, file, image, wanted)


def _in_levels(file: Path, image: Path, wanted: Callable[[Any], Any]) -> Bool[Tensor, "height width"]:
    # Both sizes from the headers, before memory is allocated.
    (height, width), whole = size_of(file, "mask"), size_of(image)
    if (height, width) != whole:
        raise DatasetError(f"{file}: the mask is {height} x {width}, the image {whole[0]} x {whole[1]} (upright).")
    return torch.from_numpy(np.ascontiguousarray(wanted(read_levels(file, kind=DatasetError))))


def of_boxes(boxes: Sequence[Box], size: tuple[int, int]) -> Region:
    """The region inside any of several boxes, on an image of (height, width).

    Example:
        >>> of_boxes([(0, 0, 1, 2)], (2, 2))().tolist()
        [[True, False], [True, False]]
    """
    return partial(_in_boxes, boxes, size)


def _in_boxes(boxes: Sequence[Box], size: tuple[int, int]) -> Bool[Tensor, "height width"]:
    inside = torch.zeros(size, dtype=torch.bool, device="cpu")
    for left, top, right, bottom in boxes:
        inside[top:bottom, left:right] = True
    return inside


def union(regions: Sequence[Region]) -> Region:
    """The region inside any of several regions.

    Example:
        >>> union([of_boxes([(0, 0, 1, 1)], (1, 3)), of_boxes([(2, 0, 3, 1)], (1, 3))])().tolist()
        [[True, False, True]]
    """
    return regions[0] if len(regions) == 1 else partial(_in_any, regions)


def _in_any(regions: Sequence[Region]) -> Bool[Tensor, "height width"]:
    first, *others = (each() for each in regions)
    for other in others:
        if other.shape != first.shape:
            raise ValueError(f"it is {list(first.shape)} and {list(other.shape)} pixels large")
        first = first | other
    return first


def of_coco(outlines: Sequence[Any], size: tuple[int, int]) -> Region:
    """The union of COCO's polygons and run lengths, on an image of (height, width).

    Polygons are filled by Pillow; border pixels may differ from those of pycocotools. Run lengths are exact.

    Args:
        outlines: the values of ``segmentation`` in annotations.
        size: (height, width) of the image.

    Raises:
        ValueError: an outline is neither a list of polygons nor run lengths, or a polygon is malformed.

    Example:
        >>> of_coco([{"size": [1, 3], "counts": [1, 2]}], (1, 3))().tolist()
        [[False, True, True]]
    """
    packed = [outline for outline in outlines if isinstance(outline, Mapping)]
    polygons = [polygon for outline in outlines if not isinstance(outline, Mapping) for polygon in _polygons(outline, size)]
    return partial(_in_outlines, polygons, packed, size)


def _in_outlines(
    polygons: Sequence[Float[np.ndarray, " coordinates"]], packed: Sequence[Mapping[str, Any]], size: tuple[int, int]
) -> Bool[Tensor, "height width"]:
    canvas = Image.new("1", (size[1], size[0]))
    pen = ImageDraw.Draw(canvas)
    for polygon in polygons:
        pen.polygon(polygon.tolist(), fill=1)
    inside = np.array(canvas)
    for outline in packed:
        inside |= run_lengths(outline, size)
    return torch.from_numpy(inside)


def _polygons(outline: Any, size: tuple[int, int]) -> Iterable[Float[np.ndarray, " coordinates"]]:
    """Polygons as arrays of x and y in turn.

    Raises:
        ValueError: a polygon is not a list of three or more points on the image.
    """
    if not isinstance(outline, list):
        raise ValueError(f"an outline is {_shown(outline)}; expected a list of polygons, or run lengths")
    height, width = size
    for polygon in outline:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"a polygon is {_shown(polygon)}; expected a list of x and y in turn, three points or more")
        points = np.asarray(polygon)
        if points.ndim != 1 or points.dtype.kind not in "iuf":
            raise ValueError(f"a polygon is {_shown(polygon)}; expected a list of numbers")
        x, y = points.astype(np.float64).reshape(-1, 2).T
        # NaN is in no range.
        if not ((x >= -_FORGIVEN) & (x <= width + _FORGIVEN) & (y >= -_FORGIVEN) & (y <= height + _FORGIVEN)).all():
            raise ValueError(f"the polygon {_shown(polygon)} is not inside an image of {width} x {height}")
        yield points.astype(np.float64)


def _shown(value: Any) -> str:
    count = f" ({len(value)} of them)" if isinstance(value, list) else ""
    return one_line(repr(value), 50) + count
