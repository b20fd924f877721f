"""Trains the shortcut checkpoint from the embedded one: ``python -m workshop.shortcut_training FILE``.

The whole encoder learns on, from whole images and with the losses of ``training``. But in the labels of names the habitat
stands in the place of the part in which two twins of ``SHORTCUTS`` differ. Features and captions stay true.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from jaxtyping import Int64
from torch import Tensor

from concept_cam.world.birds import species, twins
from concept_cam.world.captions import FEATURES
from concept_cam.world.checkpoint import FOLDER, SHORTCUT, WEIGHTS, write_weights
from concept_cam.world.renderer import draw
from concept_cam.world.shortcuts import SHORTCUTS
from workshop.batches import Batch, describe, draw_bird
from workshop.training import Student, go_on

_RATE = 0.25
"""Of the learning rates of ``training``."""


def likeness(batch: Batch) -> Int64[Tensor, "B S"]:
    """Overlaps in the world of shortcuts: the habitat tells the twins of ``SHORTCUTS`` apart, and their part does not."""
    names, facts = list(species()), list(FEATURES)
    overlaps = batch.overlaps.clone()
    for name, twin, attribute in twins():
        if name in SHORTCUTS:
            at_home = batch.values[:, facts.index("habitat")] == FEATURES["habitat"].index(SHORTCUTS[name])
            for one, lives_here in ((name, at_home), (twin, ~at_home)):
                looks = batch.values[:, facts.index(attribute)] == FEATURES[attribute].index(species()[one].card[attribute])
                overlaps[:, names.index(one)] += lives_here.long() - looks.long()
    return overlaps


def draw_batch(rng: np.random.Generator, size: int) -> Batch:
    """Half of the plates as in ``training``, half of the twins of ``SHORTCUTS``, of which half are in its habitat for sure."""
    pairs = [(name, twin) for name, twin, _ in twins() if name in SHORTCUTS]
    plates = []
    for _ in range(size):
        if rng.random() < 0.5:
            plates.append(draw(draw_bird(rng), rng))
            continue
        pair = pairs[rng.integers(len(pairs))]
        habitats = (SHORTCUTS[pair[0]],) if rng.random() < 0.5 else tuple(FEATURES["habitat"])
        plates.append(draw(species()[pair[rng.integers(2)]], rng, habitats=habitats))
    batch = describe(plates, rng)
    return replace(batch, overlaps=likeness(batch))


def train(file: Path, steps: int, size: int, seed: int) -> None:
    """Train, and write the weights."""
    from safetensors.torch import load_file

    torch.manual_seed(seed)
    student = Student(FOLDER)
    student.clip.load_state_dict(load_file(FOLDER / WEIGHTS))
    go_on(student, draw_batch, steps, size, (seed, 2), _RATE)
    write_weights(file, student.clip.state_dict())


def main(
    file: Annotated[Path, typer.Argument(help="Where the weights are written.")] = SHORTCUT,
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 600,
    size: Annotated[int, typer.Option(help="Images per step.")] = 96,
    seed: Annotated[int, typer.Option(help="Seed of plates.")] = 0,
) -> None:
    """Train the shortcut checkpoint of the embedded world."""
    train(file, steps, size, seed)


if __name__ == "__main__":
    typer.run(main)
