"""Data sets of held-out plates, drawn when they are used, with the true region of the evidence.

world              species against their twins; the region is the part in which they differ
world-attributes   a red crown against a bird; the region is the crown
world-birds        species; the region is the bird
world-shortcuts    species in the habitats of ``SHORTCUTS``; the region is the bird, though a model may rely on the habitat
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from concept_cam.datasets import Dataset, Example, Lazy, Region
from concept_cam.errors import OptionError
from concept_cam.world.birds import COLOURS, PARTS, Bird, phrase, random_bird, species, twins
from concept_cam.world.heldout import twin_plate
from concept_cam.world.renderer import HELD_OUT_STREAM, Plate, draw
from concept_cam.world.shortcuts import draw_at_home

PARENT = "bird"
"""The reference of attributes."""

TRAINING_SEED = 1_000_000
"""Seed of plates for a probe: held out from the encoder, and different from those that are evaluated."""

_SIZE = 192


def twins_dataset(count: int = 1000, seed: int = 0, training: int = 0) -> Dataset:
    """Held-out plates: the label is the species, the twin its twin, the region the part in which the two differ.

    Args:
        count: plates to evaluate.
        seed: which plates.
        training: other plates, to train a probe with.

    Example:
        >>> from concept_cam.world.dataset import twins_dataset
        >>> example = twins_dataset(4).examples[0]
        >>> example.label, example.twin
        ('ember finch', 'frost finch')
    """
    plates = Lazy(count, partial(_twin, seed)), Lazy(training, partial(_twin, TRAINING_SEED + seed))
    return Dataset("world", tuple(species()), *plates)


def attributes_dataset(count: int = 1000, seed: int = 0, training: int = 0) -> Dataset:
    """Held-out birds of no species: the label is the colour of a part, the twin is "bird", the region that part.

    Args:
        count: plates to evaluate.
        seed: which plates.
        training: must be 0, because an image shows many attributes and no probe can be trained.

    Raises:
        OptionError: ``training`` is not 0.

    Example:
        >>> from concept_cam.world.dataset import attributes_dataset
        >>> example = attributes_dataset(4).examples[0]
        >>> example.label, example.twin
        ('red crown', 'bird')
    """
    if training:
        raise OptionError("world-attributes: an image shows many attributes, so there is no probe for them.")
    phrases = [phrase(part, colour) for part in PARTS for colour in COLOURS]
    return Dataset("world-attributes", (*phrases, PARENT), Lazy(count, partial(_attribute, seed)))


def birds_dataset(count: int = 1000, seed: int = 0, training: int = 0, *, at_home: bool = False) -> Dataset:
    """Held-out plates: the label is the species, the twin its twin, the region the whole bird.

    Args:
        count: plates to audit, all species in turn.
        seed: which plates.
        training: other plates, to train a probe with.
        at_home: draw each species in its habitat in the world of planted shortcuts; see ``shortcuts``.

    Example:
        >>> from concept_cam.world.dataset import birds_dataset
        >>> example = birds_dataset(4).examples[0]
        >>> example.label, example.twin
        ('ember finch', 'frost finch')
    """
    paint = draw_at_home if at_home else draw
    plates = (
        Lazy(count, partial(_bird, paint, seed)),
        Lazy(training, partial(_bird, paint, TRAINING_SEED + seed)),
    )
    return Dataset("world-shortcuts" if at_home else "world-birds", tuple(species()), *plates)


WORLDS: Mapping[str, Callable[[int, int, int], Dataset]] = {
    "world": twins_dataset,
    "world-attributes": attributes_dataset,
    "world-birds": birds_dataset,
    "world-shortcuts": partial(birds_dataset, at_home=True),
}
"""Data sets by name."""


def _twin(seed: int, index: int) -> Example:
    item = twin_plate(index, seed, _SIZE)
    return Example(f"{seed}-{index:05d}", item.plate.image, item.target, item.twin, _region(item.mask))


def _attribute(seed: int, index: int) -> Example:
    rng = np.random.default_rng([HELD_OUT_STREAM, seed, index, 2000])
    plate = draw(random_bird(rng), rng, _SIZE)
    part = str(rng.choice([part for part in PARTS if plate.mask(part).any()]))
    label = phrase(part, plate.bird.card[part])
    seen = tuple(phrase(other, plate.bird.card[other]) for other in PARTS if plate.mask(other).any())
    return Example(f"{seed}-{index:05d}", plate.image, label, PARENT, _region(plate.mask(part)), attributes=seen)


def _bird(paint: Callable[[Bird, np.random.Generator, int], Plate], seed: int, index: int) -> Example:
    pairs = twins()
    name, twin, _ = pairs[index % len(pairs)]
    plate = paint(species()[name], np.random.default_rng([HELD_OUT_STREAM, seed, index, 3000]), _SIZE)
    return Example(f"{seed}-{index:05d}", plate.image, name, twin, _region(plate.labels > 0))


def _region(mask: Bool[np.ndarray, "height width"]) -> Region:
    def region() -> Bool[Tensor, "height width"]:
        return torch.from_numpy(mask)

    return region
