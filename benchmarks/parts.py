"""Are parts found, read, and missed when they are not there? ``python -m benchmarks.parts`` on held-out plates.

Half of the plates show birds of no species, half species. A keypoint is right if it is inside the part, or within one patch
of a pixel of it along both axes.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from concept_cam import world
from concept_cam.methods import method_named
from concept_cam.metrics import pointing_hit
from concept_cam.parts import PartFinding, read_parts, stream_parts
from concept_cam.world.birds import PARTS, random_bird, species
from concept_cam.world.renderer import HELD_OUT_STREAM, Plate, draw

_ATTRIBUTES = {"colour": "{}", "shape": "{} shape", "pattern": "{} pattern"}
"""How a card calls the attributes of the vocabulary."""


def plate_of(index: int, seed: int = 0) -> Plate:
    """A held-out plate, every other one of a species."""
    rng = np.random.default_rng([HELD_OUT_STREAM, seed, index, 4000])
    names = list(species())
    bird = species()[names[rng.integers(len(names))]] if index % 2 else random_bird(rng)
    return draw(bird, rng, 192)


def graded(plate: Plate, finding: PartFinding) -> list[dict[str, Any]]:
    """A row for each part: whether it is there, was found, where, and was read right."""
    rows = []
    for part in finding.parts:
        mask = torch.from_numpy(plate.mask(part.name))
        row: dict[str, Any] = {"part": part.name, "there": bool(mask.any()), "found": part.visible}
        if row["there"] and part.keypoint is not None and part.mask is not None:
            patch = plate.image.width / part.map.shape[1]
            point = torch.tensor(part.keypoint)
            row["inside"], row["near"] = bool(pointing_hit(point, mask)), bool(pointing_hit(point, mask, patch))
            row["iou"] = float((part.mask & mask).sum() / (part.mask | mask).sum())
            truth = {a: plate.bird.card.get(card.format(part.name)) for a, card in _ATTRIBUTES.items()}
            row |= {a: reading.value == truth[a] for a, reading in part.attributes.items()}
        rows.append(row)
    return rows


def main(
    count: Annotated[int, typer.Option(help="Plates.")] = 300,
    seed: Annotated[int, typer.Option(help="Which.")] = 0,
    size: Annotated[int, typer.Option(help="Of the model's input; its own is 96.")] = 96,
    method: Annotated[str, typer.Option(help="`concept-cam methods` lists them.")] = "class_stream",
) -> None:
    """Print a row for each part."""
    localizer = world.localizer(vocabulary=(), method=method_named(method), size=size)
    vocabulary = read_parts("world-parts")
    plates = [plate_of(index, seed) for index in range(count)]
    found = stream_parts(localizer, (plate.image for plate in plates), vocabulary, batch_size=25)
    rows = [row for plate, (_, finding) in zip(plates, found, strict=True) for row in graded(plate, finding)]
    table = Table("part", "there", "found", "inside", "within a patch", "IoU", "colour", "shape", "pattern", box=box.MARKDOWN)
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["part"]].append(row)
    for name, of_part in [*((part, groups[part]) for part in PARTS), ("all", rows)]:
        there = [row for row in of_part if row["there"]]
        cells = [f"{_share(there, key):.3f}" for key in ("found", "inside", "near", "iou")]
        read = [_share([r for r in there if key in r], key) for key in _ATTRIBUTES]
        table.add_row(name, str(len(there)), *cells, *(f"{x:.3f}" if x == x else "" for x in read))  # noqa: PLR0124  (NaN)
    Console(width=160).print(table)
    absent = [row for row in rows if not row["there"]]
    for kind, of_kind in (("crests that are not there", [r for r in absent if r["part"] == "crest"]), ("all absent", absent)):
        print(f"{kind}: {len(of_kind)}, said to be not visible {1 - _share(of_kind, 'found'):.3f}")
    there = [row for row in rows if row["there"]]
    print(f"visible parts said not to be: {1 - _share(there, 'found'):.3f}")


def _share(rows: list[dict[str, Any]], key: str) -> float:
    return float(np.mean([row.get(key, False) for row in rows])) if rows else float("nan")


if __name__ == "__main__":
    typer.run(main)
