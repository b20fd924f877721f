"""Where the evidence of one image lies with respect to its object, at the resolution that a map has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from concept_cam.images import Placement

_PIXELS = 8
"""How many pixels of the ground a patch is wide: maps say nothing finer."""

_LARGEST = 4_000_000
"""Pixels of a ground at most: of a sliver of 1 x 5000 pixels the model sees a piece, at a great scale."""

_BORDER = 0.08
"""The outer part of an image's sides where frames, captions and watermarks are."""

ALIGNED = 24
"""The side of maps that are aligned."""


@final
@dataclass(frozen=True)
class EvidenceShares:
    """Shares of the positive evidence on an image, 0 to 1; None where they are not known.

    Attributes:
        energy: on the object. None without an object or without positive evidence, as is the next.
        off_object: more than a patch away from the object, along x or y: a patch that touches it reaches so far. Of an object
            that the model did not see, all.
        off_area: the share of the area, of what the model saw of the image, that is so far away; what chance would give.
            None without an object.
        border: off the object, and in the outermost 8 % along a side of the image; without an object, all there.
            None without positive evidence.
    """

    energy: float | None
    off_object: float | None
    off_area: float | None
    border: float | None


@final
@dataclass(frozen=True, eq=False)
class ObjectMask:
    """An image and the object on it, some pixels to a patch.

    Attributes:
        placement: of the frame on the ground.
        patch: its longer side, in pixels of the ground.
        object: how much of each pixel the object takes, 0 to 1; None if it is not known.
    """

    placement: Placement
    patch: int
    object: Float[Tensor, "height width"] | None

    @classmethod
    def of(cls, placement: Placement, region: Bool[Tensor, "height width"] | None, grid: Sequence[int]) -> ObjectMask:
        """The object on an image, with the frame that the maps are made of.

        Args:
            placement: of the frame on the image.
            region: True on the object, one value for each pixel of the image; None if the object is not known.
            grid: (rows, cols) of the maps.
        """
        height, width = placement.image_size
        patch = max(placement.cell_size(grid))
        scale = min(_PIXELS / patch, math.sqrt(_LARGEST / (height * width)))
        size = max(1, round(height * scale)), max(1, round(width * scale))
        object_ = None if region is None else F.adaptive_avg_pool2d(region[None].float(), size)[0]
        return cls(placement.scaled(size), max(1, round(patch * scale)), object_)

    def shares(self, grid: Float[Tensor, "rows cols"]) -> EvidenceShares:
        """Where the positive evidence of a map lies."""
        canvas = self.placement.project(grid)
        seen, positive = canvas.isfinite(), canvas.nan_to_num(nan=0.0).clamp(min=0)
        total = float(positive.sum())
        off = torch.ones_like(seen) if self.object is None else ~self._near(self.object)
        height, width = seen.shape
        rows, cols = (max(1, round(_BORDER * side)) for side in (height, width))
        edge = torch.ones_like(seen)
        edge[rows : height - rows, cols : width - cols] = False

        def share(where: Tensor) -> float | None:
            return float((positive * where).sum()) / total if total > 0 else None

        border = share(off & edge)
        if self.object is None:
            return EvidenceShares(None, None, None, border)
        return EvidenceShares(share(self.object), share(off), float(off[seen].double().mean()), border)

    def whole(self, grid: Float[Tensor, "rows cols"]) -> Float[Tensor, "side side"]:
        """A map in the frame of the whole image; zero where the model did not see it."""
        return _resized(self.placement.project(grid).nan_to_num(nan=0.0))

    def aligned(self, grid: Float[Tensor, "rows cols"]) -> Float[Tensor, "side side"]:
        """A map in the frame of the object's box; of the whole image where no object is known."""
        if self.object is None:
            return self.whole(grid)
        down, across = (self.object.amax(axis).nonzero() for axis in (1, 0))
        canvas = self.placement.project(grid).nan_to_num(nan=0.0)
        return _resized(canvas[int(down[0]) : int(down[-1]) + 1, int(across[0]) : int(across[-1]) + 1])

    def _near(self, object_: Float[Tensor, "height width"]) -> Bool[Tensor, "height width"]:
        """What is at most a patch away along x and along y."""
        reach, side = self.patch, 2 * self.patch + 1
        down = F.max_pool2d(object_[None], (side, 1), stride=1, padding=(reach, 0))
        return F.max_pool2d(down, (1, side), stride=1, padding=(0, reach))[0] > 0


def _resized(canvas: Float[Tensor, "height width"]) -> Float[Tensor, "side side"]:
    return F.interpolate(canvas[None, None], (ALIGNED, ALIGNED), mode="bilinear", align_corners=False, antialias=True)[0, 0]


def shared(
    ours: Float[Tensor, "*batch rows cols"], theirs: Float[Tensor, "*batch rows cols"]
) -> Float[Tensor, "*batch rows cols"]:
    """Where two signed maps agree: the weaker of the two, each scaled to its largest magnitude; 0 where their signs differ.

    -1 to 1; above 0 both are evidence for the target, below 0 both against it.
    """
    ours, theirs = (m / m.abs().amax((-2, -1), keepdim=True).clamp(min=torch.finfo(m.dtype).tiny) for m in (ours, theirs))
    weaker = ours.sign() * torch.minimum(ours.abs(), theirs.abs())
    return torch.where(ours * theirs > 0, weaker, 0.0)
