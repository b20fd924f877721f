"""``concept-cam fields``: the fields of many images in a store, which ``concept-cam search`` searches."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from concept_cam.address import address_of
from concept_cam.cli import options
from concept_cam.cli.answers import Answers
from concept_cam.cli.command import command_line
from concept_cam.cli.encoders import Asked
from concept_cam.cli.folders import sources
from concept_cam.cli.given import gpus_for
from concept_cam.cli.images import called, check_all, check_apart, make_folder
from concept_cam.cli.tabled import of_tables
from concept_cam.cli.terminal import complain


def fields(
    images: Annotated[
        list[Path], typer.Argument(help="Image files, folders of images or of one folder for each species, and tables.")
    ],
    keep: Annotated[
        str,
        typer.Option(
            help="exact, in half precision; or compact, in half of the bytes, with the loss that docs/scale.md states."
        ),
    ] = "exact",
    method: options.UsualMethod = None,
    model: options.Model = None,
    pretrained: options.Pretrained = None,
    classes: options.Classes = None,
    site: options.Site = None,
    fit: options.Fit = None,
    size: options.Size = None,
    templates: options.Templates = None,
    device: options.Device = "cpu",
    batch_size: options.BatchSize = 8,
    workers: options.Workers = 2,
    processes: options.Processes = 1,
    engine: options.Engine = "processes",
    out: options.Out = Path("concept-cam-store"),
) -> None:
    """Store the fields of images, which answer any text without the images and without the image encoder.

    The store is a run with a table, rows.csv; a run that was interrupted is resumed by the same command.
    """
    from concept_cam.methods import method_named
    from concept_cam.runs import run_together
    from concept_cam.store import store_fields
    from concept_cam.store.packing import check_keep

    gpus = gpus_for(engine, device)
    check_keep(keep)
    chosen = None if method is None else method_named(method)
    given = Asked(model, pretrained, classes, device, site, fit, size, templates)
    out = address_of(out)
    found = sources(of_tables(images)[0], but=out)
    make_folder(out)
    check_apart((*found, *images), [out / name for name in ("run.json", "how.json", "rows.csv", "index.safetensors")])
    backbone = given.load()
    localizer = given.localizer(backbone, templates=given.preset.suiting(backbone).templates, method=chosen)
    job = partial(
        store_fields,
        localizer,
        found,
        out,
        keep,
        batch_size=batch_size,
        workers=workers,
        about={"pretrained": pretrained},
        data=called(images),
        command=command_line(),
    )
    failed = run_together(processes, job, engine=engine, gpus=gpus, failed=lambda _, problem: complain(problem))
    if failed < len(found):
        answers = Answers()
        answers.say(f"{len(found) - failed:,} fields in {out}")
        text = backbone.classes[0] if backbone.classes else "red crown"
        answers.next("search", out, text, *given.model_words)
    check_all(len(found), failed, out)
