"""``concept-cam methods``: the ways of making a map."""

from __future__ import annotations

from concept_cam.cli import options
from concept_cam.cli.answers import Answers


def methods(json: options.Json = False) -> None:
    """List the methods: what each costs, what it needs of a model, and whether it can compare."""
    from rich.table import Table

    from concept_cam.methods import CARDS

    columns = ("--method", "kind", "what it is", "compares", "forward passes", "backward passes for each concept", "needs")
    table, answers = Table(*columns), Answers(json)
    for name, card in CARDS.items():
        table.add_row(name, card.kind, card.summary, card.compares, card.forwards, card.backwards, card.needs)
        known = {key: value for key, value in vars(card).items() if key != "method"}
        answers.give(method=name, **known, summary=card.summary, compares=card.compares)
    answers.show(table, 280)
    answers.next("localize", "--method", "grad_cam", "--out", "concept-cam-grad-cam")
