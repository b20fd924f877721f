"""``concept-cam evaluate``: methods, references and strengths on a data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from concept_cam.cli.command import command_line
from concept_cam.cli.encoders import CLASSES, HELP, load_encoder
from concept_cam.cli.given import check_texts, refuse
from concept_cam.cli.sets import LARGEST_SEED, WORLD, is_drawn, read_set
from concept_cam.cli.terminal import complain, say
from concept_cam.errors import OptionError

if TYPE_CHECKING:
    from concept_cam.datasets import Dataset
    from concept_cam.localizer import Localizer

_PAPER = {
    "methods": "grad_cam,layer_cam,score_cam",
    "references": "rank:1,rank:2,rank:3,rivals:3",
    "strengths": "0.2,0.4,0.6,0.8,1.0,1.5,2.0",
}


def evaluate(
    dataset: Annotated[str, typer.Argument(help="A folder, a CSV, Parquet or COCO file; or world, which is drawn.")] = WORLD,
    layout: Annotated[
        str | None,
        typer.Option(
            help="folders, table, cub, pets, aircraft, cars, coco, fishvista, huggingface; by default what it looks like."
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(help="A folder that holds all files of a table; it names them relative to it.  [default: the table's]"),
    ] = None,
    methods: Annotated[
        str | None, typer.Option(help="Names with commas between them.  [default: grad_cam,hires_cam,layer_cam]")
    ] = None,
    references: Annotated[
        str | None,
        typer.Option(
            help="twin (as the data set says), nearest:K, rivals:K, rank:K, random:K; mosaic: the other three of a mosaic."
            "  [default: twin,nearest:3; with --mosaics: mosaic]"
        ),
    ] = None,
    strengths: Annotated[
        str | None, typer.Option(help="Numbers above 0 with commas between them.  [default: 0.6,1.0]")
    ] = None,
    paper: Annotated[bool, typer.Option("--paper", help="The grid of the Finer-CAM paper, with deletion.")] = False,
    deletion: Annotated[
        int | None,
        typer.Option(min=0, max=1000, help="Steps of the deletion curve; 0 leaves it out.  [default: 0; 10 with --paper]"),
    ] = None,
    sanity: Annotated[
        bool,
        typer.Option(
            "--sanity",
            help="Also hold maps against maps of the mirrored and the shifted image, of the model with shuffled parameters, "
            "and of an absent label.",
        ),
    ] = False,
    mosaics: Annotated[
        str | None,
        typer.Option(
            help="Four images in one, the others of the nearest or of random classes: nearest, random. No masks needed."
        ),
    ] = None,
    cells: Annotated[
        str | None,
        typer.Option(help="Images in a mosaic: whole, or half as large for a model of one size.  [default: whole]"),
    ] = None,
    probe: Annotated[bool, typer.Option("--probe", help="A linear probe on frozen embeddings in the place of texts.")] = False,
    decay: Annotated[float | None, typer.Option(min=0.0, max=1e6, help="Weight decay of the probe.  [default: 1e-06]")] = None,
    pool: Annotated[
        str | None, typer.Option(help="average: the mean of the patches, not the class token (with --probe).")
    ] = None,
    centred: Annotated[
        bool, typer.Option("--centred", help="Subtract the mean class vector from each: no probability changes, maps do.")
    ] = False,
    among: Annotated[
        str | None,
        typer.Option(help="Of a classifier: model: among all its classes; dataset: those of the data set.  [default: model]"),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many images at most.")] = 1000,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=LARGEST_SEED, help="Which plates of the embedded world; which mosaics.  [default: 0]"),
    ] = None,
    model: Annotated[str | None, typer.Option(help=HELP)] = None,
    pretrained: Annotated[
        str | None, typer.Option(help="An open_clip tag (downloaded on first use) or a weights file.")
    ] = None,
    classes: Annotated[str | None, typer.Option(help=CLASSES)] = None,
    site: Annotated[str | None, typer.Option(help="Where tokens are read; `concept-cam check` lists the sites.")] = None,
    templates: Annotated[str | None, typer.Option(help="Sentences around a name: a name or a file.")] = None,
    device: Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, cuda:1, mps.")] = "cpu",
    out: Annotated[Path, typer.Option(help="The folder for rows; one that is half done is resumed.")] = Path(
        "concept-cam-evaluation"
    ),
) -> None:
    """Measure how well methods localize, base and finer, and whether the score rests on what they point at."""
    from concept_cam.among import as_among
    from concept_cam.evaluation import evaluate as measure
    from concept_cam.evaluation.run import settings_of

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
    check_texts(templates=templates)
    data = read_set(dataset, layout, limit, seed, probe=probe, root=root)
    found = measure(
        _localizer(model, pretrained, classes, device, site, templates, data, pool),
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
    for line in found.text.split("\n"):
        say(line, 10_000)
    for problem in found.problems:
        complain(f"skipped: {problem}")
    say(f"{found.used} images, {found.skipped} skipped; rows in {out / 'rows.csv'}")


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise OptionError(f"--strengths {text}: expected numbers with commas between them, such as 0.6,1.0.") from None


def _localizer(
    model: str | None,
    pretrained: str | None,
    classes: str | None,
    device: str,
    site: str | None,
    templates: str | None,
    data: Dataset,
    pool: str | None,
) -> Localizer:
    from concept_cam.localizer import Localizer

    backbone, sentences = load_encoder(model, pretrained, device, classes)
    backbone = backbone.averaged() if pool else backbone
    vocabulary = () if backbone.classes else data.classes
    return Localizer(backbone, vocabulary=vocabulary, templates=templates or sentences, site=site)
