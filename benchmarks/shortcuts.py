"""Do maps find a planted shortcut? ``python -m benchmarks.shortcuts``: two encoders on plates where species live at home.

The *planted* species are told from their twins by the habitat, by the encoder that has learnt it (``world.shortcuts``).
By the embedded encoder they are told by their looks, as all others are by both. A map that can audit shows evidence off the
bird for the planted ones of the first encoder and for no others.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from torch import tensor

from concept_cam import world
from concept_cam.evaluation import Grid, Settings, own_scale, read_rows, write_rows
from concept_cam.metrics import mean_interval
from concept_cam.runs import Skipped
from concept_cam.world.birds import twins
from concept_cam.world.dataset import WORLDS
from concept_cam.world.shortcuts import SHORTCUTS


def main(
    count: Annotated[int, typer.Option(help="Plates.")] = 480,
    seed: Annotated[int, typer.Option(help="Which.")] = 0,
    methods: Annotated[
        str, typer.Option(help="Names with commas between them.")
    ] = "grad_cam,hires_cam,layer_cam,legrad,class_stream",
) -> None:
    """Print the share of the evidence off the bird, base and against the twin."""
    twin = {name: other for name, other, _ in twins()}
    settings = Settings(tuple(methods.split(",")), ("twin",), (1.0,))
    table = Table("encoder", "method", "against", "planted", "their twins", "all others", box=box.MARKDOWN)
    for model, checkpoint in world.MODELS.items():
        localizer = world.localizer(checkpoint=checkpoint)
        grid = Grid(localizer, localizer.bank(world.species()), own_scale(localizer.backbone), settings)
        with tempfile.TemporaryDirectory() as folder:
            rows = read_rows(write_rows(grid, WORLDS["world-shortcuts"](count, seed, 0), Path(folder), {}))
        groups: dict[tuple[str, str, int], list[float]] = defaultdict(list)
        for row in rows:
            if isinstance(row, Skipped) or row.energy is None:
                continue
            kind = 0 if row.label in SHORTCUTS else 1 if twin[row.label] in SHORTCUTS else 2
            groups[row.method, row.references, kind].append(1 - row.energy)
        for method in settings.methods:
            for references in ("none", "twin"):
                found = [mean_interval(tensor(groups[method, references, kind]).double()) for kind in range(3)]
                cells = (f"{one.mean:.3f} [{one.low:.3f}, {one.high:.3f}]" for one in found)
                table.add_row(model, method, "nothing" if references == "none" else "the twin, 1", *cells)
    Console(width=160).print(table)


if __name__ == "__main__":
    typer.run(main)
