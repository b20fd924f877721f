"""``concept-cam audit``: what a model goes by on the pictures of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from concept_cam.cli.encoders import HELP, load_encoder
from concept_cam.cli.sets import FIELDGUIDE, read_set
from concept_cam.errors import AuditFailed

if TYPE_CHECKING:
    from concept_cam.audit import Audit
    from concept_cam.datasets import Dataset


def audit(
    dataset: Annotated[
        str,
        typer.Argument(help="A folder, a CSV, Parquet or COCO file; or fieldguide-birds, fieldguide-shortcuts: drawn."),
    ] = "fieldguide-birds",
    layout: Annotated[str | None, typer.Option(help="As in `evaluate`; by default what it looks like.")] = None,
    vocabulary: Annotated[
        str | None, typer.Option(help="Parts whose attributes tell classes apart in words: a name or a YAML file.")
    ] = None,
    backgrounds: Annotated[
        str | None, typer.Option(help="Texts that should not move a decision: a name, or a file with one a line.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many pictures at most.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Which plates of the field guide.")] = 0,
    model: Annotated[str | None, typer.Option(help=HELP)] = None,
    pretrained: Annotated[
        str | None, typer.Option(help="An open_clip tag (downloaded on first use) or a weights file.")
    ] = None,
    other_model: Annotated[str | None, typer.Option(help="A second model on the same pictures: where evidence moved.")] = None,
    other_pretrained: Annotated[str | None, typer.Option(help="Its tag or weights file.")] = None,
    method: Annotated[str, typer.Option(help="`concept-cam methods` lists them.")] = "hires_cam",
    site: Annotated[str | None, typer.Option(help="Where tokens are read; `concept-cam check` lists the sites.")] = None,
    templates: Annotated[str | None, typer.Option(help="Sentences around a name: a name or a file.")] = None,
    device: Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, cuda:1, mps.")] = "cpu",
    fail_on: Annotated[
        list[str] | None,
        typer.Option(help="Exit with 1 if so: 'off_object > 0.3', 'accuracy < 0.9', 'suspects > 0'; can be given again."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder for the report; one that is half done is gone on with.")] = Path(
        "concept-cam-audit"
    ),
) -> None:
    """Find what a model goes by: accuracy, confused pairs in words, evidence off the object, backgrounds that decide."""
    from concept_cam.audit.report import write_report
    from concept_cam.audit.summary import Condition, summary

    conditions = [Condition.read(text) for text in fail_on or ()]
    data = read_set(dataset, layout, limit, seed)
    about = {"data": dataset, "seed": seed}
    options: dict[str, Any] = {"method": method, "site": site, "templates": templates, "device": device}
    texts = {"vocabulary": vocabulary, "backgrounds": backgrounds}
    found = _audit(data, model, pretrained, out, about, texts, options)
    other = None
    if other_model is not None or other_pretrained is not None:
        other = _audit(data, other_model or model, other_pretrained, out / "other", about, texts, options)
    report = write_report(found, other)
    figures = summary(found)
    for problem in found.problems:
        typer.echo(f"concept-cam: left out: {problem}", err=True)
    suspects = ", ".join(figures["suspect_classes"]) or "none"
    typer.echo(f"{figures['pictures']} pictures, {figures['left_out']} left out, accuracy {figures['accuracy']:.3f}")
    typer.echo(f"evidence off the object: {suspects}")
    typer.echo(f"report in {report}")
    reasons = [reason for condition in conditions if (reason := condition.reason(figures))]
    if reasons:
        raise AuditFailed(f"{'; '.join(reasons)}: {report} shows why.")


def _audit(
    data: Dataset,
    model: str | None,
    pretrained: str | None,
    out: Path,
    about: dict[str, Any],
    texts: dict[str, str | None],
    options: dict[str, Any],
) -> Audit:
    """Look at all pictures with one model."""
    from concept_cam.audit import audit as look_at
    from concept_cam.localizer import Localizer
    from concept_cam.methods import method_named
    from concept_cam.parts import read_parts
    from concept_cam.prompts import read_templates, read_vocabulary

    backbone, own = load_encoder(model, pretrained, options["device"])
    embedded = own == FIELDGUIDE
    localizer = Localizer(
        backbone,
        vocabulary=data.classes,
        templates=options["templates"] or own,
        method=method_named(options["method"]),
        site=options["site"],
    )
    vocabulary = texts["vocabulary"] or ("fieldguide-parts" if embedded else None)
    backgrounds = texts["backgrounds"] or ("fieldguide-habitats" if embedded else "backgrounds")
    return look_at(
        localizer,
        data,
        out,
        parts=read_parts(vocabulary) if vocabulary else None,
        backgrounds=read_vocabulary(backgrounds).names,
        part_templates=read_templates(own if embedded else "parts"),
        scene_templates=read_templates(own if embedded else "scenes"),
        about={**about, "pretrained": pretrained, "site": localizer.site, "templates": list(localizer.templates)},
    )
