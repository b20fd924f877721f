"""``concept-cam audit``: what a model relies on on the images of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from concept_cam.cli.command import command_line
from concept_cam.cli.encoders import CLASSES, HELP, load_encoder
from concept_cam.cli.given import check_texts, refuse
from concept_cam.cli.report import FAIL_ON, read_conditions, tell
from concept_cam.cli.sets import LARGEST_SEED, WORLD, is_drawn, read_set
from concept_cam.errors import OptionError

if TYPE_CHECKING:
    from concept_cam.datasets import Dataset
    from concept_cam.localizer import Localizer


def audit(
    dataset: Annotated[
        str,
        typer.Argument(help="A folder, a CSV, Parquet or COCO file; or world-birds, world-shortcuts: drawn."),
    ] = "world-birds",
    layout: Annotated[str | None, typer.Option(help="As in `evaluate`; by default what it looks like.")] = None,
    root: Annotated[
        Path | None,
        typer.Option(help="A folder that holds all files of a table; it names them relative to it.  [default: the table's]"),
    ] = None,
    vocabulary: Annotated[
        str | None, typer.Option(help="Parts whose attributes tell classes apart in words: a name, or a YAML or CSV file.")
    ] = None,
    backgrounds: Annotated[
        str | None, typer.Option(help="Texts that should not move a decision: a name, or a file with one a line.")
    ] = None,
    among: Annotated[
        str | None,
        typer.Option(help="Of a classifier: model: among all its classes; dataset: those of the data set.  [default: model]"),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many images at most.")] = 2000,
    seed: Annotated[
        int | None, typer.Option(min=0, max=LARGEST_SEED, help="Which plates of the embedded world.  [default: 0]")
    ] = None,
    model: Annotated[str | None, typer.Option(help=HELP)] = None,
    pretrained: Annotated[
        str | None, typer.Option(help="An open_clip tag (downloaded on first use) or a weights file.")
    ] = None,
    classes: Annotated[str | None, typer.Option(help=f"{CLASSES} The second model is given the same.")] = None,
    other_model: Annotated[str | None, typer.Option(help="A second model on the same images: where evidence moved.")] = None,
    other_pretrained: Annotated[str | None, typer.Option(help="Its tag or weights file.")] = None,
    method: Annotated[str, typer.Option(help="`concept-cam methods` lists them.")] = "hires_cam",
    site: Annotated[str | None, typer.Option(help="Where tokens are read; `concept-cam check` lists the sites.")] = None,
    templates: Annotated[str | None, typer.Option(help="Sentences around a name: a name or a file.")] = None,
    device: Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, cuda:1, mps.")] = "cpu",
    fail_on: Annotated[list[str] | None, typer.Option(help=FAIL_ON)] = None,
    out: Annotated[Path, typer.Option(help="The folder for the report; one that is half done is resumed.")] = Path(
        "concept-cam-audit"
    ),
) -> None:
    """Find what a model relies on: accuracy, confused pairs in words, evidence off the object, backgrounds that decide."""
    from concept_cam.audit import audit as look_at
    from concept_cam.evaluation.among import as_among, chosen_among

    conditions, chosen = read_conditions(fail_on), None if among is None else as_among(among)
    compared = other_model is not None or other_pretrained is not None
    if compared and other_model is None and model is None:
        raise OptionError(f"--other-pretrained {other_pretrained} needs an --other-model, such as ViT-B-16.")
    if not is_drawn(dataset, layout):
        refuse("--seed", seed, f"on {dataset}: it says which plates of the embedded world to draw")
    seed = seed or 0
    check_texts(templates=templates, parts=vocabulary, vocabulary=backgrounds)
    data = read_set(dataset, layout, limit, seed, root=root)
    options: dict[str, Any] = {"method": method, "site": site, "templates": templates, "device": device, "classes": classes}
    localizers = [_localizer(data, model, pretrained, **options)]
    localizers += [_localizer(data, other_model or model, other_pretrained, **options)] if compared else []
    for localizer, _ in localizers:
        chosen_among(chosen, localizer.backbone)  # A mistake is told before anything is run.
    audits = []
    for (localizer, own), weights, folder in zip(
        localizers, (pretrained, other_pretrained), (out, out / "other"), strict=False
    ):
        about = {"data": dataset, "layout": layout, "seed": seed, "pretrained": weights}
        texts = _texts(localizer, own, vocabulary, backgrounds)
        audits.append(look_at(localizer, data, folder, **texts, among=chosen, about=about, command=command_line()))
    tell(audits, conditions)


def _localizer(
    data: Dataset,
    model: str | None,
    pretrained: str | None,
    *,
    method: str,
    site: str | None,
    templates: str | None,
    device: str,
    classes: str | None,
) -> tuple[Localizer, str | None]:
    """A model that looks at the data, and the name of the templates that suit it."""
    from concept_cam.localizer import Localizer
    from concept_cam.methods import method_named

    chosen = method_named(method)
    backbone, own = load_encoder(model, pretrained, device, classes)
    how: dict[str, Any] = {"templates": templates or own, "method": chosen, "site": site}
    return Localizer(backbone, vocabulary=() if backbone.classes else data.classes, **how), own


def _texts(localizer: Localizer, own: str | None, vocabulary: str | None, backgrounds: str | None) -> dict[str, Any]:
    """What the model is asked beside the classes, as told or what suits it; a classifier reads no texts, so nothing."""
    from concept_cam.parts import read_parts
    from concept_cam.prompts import read_templates, read_vocabulary

    embedded = own == WORLD
    usual = None if localizer.backbone.classes else "world-habitats" if embedded else "backgrounds"
    parts, scenes = vocabulary or ("world-parts" if embedded else None), backgrounds or usual
    return {
        "parts": read_parts(parts) if parts else None,
        "backgrounds": read_vocabulary(scenes).names if scenes else (),
        "part_templates": read_templates(WORLD if embedded else "parts") if parts else None,
        "scene_templates": read_templates(WORLD if embedded else "scenes") if scenes else None,
    }
