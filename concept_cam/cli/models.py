"""``concept-cam models`` and ``concept-cam check``: what can be loaded, and whether yours keeps the promises."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from concept_cam.cli import options
from concept_cam.cli.answers import Answers
from concept_cam.cli.encoders import Asked
from concept_cam.errors import AuditFailed


def models(json: options.Json = False) -> None:
    """List the families of models, and what each supports."""
    from rich.table import Table

    from concept_cam.families import FAMILIES

    answers = Answers(json)

    columns = ("family", "through", "for example", "pooling", "default site", "other sites", "closed form", "input sizes")
    table = Table(*columns, title="--model takes a name like those in the third column, or a folder", title_justify="left")
    for f in FAMILIES:
        table.add_row(f.name, f.through, f.example, f.pooling, f.default, f.others, f.closed_form, f.sizes)
        answers.give(**asdict(f))
    answers.show(table, 280)
    answers.next("check", "world")


def check(
    model: Annotated[str, typer.Argument(help="A model, as --model of `localize` takes it.")],
    pretrained: options.Pretrained = None,
    classes: options.Classes = None,
    device: options.Device = "cpu",
    json: options.Json = False,
) -> None:
    """Check what the library relies on with this model: embedding, gradients, closed forms, batches, input sizes, no trace."""
    from concept_cam import checks

    answers, given = Answers(json), Asked(model, pretrained, classes, device)
    backbone = given.load()
    answers.say(f"{backbone.name}: {backbone.family}; {len(backbone.sites)} sites, {backbone.sites[0].name} by default")
    failed = 0
    for verdict in checks.check(backbone):
        failed += not verdict.passed
        answers.give(**asdict(verdict))
        answers.say(f"{'pass' if verdict.passed else 'FAIL'}  {verdict.check}: {verdict.finding}")
    if failed:
        raise AuditFailed(f"{model} fails {failed} of these checks; what fails above cannot be relied on.")
    answers.next(*(["localize", *given.words] if given.preset.draws else ["localize", "--help"]))
