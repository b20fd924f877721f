"""``concept-cam evaluate``: methods, references and strengths on a data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from concept_cam.cli.encoders import HELP, load_encoder
from concept_cam.cli.sets import FIELDGUIDE, read_set
from concept_cam.errors import OptionError

if TYPE_CHECKING:
    from concept_cam.concepts import ConceptBank
    from concept_cam.datasets import Dataset
    from concept_cam.localizer import Localizer

_USUAL = "grad_cam,hires_cam,layer_cam"
_PAPER = {
    "methods": "grad_cam,layer_cam,score_cam",
    "references": "ranked:1,ranked:2,ranked:3,scoring:3",
    "strengths": "0.2,0.4,0.6,0.8,1.0,1.5,2.0",
}


def evaluate(
    dataset: Annotated[
        str, typer.Argument(help="A folder, a CSV, Parquet or COCO file; or fieldguide, which is drawn.")
    ] = FIELDGUIDE,
    layout: Annotated[
        str | None,
        typer.Option(
            help="folders, table, cub, pets, aircraft, cars, coco, fishvista, huggingface; by default what it looks like."
        ),
    ] = None,
    methods: Annotated[str | None, typer.Option(help=f"Names with commas between them.  [default: {_USUAL}]")] = None,
    references: Annotated[
        str | None,
        typer.Option(
            help="rival (as the data set says), nearest:K, scoring:K, ranked:K, random:K.  [default: rival,nearest:3]"
        ),
    ] = None,
    strengths: Annotated[
        str | None, typer.Option(help="Numbers above 0 with commas between them.  [default: 0.6,1.0]")
    ] = None,
    paper: Annotated[bool, typer.Option("--paper", help="The grid of the Finer-CAM paper, with deletion.")] = False,
    deletion: Annotated[int, typer.Option(min=0, help="Steps of the deletion curve; 0 leaves it out.")] = 0,
    sanity: Annotated[
        bool, typer.Option("--sanity", help="Also hold maps against those of mirrored, moved, unlearnt and wrong ones.")
    ] = False,
    probe: Annotated[bool, typer.Option("--probe", help="A linear probe on frozen embeddings in the place of texts.")] = False,
    decay: Annotated[float, typer.Option(min=0.0, help="Weight decay of the probe.")] = 1e-6,
    pool: Annotated[
        str | None, typer.Option(help="average: the mean of the patches, not the class token (with --probe).")
    ] = None,
    centred: Annotated[
        bool, typer.Option("--centred", help="Take the mean of all classes off each: no probability changes, maps do.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="How many pictures at most.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Which plates of the field guide.")] = 0,
    model: Annotated[str | None, typer.Option(help=HELP)] = None,
    pretrained: Annotated[
        str | None, typer.Option(help="An open_clip tag (downloaded on first use) or a weights file.")
    ] = None,
    site: Annotated[str | None, typer.Option(help="Where tokens are read; `concept-cam check` lists the sites.")] = None,
    templates: Annotated[str | None, typer.Option(help="Sentences around a name: a name or a file.")] = None,
    device: Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, cuda:1, mps.")] = "cpu",
    out: Annotated[Path, typer.Option(help="The folder for rows; one that is half done is gone on with.")] = Path(
        "concept-cam-evaluation"
    ),
) -> None:
    """Measure how well methods localize, base and finer, and whether the score rests on what they point at."""
    from rich.console import Console

    from concept_cam.evaluation import Grid, Settings, csv_of, means, own_scale, problems, read_rows, tables, write_rows
    from concept_cam.files import write_file

    if pool not in (None, "average") or (pool and not probe):
        raise OptionError(f"--pool {pool}: expected average, with --probe; a text knows the model's own pooling alone.")
    usual = _PAPER if paper else {"methods": _USUAL, "references": "rival,nearest:3", "strengths": "0.6,1.0"}
    settings = Settings(
        tuple((methods or usual["methods"]).split(",")),
        tuple((references or usual["references"]).split(",")),
        _numbers(strengths or usual["strengths"]),
        deletion or (10 if paper else 0),
        sanity,
    )
    data = read_set(dataset, layout, limit, seed, probe=probe)
    localizer = _localizer(model, pretrained, device, site, templates, data, pool)
    bank = _probe(localizer, data, decay) if probe else localizer.bank(data.classes)
    bank = bank.centred() if centred else bank
    scale = 1.0 if probe else own_scale(localizer.backbone)
    about = {
        "data": dataset,
        "layout": layout,
        "model": localizer.backbone.name,
        "pretrained": pretrained,
        "site": localizer.site,
        "templates": list(localizer.templates),
        "probe": decay if probe else None,
        "pool": pool,
        "centred": centred,
        "seed": seed,
    }
    file = write_rows(Grid(localizer, bank, scale, settings), data, out, about)
    rows = read_rows(file)
    console = Console(width=320, record=True)
    for table in tables(rows):
        console.print(table)
    found = means(rows)
    write_file(out / "means.csv", csv_of(found, list(dict.fromkeys(key for row in found for key in row))))
    write_file(out / "tables.md", "".join(f"{line.rstrip()}\n" for line in console.export_text().splitlines()).encode())
    for problem in [*data.problems, *problems(rows)]:
        typer.echo(f"concept-cam: left out: {problem}", err=True)
    used = len({row["picture"] for row in rows if "problem" not in row})
    left_out = len(data.problems) + len(problems(rows))
    typer.echo(f"{used} pictures, {left_out} left out; rows in {file}")


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise OptionError(f"--strengths {text}: expected numbers with commas between them, such as 0.6,1.0.") from None


def _localizer(
    model: str | None,
    pretrained: str | None,
    device: str,
    site: str | None,
    templates: str | None,
    data: Dataset,
    pool: str | None,
) -> Localizer:
    from concept_cam.localizer import Localizer

    backbone, sentences = load_encoder(model, pretrained, device)
    backbone = backbone.averaged() if pool else backbone
    return Localizer(backbone, vocabulary=data.classes, templates=templates or sentences, site=site)


def _probe(localizer: Localizer, data: Dataset, decay: float) -> ConceptBank:
    from concept_cam.evaluation.probe import features_of, fit_probe

    features, labels = features_of(localizer, data)
    return fit_probe(features, labels, data.classes, decay)
