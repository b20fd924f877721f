"""Plates that training never drew: each with its twin and the mask of the part in which the two differ."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL import Image

from concept_cam.files import write_file, write_image
from concept_cam.tables import table_of
from concept_cam.world.birds import ATTRIBUTES, PARTS, part_of, random_bird, species, twins
from concept_cam.world.renderer import HELD_OUT_STREAM, Plate, draw


@dataclass(frozen=True)
class TwinPlate:
    """A question with a known answer: where is this bird its own species and not its twin?

    Attributes:
        plate: the image and its labels.
        target, twin: the two names.
        attribute: the one in which their cards differ.
    """

    plate: Plate
    target: str
    twin: str
    attribute: str

    @property
    def mask(self) -> Bool[np.ndarray, "height width"]:
        """The mask of the part in which the twins differ."""
        return self.plate.mask(part_of(self.attribute))


def twin_plates(count: int, seed: int = 0, size: int = 192) -> Iterator[TwinPlate]:
    """Held-out plates of species, all pairs of twins in turn.

    Args:
        count: number of plates.
        seed: which plates.
        size: side of the images in pixels.
    """
    return (twin_plate(index, seed, size) for index in range(count))


def twin_plate(index: int, seed: int = 0, size: int = 192) -> TwinPlate:
    """A held-out plate of a species; the part in which the twins differ is at least partly visible.

    Args:
        index: number of the plate.
        seed: which plates.
        size: side of the images in pixels.
    """
    pairs = twins()
    target, twin, attribute = pairs[index % len(pairs)]
    seeds = ([HELD_OUT_STREAM, seed, index, attempt] for attempt in itertools.count())
    drawn = (draw(species()[target], np.random.default_rng(words), size) for words in seeds)
    return next(item for item in (TwinPlate(plate, target, twin, attribute) for plate in drawn) if item.mask.any())


def nameless_plates(count: int, seed: int = 0, size: int = 192) -> Iterator[Plate]:
    """Held-out plates of birds of no species.

    Args:
        count: number of plates.
        seed: which plates.
        size: side of the images in pixels.
    """
    for index in range(count):
        rng = np.random.default_rng([HELD_OUT_STREAM, seed, index, 1000])
        yield draw(random_bird(rng), rng, size)


MASKS = ".masks"
"""The folder of the masks. It is hidden, so that readers of folders do not read it as a class."""


def write_set(folder: Path, count: int, seed: int = 0, size: int = 384) -> Iterator[Path]:
    """Write held-out plates as a data set, one image each time the iterator advances.

    The folder is a data set in two layouts: a folder of classes, ``ember_finch/00000-ember-finch.png``; and tables with a row
    for each image, written at the end. ``labels.csv`` has the species as ``label``, its ``twin``, the whole bird as ``mask``,
    and the attribute in which the twins differ, its part, the habitat and the card. ``differences.csv`` is the same with the
    part in which the twins differ as ``mask``. Masks are in ``.masks/``: ``bird/``, ``difference/``, and ``parts/``, where the
    grey level of a pixel is 0 or 1 + the number of its part; ``parts.csv`` names the levels.

    Args:
        folder: the folder to write.
        count: number of images.
        seed: which plates.
        size: side of the images in pixels.

    Raises:
        OutputError: a file cannot be written.
    """
    levels: list[tuple[str, ...]] = [("level", "part"), *((str(i + 1), part) for i, part in enumerate(PARTS))]
    write_file(folder / "parts.csv", _csv(levels))
    about = ("attribute", "part", "habitat", "difference_mask", "parts_mask")
    labels: list[tuple[str, ...]] = [("file", "label", "twin", "mask", *about, *ATTRIBUTES)]
    differences: list[tuple[str, ...]] = [("file", "label", "twin", "mask", "attribute", "part")]
    for index, item in enumerate(twin_plates(count, seed, size)):
        name = f"{index:05d}-{item.target.replace(' ', '-')}.png"
        file = f"{item.target.replace(' ', '_')}/{name}"
        bird, difference, parts = (f"{MASKS}/{kind}/{name}" for kind in ("bird", "difference", "parts"))
        write_image(folder / bird, Image.fromarray(item.plate.labels > 0))
        write_image(folder / difference, Image.fromarray(item.mask))
        write_image(folder / parts, Image.fromarray(item.plate.labels))
        what, card = (item.attribute, part_of(item.attribute)), item.plate.bird.card
        asked = (file, item.target, item.twin)
        labels.append((*asked, bird, *what, item.plate.habitat, difference, parts, *(card[key] for key in ATTRIBUTES)))
        differences.append((*asked, difference, *what))
        yield write_image(folder / file, item.plate.image)
    write_file(folder / "labels.csv", _csv(labels))
    write_file(folder / "differences.csv", _csv(differences))


def _csv(rows: list[tuple[str, ...]]) -> bytes:
    header, *others = rows
    return table_of((dict(zip(header, row, strict=True)) for row in others), header)
