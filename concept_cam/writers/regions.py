"""The regions of an image that a result marks: what writers for annotation tools need, of both kinds of results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias, final

from jaxtyping import Bool
from torch import Tensor

from concept_cam.parts.part import PartFinding
from concept_cam.regions import Box
from concept_cam.result import Localization
from concept_cam.runlengths import compressed

Result: TypeAlias = Localization | PartFinding
"""What writers take."""

PEAK = "peak"
"""The one keypoint of a localization."""


@final
@dataclass(frozen=True, eq=False)
class Region:
    """A region that is marked.

    Attributes:
        place: its index among ``Regions.names``.
        name: of the part; of a localization, ``PEAK``.
        score: the confidence of a part, or the target's score.
        keypoint: (x, y) in pixels.
        box: half-open (left, top, right, bottom) in pixels.
        mask: its pixels.
        outline: the mask as COCO's compressed run lengths.
        attributes: what the part looks like, by attribute.
    """

    place: int
    name: str
    score: float
    keypoint: tuple[float, float]
    box: Box
    mask: Bool[Tensor, "height width"]
    outline: Mapping[str, Any]
    attributes: Mapping[str, str]


@final
@dataclass(frozen=True, eq=False)
class Regions:
    """The regions of one image.

    Attributes:
        whole: what they are regions of: the parent of the parts, or the target.
        names: of all parts that were looked for; of a localization ``(PEAK,)``.
        size: (height, width) of the image.
        seen: the regions that are visible.
        kind: ``parts`` or ``map``.
    """

    whole: str
    names: tuple[str, ...]
    size: tuple[int, int]
    seen: tuple[Region, ...]
    kind: str = "parts"


def regions_of(result: Result) -> Regions:
    """The visible parts of a finding; of a localization the mask of its map, if there is evidence for the target.

    Example:
        >>> from concept_cam import world
        >>> plate = world.draw_species("ember finch", seed=3)
        >>> found = regions_of(world.localizer()(plate.image, "ember finch", "frost finch"))
        >>> found.whole, found.names, len(found.seen)
        ('ember finch', ('peak',), 1)
    """
    if isinstance(result, PartFinding):
        seen = tuple(
            Region(
                index,
                part.name,
                part.confidence,
                part.keypoint,
                part.box,
                part.mask,
                part.outline,
                {name: reading.value for name, reading in part.attributes.items()},
            )
            for index, part in enumerate(result.parts)
            if part.visible and part.keypoint is not None and part.box is not None and part.mask is not None
        )
        return Regions(result.parent, tuple(part.name for part in result.parts), result.placement.image_size, seen)
    target, boxes = result.comparison.target, boxes_of(result)
    if not boxes:
        return Regions(target, (PEAK,), result.placement.image_size, (), "map")
    mask = marked(result)[0].cpu()
    one = Region(0, PEAK, result.scores[target], peak_of(result), around(boxes), mask, compressed(mask), {})
    return Regions(target, (PEAK,), result.placement.image_size, (one,), "map")


def boxes_of(result: Localization) -> tuple[Box, ...]:
    """``result.boxes()``, which several writers ask for in turn."""
    return marked(result)[1]


@lru_cache(maxsize=1)
def peak_of(result: Localization) -> tuple[float, float]:
    """``result.peak()``, which several writers ask for in turn."""
    return result.peak()


@lru_cache(maxsize=1)
def marked(result: Localization) -> tuple[Bool[Tensor, "height width"], tuple[Box, ...]]:
    """``result.mask()`` and ``result.boxes()``: of a large image they take long.

    Args:
        result: the last one is remembered.
    """
    return result.evidence.regions()


def around(boxes: tuple[Box, ...]) -> Box:
    """The box around several."""
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def sides(box: Box) -> list[int]:
    """A box as (left, top, width, height)."""
    left, top, right, bottom = box
    return [left, top, right - left, bottom - top]
