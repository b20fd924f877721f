"""Images of the embedded world, where a command line names none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

    from concept_cam.selectors import Selector

SPECIES = ("ember finch", "royal jay", "misty heron")


def draw_one(target: str | None, seed: int) -> tuple[Image.Image, str, Selector]:
    """An image of the target, the target, and its twin to compare with.

    Args:
        target: a species; by default the first that has a twin.
        seed: which image.

    Raises:
        UnknownConcept: there is no such species.
    """
    from concept_cam import selectors, world
    from concept_cam.world.birds import twins

    target = target or twins()[0][0]
    plate = world.draw_species(target, seed)
    twin = next(twin for name, twin, _ in twins() if name == target)
    return plate.image, target, selectors.against(twin)


def draw_several(count: int, folder: Path) -> Iterator[Path]:
    """So many images, of each of three species alike, in a folder for each."""
    from concept_cam import world
    from concept_cam.files import write_image

    for k in sorted(range(count), key=lambda k: k % len(SPECIES)):
        name, seed = SPECIES[k % len(SPECIES)], k // len(SPECIES)
        path = folder / name.replace(" ", "_") / f"{name.replace(' ', '-')}-{seed}.png"
        yield write_image(path, world.draw_species(name, seed).image)
