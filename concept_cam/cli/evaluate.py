"""``concept-cam evaluate``: methods, references and strengths on a data set."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from concept_cam.address import address_of
from concept_cam.cli import options
from concept_cam.cli.answers import Answers
from concept_cam.cli.command import command_line
from concept_cam.cli.encoders import Asked
from concept_cam.cli.given import gpus_for, refuse
from concept_cam.cli.sets import WORLD, is_drawn, read_set
from concept_cam.cli.terminal import complain, say
from concept_cam.errors import OptionError

_PAPER = {
    "methods": "grad_cam,layer_cam,score_cam",
    "references": "rank:1,rank:2,rank:3,rivals:3",
    "strengths": "0.2,0.4,0.6,0.8,1.0,1.5,2.0",
}


def evaluate(
    dataset: Annotated[
        str, typer.Argument(help="A folder, or a CSV, Parquet or COCO file; world, world-birds and others are drawn.")
    ] = WORLD,
    layout: options.Layout = None,
    root: options.Root = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Names separated by commas, as those of --method.  [default: grad_cam,hires_cam,layer_cam, and class_stream "
            "where it is the default of localize]"
        ),
    ] = None,
    references: Annotated[
        str | None,
        typer.Option(
            help="twin (as the data set says), nearest:K, rivals:K, rank:K or random:K; mosaic: the other three classes of a "
            "mosaic. Separated by commas.  [default: twin,nearest:3; with --mosaics: mosaic]"
        ),
    ] = None,
    strengths: Annotated[str | None, typer.Option(help="Numbers above 0, separated by commas.  [default: 0.6,1.0]")] = None,
    paper: Annotated[bool, typer.Option("--paper", help="Run the grid of the Finer-CAM paper, with deletion.")] = False,
    deletion: Annotated[
        int | None,
        typer.Option(min=0, max=1000, help="The steps of the deletion curve; 0 omits it.  [default: 0; 10 with --paper]"),
    ] = None,
    sanity: Annotated[
        bool,
        typer.Option(
            "--sanity",
            help="Compare maps with those of the mirrored and the shifted image, of the model with shuffled parameters, "
            "and of an absent label.",
        ),
    ] = False,
    mosaics: Annotated[
        str | None,
        typer.Option(help="Evaluate on mosaics of four images, the others from nearest or random classes: nearest, random."),
    ] = None,
    cells: Annotated[
        str | None,
        typer.Option(help="The images in a mosaic: whole, or half as large for a model of one size.  [default: whole]"),
    ] = None,
    probe: Annotated[bool, typer.Option("--probe", help="Use a linear probe on frozen embeddings instead of texts.")] = False,
    decay: Annotated[
        float | None, typer.Option(min=0.0, max=1e6, help="The weight decay of the probe.  [default: 1e-06]")
    ] = None,
    pool: Annotated[
        str | None, typer.Option(help="average: use the mean of the patches, not the class token (with --probe).")
    ] = None,
    centred: Annotated[
        bool,
        typer.Option("--centred", help="Subtract the mean class vector from each: probabilities stay the same, maps change."),
    ] = False,
    among: options.Among = None,
    limit: options.Limit = 1000,
    seed: options.Seed = None,
    model: options.Model = None,
    pretrained: options.Pretrained = None,
    classes: options.Classes = None,
    site: options.Site = None,
    fit: options.Fit = None,
    size: options.Size = None,
    templates: options.Templates = None,
    device: options.Device = "cpu",
    processes: options.Processes = 1,
    engine: options.Engine = "processes",
    out: options.Out = Path("concept-cam-evaluation"),
) -> None:
    """Measure how well the maps of methods localize, base and contrastive, and whether the score depends on what they mark."""
    from concept_cam.among import as_among
    from concept_cam.evaluation import evaluate as measure
    from concept_cam.evaluation.run import settings_of
    from concept_cam.runs import run_together

    gpus, out = gpus_for(engine, device), address_of(out)
    if pool not in (None, "average") or (pool and not probe):
        raise OptionError(f"--pool {pool}: expected average, with --probe; a text knows the model's own pooling alone.")
    if not probe:
        refuse("--decay", decay, "without --probe")
    else:
        refuse("--templates", templates, "with --probe: its rows stand in the place of texts")
        refuse("--among", among, "with --probe: it knows the classes that it was trained on alone")
    if paper and mosaics:
        raise OptionError("--paper is a grid with a deletion curve, of single images; leave it out, or leave out --mosaics.")
    if not is_drawn(dataset, layout) and not mosaics:
        refuse("--seed", seed, f"on {dataset}: it says which plates of the embedded world to draw, and which mosaics to make")
    given = Asked(model, pretrained, classes, device, site, fit, size, templates)
    chosen, seed = None if among is None else as_among(among), seed or 0
    usual = _PAPER if paper else {}
    methods, references = methods or usual.get("methods"), references or usual.get("references")
    strengths = strengths or usual.get("strengths")
    asked: dict[str, Any] = {
        "methods": tuple(methods.split(",")) if methods else None,
        "references": tuple(references.split(",")) if references else None,
        "strengths": _numbers(strengths) if strengths else None,
        "deletion": (10 if paper else 0) if deletion is None else deletion,
        "sanity": sanity,
        "mosaics": mosaics,
        "cells": cells,
        "seed": seed if mosaics else None,
    }
    settings_of(**asked)  # A mistake is told before data and model are read.
    data = read_set(dataset, layout, limit, seed, probe=probe, root=root)
    backbone = given.load()
    usual_templates = given.preset.suiting(backbone).templates
    backbone = backbone.averaged() if pool else backbone
    job = partial(
        measure,
        given.localizer(backbone, () if backbone.classes else data.classes, usual_templates),
        data,
        out,
        **asked,
        among=chosen,
        probe=probe,
        decay=decay,
        centred=centred,
        about={"data": dataset, "layout": layout, "pretrained": pretrained, "pool": pool, "seed": seed},
        command=command_line(),
    )
    found = run_together(processes, job, engine=engine, gpus=gpus)
    for line in found.text.split("\n"):
        say(line, 10_000)
    for problem in found.problems:
        complain(f"skipped: {problem}")
    say(f"{found.used} images, {found.skipped} skipped; report in {out / 'report.html'}, rows in {out / 'rows.csv'}")
    if not probe:  # An audit is of the model's own classes.
        Answers().next("audit", dataset, *_how(layout, root), *given.words)


def _how(layout: str | None, root: Path | None) -> list[str]:
    """The options that say how a data set is read."""
    return [word for option, value in (("--layout", layout), ("--root", root)) if value for word in (option, str(value))]


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise OptionError(f"--strengths {text}: expected numbers with commas between them, such as 0.6,1.0.") from None
