"""Where the evidence of one picture lies with respect to its object, at the resolution that a map has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from concept_cam.images import Placement

_PIXELS = 8
"""How many pixels of the canvas a patch is wide: maps say nothing finer."""

_BORDER = 0.08
"""The outer part of a picture's sides where frames, captions and watermarks are."""

ALIGNED = 24
"""The side of maps that are aligned by their objects."""


@final
@dataclass(frozen=True)
class Place:
    """Shares of the positive evidence, 0 to 1.

    Attributes:
        off_object: off the object, by more than half a patch: nearer than that a map cannot tell.
        off_area: the share of the picture's area that is; what chance would give.
        border: off the object and in the outermost 8 % along a side.
        aligned: the map in the frame of the object's box; of the whole picture where no object is known.
    """

    off_object: float | None
    off_area: float | None
    border: float
    aligned: Float[Tensor, "side side"]

    @classmethod
    def of(cls, grid: Float[Tensor, "rows cols"], placement: Placement, region: Bool[Tensor, "height width"] | None) -> Place:
        """Of one map; the region is the object, in pixels of the picture."""
        left, top, right, bottom = placement.window
        height, width = placement.picture_size
        patch = max((bottom - top) / grid.shape[0], (right - left) / grid.shape[1])
        size = tuple(max(1, round(side * _PIXELS / patch)) for side in (height, width))
        canvas = placement.scaled((size[0], size[1])).project(grid).nan_to_num(nan=0.0)
        positive = canvas.clamp(min=0)
        total = float(positive.sum()) or 1.0
        edge = torch.ones_like(positive, dtype=torch.bool)
        rows, cols = (max(1, round(_BORDER * side)) for side in size)
        edge[rows : size[0] - rows, cols : size[1] - cols] = False
        if region is None:
            return cls(None, None, float(positive[edge].sum()) / total, _resized(canvas))
        object_ = F.adaptive_max_pool2d(region[None, None].float(), (size[0], size[1]))
        near = F.max_pool2d(object_, _PIXELS + 1, stride=1, padding=_PIXELS // 2)[0, 0] > 0
        off = ~near
        down, across = object_[0, 0].any(1).nonzero(), object_[0, 0].any(0).nonzero()
        box = canvas[int(down[0]) : int(down[-1]) + 1, int(across[0]) : int(across[-1]) + 1]
        return cls(
            float(positive[off].sum()) / total,
            float(off.float().mean()),
            float(positive[off & edge].sum()) / total,
            _resized(box),
        )


def _resized(canvas: Float[Tensor, "height width"]) -> Float[Tensor, "side side"]:
    return F.interpolate(canvas[None, None], (ALIGNED, ALIGNED), mode="bilinear", align_corners=False, antialias=True)[0, 0]
