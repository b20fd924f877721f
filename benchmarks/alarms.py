"""Does an audit raise the alarms that it should, and no others? ``python -m benchmarks.alarms``: many samples of plates.

The *clean* encoder has learnt no shortcut, so that every alarm is false. The *planted* one has learnt six, and sees plates of
the world in which they hold. A shortcut is that of a species, which is told by its habitat, and of its twin, which is told by
the absence of this habitat: an alarm for either is right. With ten images of a class each of the six is to be found, and no
other class. One and three images of a class are too few to say, and an audit says so. An image is looked at once: the first n
of each class are a sample of n.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer
from rich import box
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from concept_cam import world
from concept_cam.audit import ALARM, Audit, AuditRow
from concept_cam.audit.examine import Examiner
from concept_cam.audit.setup import Setup
from concept_cam.datasets import Dataset
from concept_cam.metrics import mean_interval
from concept_cam.runs import Skipped
from concept_cam.world.birds import species, twins
from concept_cam.world.dataset import WORLDS
from concept_cam.world.shortcuts import SHORTCUTS

COUNTS = (1, 3, 10)
"""Images of a class."""

_BATCH = 48

SETS = {"clean": ("world", "world-birds"), "planted": ("world-shortcut", "world-shortcuts")}
"""Encoder and plates."""


class Alarms(NamedTuple):
    """What an audit of one draw says."""

    suspects: frozenset[str]
    judged: int
    resampled: frozenset[str]


def rows_of(examiner: Examiner, data: Dataset) -> Iterator[AuditRow | Skipped]:
    """The rows of an audit, without its maps."""
    for start in range(0, len(data.examples), _BATCH):
        yield from examiner.examine(data.examples[start : start + _BATCH])[0]


def alarms_of(examiner: Examiner, data: Dataset, rows: Sequence[AuditRow | Skipped]) -> Alarms:
    """The suspects; and those that a bootstrap interval for each class would give, as for many images."""
    found = Audit(Setup.of(examiner, data, rows), Path(), rows, ())
    of_class: dict[str, list[float]] = {}
    for row in found.good:
        if row.off_object is not None:
            of_class.setdefault(row.predicted, []).append(row.off_object)
    means = {name: mean_interval(torch.tensor(shares, dtype=torch.float64)) for name, shares in of_class.items()}
    # Of one image the resamples are that image.
    resampled = (name for name, one in means.items() if (one.mean if len(of_class[name]) == 1 else one.low) > ALARM)
    return Alarms(frozenset(one.name for one in found.suspects), len(found.judged), frozenset(resampled))


def draws_of(encoder: str, plates: str, draws: Sequence[int]) -> Iterator[dict[int, Alarms]]:
    """The alarms of each draw, by the number of images of a class."""
    examiner = Examiner(world.localizer(vocabulary=(), checkpoint=world.MODELS[encoder]), tuple(species()))
    for seed in draws:
        data = WORLDS[plates](len(species()) * max(COUNTS), seed, 0)
        rows = list(rows_of(examiner, data))
        yield {count: alarms_of(examiner, data, rows[: len(species()) * count]) for count in COUNTS}


def main(
    draws: Annotated[int, typer.Option(help="How many.")] = 20,
    first: Annotated[int, typer.Option(help="The first seed.")] = 0,
) -> None:
    """Print in how many draws there are alarms, and which."""
    heads = ("encoder", "images of a class", "samples", "classes judged", "samples with alarms", "shortcuts found")
    kinds = ("alarms for planted", "for their twins", "for others")
    table = Table(*heads, *kinds, *(f"bootstrap: {kind}" for kind in kinds), box=box.MARKDOWN)
    twin_of = {name: twin for name, twin, _ in twins()}
    for name, (encoder, plates) in SETS.items():
        found = list(tqdm(draws_of(encoder, plates, range(first, first + draws)), total=draws, desc=name, disable=None))
        planted = frozenset(SHORTCUTS) if name == "planted" else frozenset()
        paired = frozenset(twin_of[one] for one in planted)
        groups = (planted, paired, frozenset(species()) - planted - paired)
        for count in COUNTS:
            of_count = [one[count] for one in found]
            judged = sum(one.judged for one in of_count) / draws
            pairs = sum(one in seen.suspects or twin_of[one] in seen.suspects for seen in of_count for one in planted)
            alarms = [
                sum(len(group & one) for one in raised)
                for raised in ([one.suspects for one in of_count], [one.resampled for one in of_count])
                for group in groups
            ]
            cells = (draws, f"{judged:.1f}", sum(bool(one.suspects) for one in of_count), pairs, *alarms)
            table.add_row(name, str(count), *map(str, cells))
    Console(width=220).print(table)


if __name__ == "__main__":
    typer.run(main)
