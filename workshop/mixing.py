"""How far blocks mix patches before the class token reads them: ``python -m workshop.mixing``.

A patch token holds more than its patch. One patch of a held-out plate is greyed out, and what each token hands to the class
token in each block (a_hn v_hn) is compared with before. *own* is the share of the change that is at the patch itself, *near*
within one patch of it, as norms of the change. Without mixing both are 1. With attention that spreads everything evenly, *own*
is one over the number of patches.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from jaxtyping import Float
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from concept_cam import trace, world
from concept_cam.gradients import follow_class_token
from concept_cam.localizer import Localizer
from concept_cam.world.checkpoint import FOLDER, PATCH
from concept_cam.world.heldout import twin_plates


def shares(localizer: Localizer, count: int, seed: int = 0) -> tuple[Float[Tensor, " L"], Float[Tensor, " L"]]:
    """Own and near for each block: means over the plates, each with the patch in the middle of the part that differs.

    Args:
        localizer: of the model.
        count: held-out plates.
        seed: which.
    """
    backbone, own, near = localizer.backbone, [], []
    for item in twin_plates(count, seed):
        pixels = localizer.frame(item.plate.image).pixels
        rows, cols = (
            torch.from_numpy(item.mask).nonzero().float().mean(0).div(item.mask.shape[0]).mul(pixels.shape[1]).tolist()
        )
        row, col = int(rows) // PATCH, int(cols) // PATCH
        greyed = pixels.clone()
        greyed[:, row * PATCH : (row + 1) * PATCH, col * PATCH : (col + 1) * PATCH] = 0
        stream = follow_class_token(trace(backbone, torch.stack([pixels, greyed]), depth=None))
        grid = stream.layout.rows, stream.layout.cols
        given = [step.contributions(stream.layout.patches).unflatten(1, grid) for step in stream.steps]
        moved = torch.stack([(one[1] - one[0]).norm(dim=-1) for one in given])
        whole = moved.sum((1, 2))
        own.append(moved[:, row, col] / whole)
        near.append(moved[:, max(row - 1, 0) : row + 2, max(col - 1, 0) : col + 2].sum((1, 2)) / whole)
    return torch.stack(own).mean(0), torch.stack(near).mean(0)


def main(
    count: Annotated[int, typer.Option(help="Held-out plates.")] = 100,
    seed: Annotated[int, typer.Option(help="Which held-out plates.")] = 0,
    checkpoint: Annotated[Path, typer.Option(help="A folder in open_clip's layout, or a file of weights.")] = FOLDER,
) -> None:
    """Print the shares of each block."""
    table = Table("block", "own", "near", box=box.MARKDOWN)
    for block, (own, near) in enumerate(zip(*shares(world.localizer(checkpoint=checkpoint), count, seed), strict=True), 1):
        table.add_row(str(block), f"{own:.3f}", f"{near:.3f}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
