"""Regions as data sets keep them: grey levels of a picture, polygons, run lengths, boxes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from PIL import Image, ImageDraw
from torch import Tensor

from concept_cam.datasets.example import Region
from concept_cam.errors import DatasetError
from concept_cam.images import read_levels
from concept_cam.regions import Box
from concept_cam.runlengths import run_lengths


def of_levels(file: Path, wanted: Callable[[Any], Any] = lambda levels: levels > 0) -> Region:
    """The pixels of a mask picture whose level (or palette index) is wanted; by default all but zero."""

    def region() -> Bool[Tensor, "height width"]:
        return torch.from_numpy(np.ascontiguousarray(wanted(read_levels(file, kind=DatasetError))))

    return region


def of_boxes(boxes: Sequence[Box], size: tuple[int, int]) -> Region:
    """The pixels inside any of some boxes, on a picture of (height, width)."""

    def region() -> Bool[Tensor, "height width"]:
        inside = torch.zeros(size, dtype=torch.bool, device="cpu")
        for left, top, right, bottom in boxes:
            inside[top:bottom, left:right] = True
        return inside

    return region


def of_coco(annotations: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> Region:
    """The union of COCO's polygons and run lengths, on a picture of (height, width).

    Polygons are filled by Pillow: at their borders pixels can differ from pycocotools'. Run lengths are exact.
    """

    def region() -> Bool[Tensor, "height width"]:
        canvas = Image.new("1", (size[1], size[0]))
        pen = ImageDraw.Draw(canvas)
        inside = np.zeros(size, dtype=bool)
        for annotation in annotations:
            outline = annotation.get("segmentation")
            if isinstance(outline, Mapping):
                inside |= run_lengths(outline, size)
                continue
            for polygon in outline or ():
                if len(polygon) >= 6:
                    pen.polygon([float(x) for x in polygon], fill=1)
        return torch.from_numpy(inside | np.array(canvas))

    return region
