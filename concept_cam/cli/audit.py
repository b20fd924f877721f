"""``concept-cam audit``: what a model relies on on the images of a data set."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from concept_cam.address import address_of
from concept_cam.cli import options
from concept_cam.cli.command import command_line
from concept_cam.cli.encoders import Asked
from concept_cam.cli.given import check_texts, gpus_for, refuse
from concept_cam.cli.report import read_conditions, tell
from concept_cam.cli.sets import is_drawn, read_set
from concept_cam.errors import OptionError

if TYPE_CHECKING:
    from concept_cam.presets import Preset


def audit(
    dataset: Annotated[
        str,
        typer.Argument(help="A folder, or a CSV, Parquet or COCO file; world-birds and world-shortcuts are drawn."),
    ] = "world-birds",
    layout: options.Layout = None,
    root: options.Root = None,
    parts: options.Parts = None,
    backgrounds: Annotated[
        str | None,
        typer.Option(help="Texts that should not change a decision: the name of a list, or a file with one a line."),
    ] = None,
    among: options.Among = None,
    limit: options.Limit = 2000,
    seed: options.Seed = None,
    model: options.Model = None,
    pretrained: options.Pretrained = None,
    classes: options.Classes = None,
    other_model: Annotated[
        str | None, typer.Option(help="A second model on the same images, with the same options, to compare with.")
    ] = None,
    other_pretrained: Annotated[str | None, typer.Option(help="The tag or the weights of the second model.")] = None,
    method: options.UsualMethod = None,
    site: options.Site = None,
    fit: options.Fit = None,
    size: options.Size = None,
    templates: options.Templates = None,
    device: options.Device = "cpu",
    fail_on: options.FailOn = None,
    processes: options.Processes = 1,
    engine: options.Engine = "processes",
    out: options.Out = Path("concept-cam-audit"),
) -> None:
    """Find what a model relies on: its accuracy, the classes it confuses, evidence off the object, backgrounds that decide."""
    from concept_cam.among import as_among, chosen_among
    from concept_cam.audit import Explored, audit as look_at
    from concept_cam.methods import method_named
    from concept_cam.runs import run_together

    gpus, out = gpus_for(engine, device), address_of(out)
    conditions, chosen = read_conditions(fail_on), None if among is None else as_among(among)
    given = [Asked(model, pretrained, classes, device, site, fit, size, templates)]
    if other_model is not None or other_pretrained is not None:
        given.append(replace(given[0], model=other_model or model, pretrained=other_pretrained))
    if len(given) > 1 and given[1].model is None:
        raise OptionError(f"--other-pretrained {other_pretrained} needs an --other-model, such as ViT-B-16.")
    if not is_drawn(dataset, layout):
        refuse("--seed", seed, f"on {dataset}: it says which plates of the embedded world to draw")
    check_texts(parts=parts, vocabulary=backgrounds)
    decides = None if method is None else method_named(method)
    data = read_set(dataset, layout, limit, seed or 0, root=root)
    localizers = []
    for one in given:
        backbone = one.load()
        chosen_among(chosen, backbone)  # A mistake is told before anything is run.
        vocabulary = () if backbone.classes else data.classes
        localizers.append(one.localizer(backbone, vocabulary, one.preset.suiting(backbone).templates, decides))
    audits, asked = [], []
    for one, localizer, folder in zip(given, localizers, (out, out / "other"), strict=False):
        about = {"data": dataset, "layout": layout, "seed": seed or 0, "pretrained": one.pretrained}
        texts = _texts(one.preset.suiting(localizer.backbone), parts, backgrounds)
        asked.append(texts)
        job = partial(look_at, localizer, data, folder, **texts, among=chosen, about=about, command=command_line())
        audits.append(run_together(processes, job, engine=engine, gpus=gpus))
    tell(audits, conditions, Explored.of(audits[0], localizers[0], data, asked[0]["scene_templates"]))


def _texts(preset: Preset, parts: str | None, backgrounds: str | None) -> dict[str, Any]:
    """What the model is asked beside the classes: as given, or what suits the model."""
    from concept_cam.parts import read_parts
    from concept_cam.prompts import read_templates, read_vocabulary

    parts, backgrounds = parts or preset.parts, backgrounds or preset.backgrounds
    return {
        "parts": read_parts(parts) if parts else None,
        "backgrounds": read_vocabulary(backgrounds).names if backgrounds else (),
        "part_templates": read_templates(preset.part_templates) if parts and preset.part_templates else None,
        "scene_templates": read_templates(preset.scene_templates) if backgrounds and preset.scene_templates else None,
    }
