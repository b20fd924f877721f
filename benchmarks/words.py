"""Are differences told in the right words, and in no others? ``python -m benchmarks.words``: all twins, each encoder.

The words come from the texts alone; on plates of the first bird the map of the phrases ("red crown" against "white crown") is
compared with the map of the decision (the bird against its twin). What is true is known: a phrase is *right* if it names the
part in which the two differ and what each has there, and *false* if it names a colour, shape or pattern that neither has. A
phrase names the *habitat* if it is that of a planted shortcut.

The floors ``words.STANDS_OUT`` and ``words.AGREES`` were chosen between the false and the right phrases of half of the pairs
of ``world-last-block``, by ``hires_cam``. Of the encoder with shortcuts, the habitat is right for a planted species and
its twin.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np
import torch
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from concept_cam import world
from concept_cam.audit.examine import Examiner
from concept_cam.audit.words import BACKGROUND, Difference
from concept_cam.metrics import rank_correlation
from concept_cam.parts import read_parts
from concept_cam.prompts import read_vocabulary
from concept_cam.world.birds import phrase, species, twins
from concept_cam.world.renderer import HELD_OUT_STREAM
from concept_cam.world.shortcuts import SHORTCUTS, draw_at_home


class Found(NamedTuple):
    """A phrase for a pair, and what is true of it."""

    told: Difference
    agreement: float
    right: bool
    home: bool
    false: bool

    @property
    def printed(self) -> bool:
        """Whether an audit prints it."""
        return self.told.describes(self.agreement)


def of_pair(examiner: Examiner, first: str, second: str, plates: int, seed: int) -> list[Found]:
    """Every attribute's phrases for a pair, with the mean agreement of their maps over some plates of the first."""
    localizer, (ours, theirs) = examiner.localizer, examiner.bank.vectors_of([first, second])
    told = examiner.words.difference(ours - theirs, len(examiner.words.groups))
    rng = np.random.default_rng([HELD_OUT_STREAM, seed, list(species()).index(first), 5000])
    frames = [localizer.frame(draw_at_home(species()[first], rng, 192).image) for _ in range(plates)]
    directions = torch.stack([ours - theirs, *(one.direction(examiner.words.bank) for one in told)])
    with torch.no_grad():
        (seen,) = localizer.passes(frames)
        maps = seen.maps(localizer.method, directions[:, None].expand(-1, plates, -1).contiguous()).stacked
    agreements = rank_correlation(maps[1:], maps[:1].expand_as(maps[1:])).mean(1).tolist()
    cards = [species()[name].card for name in (first, second)]
    (attribute,) = species()[first].differences(species()[second])
    shown = {phrase(key, value) for card in cards for key, value in card.items()}
    expected = tuple(phrase(attribute, card[attribute]) for card in cards)
    home = f"bird in {SHORTCUTS.get(first, SHORTCUTS.get(second))}"
    return [
        Found(
            one,
            agreement,
            (one.ours, one.theirs) == expected,
            one.what == BACKGROUND and home in (one.ours, one.theirs),
            one.what != BACKGROUND and not {one.ours, one.theirs} <= shown,
        )
        for one, agreement in zip(told, agreements, strict=True)
    ]


def measured(examiner: Examiner, pairs: Sequence[tuple[str, str]], plates: int, seed: int) -> tuple[str, ...]:
    """The cells of a row."""
    found = [of_pair(examiner, first, second, plates, seed) for first, second in pairs]
    every = [one for of_one in found for one in of_one]
    right, false = ([one for one in every if getattr(one, kind)] for kind in ("right", "false"))
    printed = [one for one in every if one.printed]
    silent = sum(not any(one.printed for one in of_one) for of_one in found)
    return (
        str(len(pairs)),
        f"{min(one.told.stands_out for one in right):.1f}",
        f"{max(one.told.stands_out for one in false):.1f}",
        f"{min(one.agreement for one in right):.2f}",
        f"{max(one.agreement for one in false):.2f}",
        str(len(printed)),
        str(sum(one.right for one in printed)),
        str(sum(one.home for one in printed)),
        str(sum(one.false for one in printed)),
        str(silent),
    )


def main(
    plates: Annotated[int, typer.Option(help="Of the first bird of each pair.")] = 5,
    seed: Annotated[int, typer.Option(help="Which plates; those of 0 chose the floors.")] = 1,
) -> None:
    """Print what stands out and agrees, how many phrases are printed, and how many of them are false."""
    heads = ("encoder", "pairs", "right: least x", "false: most x", "right: least r", "false: most r")
    table = Table(*heads, "printed", "right", "habitat", "false", "pairs without", box=box.MARKDOWN)
    pairs = [(first, second) for first, second, _ in twins()]
    habitats = read_vocabulary("world-habitats").names
    for model, checkpoint in world.MODELS.items():
        localizer = world.localizer(vocabulary=(), checkpoint=checkpoint)
        examiner = Examiner(localizer, tuple(species()), read_parts("world-parts"), habitats)
        table.add_row(model, *measured(examiner, pairs, plates, seed))
    Console(width=160).print(table)


if __name__ == "__main__":
    typer.run(main)
