"""Is the difference of two twins told in the right words? ``python -m benchmarks.words``: pairs drawn at random.

The words come from the texts alone. On a plate of the first bird the map of the first phrases ("red crown" against "white
crown") is held against the map of the decision (the bird against its twin), and against the mask of the differing part.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
import typer

from concept_cam import fieldguide
from concept_cam.audit.looking import Looker
from concept_cam.fieldguide.birds import part_of, species, twins
from concept_cam.fieldguide.renderer import HELD_OUT_STREAM, draw
from concept_cam.metrics import pointing_hit, rank_correlation
from concept_cam.parts import read_parts


def main(
    count: Annotated[int, typer.Option(help="Pairs, drawn with replacement.")] = 100,
    seed: Annotated[int, typer.Option(help="Which.")] = 0,
) -> None:
    """Print how many are right."""
    localizer = fieldguide.localizer(vocabulary=())
    looker = Looker(localizer, tuple(fieldguide.species()), read_parts("fieldguide-parts"))
    rng = np.random.default_rng([HELD_OUT_STREAM, seed, 5000])
    found = []
    for _ in range(count):
        first, second, attribute = twins()[int(rng.integers(len(twins())))]
        ours, theirs = looker.bank.vectors_of([first, second])
        told = looker.words.difference(ours - theirs, 1)[0]
        part = part_of(attribute)
        values = tuple(f"{species()[name].card[attribute]} {part}" for name in (first, second))
        plate = draw(species()[first], rng, 192)
        words = localizer(plate.picture, told.ours, told.theirs, strength=1.0)
        decision = localizer(plate.picture, first, second, strength=1.0)
        mask = torch.from_numpy(plate.mask(part))
        near = bool(mask.any()) and bool(pointing_hit(torch.tensor(words.peak()), mask, 16.0))
        agreement = float(rank_correlation(words.map, decision.map))
        found.append((told.what.rpartition(" ")[0] == part, (told.ours, told.theirs) == values, agreement, near))
    named, both, agreement, near = np.mean(found, axis=0)
    print(f"{count} pairs: the first phrase names the part {named:.3f}, both values {both:.3f};")
    print(f"its map and the decision's: rank correlation {agreement:.3f}; its peak within a patch of the part {near:.3f}")


if __name__ == "__main__":
    typer.run(main)
