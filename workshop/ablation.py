"""Ways to put several references together, on held-out twins: ``python -m workshop.ablation``.

The ablation of the paper (arXiv 2501.11309, Tab. 7) in the embedded world. *Mean* is what the library does, the mean of the
references before anything else; the others are here alone, as the ablations they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import torch
import typer
from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from concept_cam import world
from concept_cam.localizer import Localizer
from concept_cam.methods import METHODS
from workshop.benchmark import USUAL, Chance, Findings, Record, methods_table, twin_passes

STRENGTH, COUNT = 0.6, 3

Aggregation = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From the target's map (B, rows, cols), those of the references (3, ...) and those of the target against each (3, ...)."""


def _mean_after(target: Tensor, references: Tensor, contrastive: Tensor) -> Float[Tensor, "B rows cols"]:
    return contrastive.clamp(min=0).mean(0)


def _finished(target: Tensor, references: Tensor, contrastive: Tensor) -> Float[Tensor, "B rows cols"]:
    return target.clamp(min=0) - STRENGTH * references.clamp(min=0).mean(0)


AGGREGATIONS: Mapping[str, Aggregation] = {
    "base": lambda target, references, contrastive: target,
    "max": lambda target, references, contrastive: contrastive.amax(0),
    "mean after ReLU": _mean_after,
    "finished maps subtracted": _finished,
}


def compare_aggregations(
    localizer: Localizer, count: int, seed: int = 0, names: Sequence[str] = USUAL
) -> tuple[Mapping[tuple[str, str], Findings], Chance]:
    """Energy and pointing with the three nearest names as references, put together in several ways."""
    record = Record()
    for frames, masks, seen, bank, items in twin_passes(localizer, count, seed, names):
        target = bank.vectors_of([item.target for item in items])
        near = torch.stack([bank.vectors_of(bank.neighbours(item.target, COUNT)) for item in items], 1)
        asked = torch.cat([target[None], near, target - STRENGTH * near, (target - STRENGTH * near.mean(0))[None]])
        for name in names:
            maps = seen.maps(METHODS[name], asked).single().stacked
            parts = maps[0], maps[1 : 1 + COUNT], maps[1 + COUNT : 1 + 2 * COUNT]
            found = {how: aggregation(*parts) for how, aggregation in AGGREGATIONS.items()}
            for how, grids in {**found, "mean": maps[-1]}.items():
                record.add((name, how), frames, masks, grids)
        record.add_chance(frames, masks, seen)
    return record.findings(), record.chance()


def main(
    count: Annotated[int, typer.Option(help="Held-out plates.")] = 500,
    seed: Annotated[int, typer.Option(help="Which held-out plates.")] = 0,
) -> None:
    """Compare ways to put three references together."""
    console = Console(width=150)
    console.print(methods_table(*compare_aggregations(world.localizer(), count, seed)))


if __name__ == "__main__":
    typer.run(main)
