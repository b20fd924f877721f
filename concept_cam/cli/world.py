"""``concept-cam world``: a set of plates for experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from concept_cam.cli.answers import Answers
from concept_cam.cli.options import LARGEST_SEED
from concept_cam.cli.terminal import say


def world(
    folder: Annotated[Path, typer.Argument(help="Where to write the set.")],
    plates: Annotated[int, typer.Option("--count", min=1, max=1_000_000, help="How many images.")] = 100,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Which images.")] = 0,
    size: Annotated[int, typer.Option(min=96, max=2048, help="Side of an image in pixels.")] = 384,
) -> None:
    """Write held-out plates of the embedded world as a set: a folder for each species, and tables of labels, twins and masks.

    All commands read the folder, labels.csv and differences.csv as they lie. Masks of the first table are the birds, those of
    the second the parts in which a bird and its twin differ.
    """
    from tqdm import tqdm

    from concept_cam.world.heldout import MASKS, write_set

    for _ in tqdm(write_set(folder, plates, seed, size), total=plates, disable=None):
        pass
    say(f"{plates} plates in {folder}: a folder for each species, labels.csv, differences.csv, parts.csv, {MASKS}/")
    Answers().next("audit", folder)
