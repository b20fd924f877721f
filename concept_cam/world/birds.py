"""What a bird of the embedded world is: a card of attributes, with or without a species name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from concept_cam.prompts import read_vocabulary

COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (205, 32, 38),
    "orange": (240, 128, 20),
    "yellow": (246, 218, 48),
    "green": (52, 150, 62),
    "blue": (38, 92, 200),
    "purple": (122, 52, 160),
    "pink": (242, 140, 180),
    "brown": (116, 70, 34),
    "black": (34, 34, 38),
    "white": (246, 246, 242),
    "grey": (140, 144, 150),
}
"""The colours a part can have, as 8-bit sRGB."""

PARTS = (
    "crest",
    "crown",
    "face",
    "beak",
    "throat",
    "breast",
    "belly",
    "back",
    "wing",
    "wing bar",
    "tail",
    "legs",
)
"""The named parts; a label image holds ``1 + PARTS.index(part)``, and 0 where there is no bird."""

ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "crest": ("none", *COLOURS),
    **{part: tuple(COLOURS) for part in PARTS[1:]},
    "beak shape": ("short", "long", "hooked"),
    "tail shape": ("square", "forked", "pointed"),
    "breast pattern": ("plain", "streaked", "spotted"),
}
"""Every attribute of a card with the values it can take: the colour of each part, then shapes and patterns."""


def part_of(attribute: str) -> str:
    """The part that an attribute describes: ``"beak shape"`` -> ``"beak"``."""
    return attribute.removesuffix(" shape").removesuffix(" pattern")


def phrase(attribute: str, value: str) -> str:
    """The words for one attribute: ``"red crown"``, ``"forked tail"``, ``"no crest"``."""
    return f"{'no' if value == 'none' else value} {part_of(attribute)}"


@dataclass(frozen=True)
class Bird:
    """A card: the value of every attribute, and the species it belongs to, if any."""

    card: Mapping[str, str]
    name: str | None = None

    def overlap(self, other: Bird) -> int:
        """How many attributes of two birds are equal."""
        return sum(value == other.card[attribute] for attribute, value in self.card.items())

    def differences(self, other: Bird) -> tuple[str, ...]:
        """The attributes in which two birds differ."""
        return tuple(a for a, value in self.card.items() if value != other.card[a])


@cache
def species() -> Mapping[str, Bird]:
    """All species by name, in the order of ``prompts/vocabularies/world-species.yaml``.

    Example:
        >>> from concept_cam import world
        >>> len(world.species())
        48
    """
    vocabulary = read_vocabulary("world-species")
    return {c.name: Bird(c.notes["card"], c.name) for c in vocabulary.concepts}


@cache
def twins() -> tuple[tuple[str, str, str], ...]:
    """Every ordered pair of species that differ in one attribute: (name, name of the twin, attribute)."""
    birds = species().values()
    pairs = ((a, b, a.differences(b)) for a in birds for b in birds)
    return tuple((a.name or "", b.name or "", d[0]) for a, b, d in pairs if len(d) == 1)


def random_bird(rng: np.random.Generator) -> Bird:
    """A bird of no species: every attribute drawn on its own; half of such birds wear a crest."""
    card = {a: values[rng.integers(len(values))] for a, values in ATTRIBUTES.items()}
    if rng.random() < 0.45:
        card["crest"] = "none"
    return Bird(card)


def mutant(bird: Bird, rng: np.random.Generator) -> Bird:
    """A bird of no species that differs from a species in one to three attributes."""
    names = tuple(ATTRIBUTES)
    changed = rng.choice(len(names), size=rng.integers(1, 4), replace=False)
    card = dict(bird.card)
    for index in changed:
        values = ATTRIBUTES[names[index]]
        card[names[index]] = values[rng.integers(len(values))]
    return Bird(card)
