"""The data set that a command line names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from concept_cam.cli.given import refuse
from concept_cam.errors import OptionError, did_you_mean

if TYPE_CHECKING:
    from concept_cam.datasets import Dataset

WORLD = "world"
_TRAINING = 960
"""Plates of the embedded world that a probe is trained with: twenty of each species."""


def read_set(
    name: str, layout: str | None, limit: int, seed: int, *, probe: bool = False, root: Path | None = None
) -> Dataset:
    """A data set on disk or one of the embedded world, with so many images at most; with a part to train a probe with.

    Args:
        name: of the set, or where it lies.
        layout: as it is given; None: what it looks like.
        limit: images at most.
        seed: which plates of the embedded world.
        probe: with a part to train a probe with.
        root: a folder that holds all files of a set on disk.

    Raises:
        DatasetError: it cannot be read.
        OptionError: the embedded world has no such set, or none for a probe; it has a root, and is drawn.
    """
    from dataclasses import replace

    from concept_cam.datasets import read_dataset

    if is_drawn(name, layout):
        refuse("--root", root, f"on {name}, which is drawn")
        return _world(name, limit, seed, probe=probe)
    found = read_dataset(Path(name), layout, root)
    if probe and not found.training:
        # Every other image, so that both halves have all classes whatever the order.
        found = replace(found, training=found.examples[::2], examples=found.examples[1::2])
    if len(found.examples) <= limit:
        return found
    # From all of the set: lists are in the order of classes, as a rule.
    return replace(found, examples=[found.examples[i * len(found.examples) // limit] for i in range(limit)])


def is_drawn(name: str, layout: str | None) -> bool:
    """Whether a data set is one of the embedded world, and not on disk."""
    # The function, for the method raises on a name that is too long.
    return (name == WORLD or name.startswith(f"{WORLD}-")) and layout is None and not os.path.exists(name)  # noqa: PTH110


def _world(name: str, limit: int, seed: int, *, probe: bool) -> Dataset:
    from concept_cam.world.dataset import WORLDS

    if name not in WORLDS:
        raise OptionError(f"No data set {name!r}.{did_you_mean(name, WORLDS)} The embedded world has {', '.join(WORLDS)}.")
    if probe and name == "world-attributes":
        raise OptionError(f"{name}: an image shows many attributes, so there is no probe for them; leave out --probe.")
    return WORLDS[name](limit, seed, _TRAINING if probe else 0)
