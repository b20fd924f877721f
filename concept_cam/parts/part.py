"""What is found of an image's parts: where each is, what it is like, or that it is not to be seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from jaxtyping import Bool, Float
from torch import Tensor

from concept_cam.errors import UnknownConcept, did_you_mean
from concept_cam.images import Placement
from concept_cam.regions import Box


@final
@dataclass(frozen=True)
class AttributeReading:
    """What an attribute of a part looks like: ``red``, with a confidence from 0 to 1 among the values that it could have."""

    value: str
    confidence: float


@final
@dataclass(frozen=True, eq=False)
class Part:
    """One part of one image.

    Attributes:
        name: as the vocabulary has it.
        visible: whether its evidence stands out; if not, ``keypoint``, ``box`` and ``mask`` are None.
        confidence: how far it does: 0 to 1, at least 0.5 if ``visible``.
        keypoint: (x, y) in pixels of the image.
        box: half-open (left, top, right, bottom) in pixels of the image.
        mask: its pixels.
        attributes: what is read of each, by name: ``{"colour": AttributeReading("red", 0.71)}``; empty if it is not visible.
        map: signed evidence for each patch.
    """

    name: str
    visible: bool
    confidence: float
    keypoint: tuple[float, float] | None
    box: Box | None
    mask: Bool[Tensor, "height width"] | None
    attributes: Mapping[str, AttributeReading]
    map: Float[Tensor, "rows cols"]


@final
@dataclass(frozen=True, eq=False)
class PartFinding:
    """The parts of one image, in the order of their vocabulary.

    Attributes:
        parent: what they are parts of: ``bird``.
        parts: all of them, those that are not visible as well.
        placement: which window of the image the maps show, and the image's size.
        provenance: model, site, method, templates, vocabulary, versions.
    """

    parent: str
    parts: tuple[Part, ...]
    placement: Placement
    provenance: Mapping[str, Any]

    def __getitem__(self, name: str) -> Part:
        """The part of that name.

        Raises:
            UnknownConcept: there is none; the message suggests the nearest spelling.
        """
        for part in self.parts:
            if part.name == name:
                return part
        raise UnknownConcept(f"No part {name!r}.{did_you_mean(name, [part.name for part in self.parts])}")
