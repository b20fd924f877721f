"""What is said about a plate: names, phrases for single attributes, and captions that name a few of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from concept_cam.world.birds import ATTRIBUTES, part_of, phrase, species
from concept_cam.world.renderer import HABITATS, Plate

FRAMES = ("{}", "a {}", "the {}", "a picture of a {}", "a photo of a {}", "a drawing of a {}", "a plate of a {}")
"""Sentences around a name or a phrase that the embedded encoder was trained on."""

FEATURES: Mapping[str, tuple[str, ...]] = {**ATTRIBUTES, "habitat": HABITATS}
"""All that a caption can mention: the attributes of the bird and where it is."""

ANY = "any"


@dataclass(frozen=True)
class Caption:
    """A sentence and what it claims: for each feature mentioned its value, or ``ANY`` for "there is one"."""

    text: str
    claims: Mapping[str, str]


def features(plate: Plate) -> Mapping[str, str]:
    """The true value of every feature of a plate."""
    return {**plate.bird.card, "habitat": plate.habitat}


def is_true(claims: Mapping[str, str], facts: Mapping[str, str]) -> bool:
    """Whether each claim is true of an image with these features."""
    return all(facts[f] != "none" if v == ANY else facts[f] == v for f, v in claims.items())


def feature_texts(frame: str) -> Mapping[str, tuple[str, ...]]:
    """For every feature the sentences for all of its values, in the order of ``FEATURES``."""
    texts = {a: tuple(frame.format(phrase(a, v)) for v in values) for a, values in ATTRIBUTES.items()}
    return {**texts, "habitat": tuple(f"a bird in {h}" for h in HABITATS)}


def draw_caption(plate: Plate, rng: np.random.Generator) -> Caption:
    """A true caption that mentions none to five of the bird's attributes, and the habitat now and then."""
    names = tuple(ATTRIBUTES)
    chosen = rng.choice(len(names), size=rng.integers(0, 6), replace=False)
    claims: dict[str, str] = {}
    phrases = []
    for attribute in (names[i] for i in chosen):
        value = plate.bird.card[attribute]
        bare = part_of(attribute) == attribute and value != "none" and rng.random() < 0.15
        claims[attribute] = ANY if bare else value
        phrases.append(attribute if bare else phrase(attribute, value))
    text = FRAMES[rng.integers(len(FRAMES))].format("bird")
    if phrases:
        text += " with " + " and ".join(phrases)
    if rng.random() < 0.25:
        claims["habitat"] = plate.habitat
        text += f" in {plate.habitat}"
    return Caption(text, claims)


def words() -> tuple[str, ...]:
    """Every word the embedded encoder knows, sorted."""
    texts = [
        *species(),
        *(t for f in (*FRAMES, "a bird with {}") for ts in feature_texts(f).values() for t in ts),
        "and",
        "in",
    ]
    return tuple(sorted({w for t in texts for w in t.replace("{}", " ").split()}))
