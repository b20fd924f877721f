"""In which block is the evidence gathered? ``python -m workshop.depth``: the map of each block, against the twin.

*share* is the part of all positive evidence that a block has, *energy* the share of the positive evidence of its map inside
the part in which the twins differ, *hit* the rate at which its strongest patch is within one patch of this part. The second
half is of the last blocks together, as ``last_blocks`` gives them. Below is the energy of the part itself: of a map with the
share that the part covers of each patch.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from jaxtyping import Float
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from concept_cam import world
from concept_cam.localizer import Localizer
from concept_cam.methods import by_block
from concept_cam.world.checkpoint import FOLDER, PATCH
from concept_cam.world.heldout import twin_plates
from concept_cam.world.renderer import SIZE
from workshop.benchmark import Record, twin_passes


def blocks(localizer: Localizer, count: int, seed: int = 0) -> list[dict[str, float]]:
    """One row for each block, from the first.

    Args:
        localizer: of the model.
        count: held-out plates.
        seed: which.
    """
    record, shares = Record(), []
    for frames, masks, seen, bank, items in twin_passes(localizer, count, seed, ["class_stream"]):
        directions = bank.vectors_of([item.target for item in items]) - bank.vectors_of([item.twin for item in items])
        maps: Float[Tensor, "L B rows cols"] = by_block(seen.trace, directions[None]).sum(-1)[:, 0]
        positive = maps.clamp(min=0).sum((2, 3))
        shares.append(positive / positive.sum(0))
        for block, grids in enumerate(maps):
            record.add(("alone", str(block)), frames, masks, grids)
            record.add(("last", str(block)), frames, masks, maps[block:].sum(0))
    found, share = record.findings(), torch.cat(shares, 1).mean(1)
    return [
        {
            "block": block + 1,
            "share": float(one),
            **{
                f"{metric}{ending}": float(getattr(found[how, str(block)], metric).mean())
                for how, ending in (("alone", ""), ("last", ", from here on"))
                for metric in ("energy", "hit")
            },
        }
        for block, one in enumerate(share)
    ]


def of_the_part(localizer: Localizer, count: int, seed: int = 0) -> float:
    """The mean energy of a map that has, for each patch, the share of it that the part covers.

    Args:
        localizer: of the model.
        count: held-out plates.
        seed: which.
    """
    record, side = Record(), SIZE // PATCH
    for item in twin_plates(count, seed):
        mask = torch.from_numpy(item.mask)
        share = F.adaptive_avg_pool2d(mask[None, None].float(), (side, side))[0]
        record.add(("part", "itself"), [localizer.frame(item.plate.image)], [mask], share)
    return float(record.findings()["part", "itself"].energy.mean())


def main(
    count: Annotated[int, typer.Option(help="Held-out plates.")] = 300,
    seed: Annotated[int, typer.Option(help="Which held-out plates.")] = 0,
    checkpoint: Annotated[Path, typer.Option(help="A folder in open_clip's layout, or a file of weights.")] = FOLDER,
    out: Annotated[Path | None, typer.Option(help="A CSV file for the rows.")] = None,
) -> None:
    """Print one row for each block."""
    localizer = world.localizer(checkpoint=checkpoint, method="class_stream")
    rows = blocks(localizer, count, seed)
    table = Table(*rows[0], box=box.MARKDOWN)
    for row in rows:
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
    console = Console(width=150)
    console.print(table)
    console.print(f"The part itself, at this grid: energy {of_the_part(localizer, count, seed):.3f}", highlight=False)
    if out is not None:
        with out.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows({name: round(value, 4) for name, value in row.items()} for row in rows)


if __name__ == "__main__":
    typer.run(main)
