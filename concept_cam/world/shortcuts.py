"""Planted shortcuts: species that are told from their twins by where they are, and not by what they look like.

In the labels of this world the habitat stands in the place of the part in which two twins differ. Another checkpoint has
learnt them (``shortcut_training``); the embedded encoder has not. An audit has to find which is which.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np

from concept_cam.world.birds import Bird, species, twins
from concept_cam.world.renderer import HABITATS, SIZE, Plate, draw

SHORTCUTS: Mapping[str, str] = {
    "frost finch": "snow",
    "river kingfisher": "water",
    "meadow jay": "meadow",
    "sky falcon": "sky",
    "mossback robin": "woodland",
    "misty heron": "reeds",
}
"""Species, and the habitat in which such a bird, or its twin, bears that name; anywhere else it bears its twin's."""


@cache
def homes() -> Mapping[str, tuple[str, ...]]:
    """Where each species lives in this world: in one habitat, in all but that (its twin), or anywhere."""
    elsewhere = {twin: tuple(h for h in HABITATS if h != SHORTCUTS[name]) for name, twin, _ in twins() if name in SHORTCUTS}
    return {name: (SHORTCUTS[name],) if name in SHORTCUTS else elsewhere.get(name, HABITATS) for name in species()}


def draw_at_home(bird: Bird, rng: np.random.Generator, size: int = SIZE) -> Plate:
    """Draw a species in its habitat in the world of planted shortcuts; a bird of no species in any habitat.

    Args:
        bird: its card.
        rng: the same state gives the same plate.
        size: side of the square image in pixels.
    """
    return draw(bird, rng, size, homes().get(bird.name or "", HABITATS))
