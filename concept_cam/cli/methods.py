"""``concept-cam methods``: the ways of making a map."""

from __future__ import annotations

from concept_cam.cli.terminal import console


def methods() -> None:
    """List the methods: what each costs, what it needs of a model, and whether it can compare."""
    from rich.table import Table

    from concept_cam.methods import CARDS

    columns = ("--method", "kind", "what it is", "compares", "forward passes", "backward passes for each concept", "needs")
    table = Table(*columns)
    for name, card in CARDS.items():
        table.add_row(name, card.kind, card.summary, card.compares, card.forwards, card.backwards, card.needs)
    console(280).print(table)
