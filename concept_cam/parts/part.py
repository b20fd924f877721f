"""What is found of an image's parts: where each is, what it is like, or that it is not to be seen."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Bool, Float
from safetensors.torch import save
from torch import Tensor

from concept_cam.errors import UnknownConcept, did_you_mean, one_line
from concept_cam.files import write_file
from concept_cam.images import Placement
from concept_cam.regions import Box
from concept_cam.runlengths import compressed, run_lengths
from concept_cam.stored import MOST_CELLS, exactly, mapping, number, numbers, placed, read_stored, refused, sides, texts


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
        outline: the mask as COCO's compressed run lengths.
    """

    name: str
    visible: bool
    confidence: float
    keypoint: tuple[float, float] | None
    box: Box | None
    mask: Bool[Tensor, "height width"] | None
    attributes: Mapping[str, AttributeReading]
    map: Float[Tensor, "rows cols"]

    @cached_property
    def outline(self) -> Mapping[str, Any]:
        """The mask as COCO's compressed run lengths, ``{"size": [height, width], "counts": text}``; empty if not visible."""
        return {} if self.mask is None else compressed(self.mask.cpu())


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

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the finding to one ``.safetensors`` file, whole or not at all.

        Raises:
            OutputError: it cannot be written; an older file of that name is as it was.
        """
        parts = [
            {
                "name": part.name,
                "confidence": part.confidence,
                "keypoint": part.keypoint,
                "box": part.box,
                "mask": part.outline or None,
                "attributes": {name: [found.value, found.confidence] for name, found in part.attributes.items()},
            }
            for part in self.parts
        ]
        about = {
            "parent": self.parent,
            "parts": parts,
            "placement": self.placement.as_dict(),
            "provenance": dict(self.provenance),
        }
        maps = torch.stack([part.map for part in self.parts]).cpu()
        return write_file(path, save({"maps": maps}, {_KEY: json.dumps(about)}))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PartFinding:
        """Read what ``save`` wrote.

        Raises:
            OutputError: it cannot be read, or something of it is not what ``save`` could have written.

        Example:
            >>> import tempfile
            >>> from concept_cam import world
            >>> from concept_cam.parts import PartFinding, find_parts, read_parts
            >>> plate = world.draw_species("ember finch", seed=3)
            >>> found = find_parts(world.localizer(), plate.image, read_parts("world-parts"))
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     again = PartFinding.load(found.save(f"{folder}/plate.safetensors"))
            >>> again["crown"].attributes == found["crown"].attributes, again["crown"].box == found["crown"].box
            (True, True)
        """
        with refused(path, "finding of parts"):
            about, tensors = read_stored(path, _KEY)
            exactly(about, ("parent", "parts", "placement", "provenance"), "the finding")
            exactly(tensors, ("maps",), "the file")
            held, maps = about["parts"], tensors["maps"]
            if not isinstance(held, list) or maps.ndim != 3 or len(maps) != len(held):
                raise ValueError(f"it has maps of shape {tuple(maps.shape)}, which are not those of its parts")
            grid = sides(list(maps.shape[1:]), "a map", MOST_CELLS)
            placement = placed(about["placement"], grid)
            height, width = placement.image_size
            if height * width * len(held) > _MOST_PIXELS:
                raise ValueError(f"{len(held)} masks of {height} x {width} pixels are more than {_MOST_PIXELS:,} pixels")
            parts = tuple(_part(mapping(one, "a part"), map_, placement) for one, map_ in zip(held, maps, strict=True))
            (parent,) = texts([about["parent"]], "parent")
            return cls(parent, parts, placement, mapping(about["provenance"], "provenance"))


_KEY = "parts"

_MOST_PIXELS = 2**31
"""Of all masks of a finding that is read."""


def _part(held: Mapping[str, Any], map_: Float[Tensor, "rows cols"], placement: Placement) -> Part:
    """A part as it was saved.

    Raises:
        ValueError: it is none.
    """
    exactly(held, ("name", "confidence", "keypoint", "box", "mask", "attributes"), "a part")
    (name,) = texts([held["name"]], "the name of a part")
    confidence = number(held["confidence"], "confidence", 0, 1)
    attributes = {key: _reading(value) for key, value in mapping(held["attributes"], "attributes").items()}
    if held["mask"] is None:
        return Part(name, False, confidence, None, None, None, attributes, map_)
    height, width = placement.image_size
    x, y = numbers(held["keypoint"], "keypoint", 0, max(height, width), 2)
    left, top, right, bottom = (int(side) for side in numbers(held["box"], "box", 0, max(height, width), 4))
    if not (left < right <= width and top < bottom <= height):
        raise ValueError(f"box is {held['box']}; expected left, top, right, bottom in an image of {height} x {width} pixels")
    mask = torch.from_numpy(run_lengths(mapping(held["mask"], "mask"), placement.image_size).copy())
    return Part(name, True, confidence, (x, y), (left, top, right, bottom), mask, attributes, map_)


def _reading(held: Any) -> AttributeReading:
    if not isinstance(held, list) or len(held) != 2:
        raise ValueError(f"an attribute is {one_line(held, 60)}; expected a value and its confidence")
    return AttributeReading(texts([held[0]], "a value")[0], number(held[1], "confidence", 0, 1.001))
