"""``concept-cam localize``: heat maps of images."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from concept_cam.address import address_of
from concept_cam.cli import options
from concept_cam.cli.command import command_line
from concept_cam.cli.drawn import draw_one
from concept_cam.cli.encoders import Asked
from concept_cam.cli.folders import sources
from concept_cam.cli.given import check_texts, gpus_for, references_of, refuse
from concept_cam.cli.images import called, check_all, check_apart, data_of, make_folder, output_of
from concept_cam.cli.tabled import of_tables
from concept_cam.cli.terminal import cell, complain, console, number, say
from concept_cam.errors import ComparisonError, ImageError

if TYPE_CHECKING:
    from concept_cam.result import Localization

_STRENGTH = 0.6


def localize(
    images: options.Images = None,
    target: Annotated[str | None, typer.Option(help="The concept to look for.")] = None,
    against: Annotated[list[str] | None, typer.Option(help="A concept to compare with; may be repeated.")] = None,
    vocabulary: options.Vocabulary = None,
    nearest: Annotated[
        int | None, typer.Option(max=100_000, help="Compare with the K concepts of the vocabulary that are most similar.")
    ] = None,
    rivals: Annotated[
        int | None, typer.Option(max=100_000, help="Compare with the K concepts that score highest on the image.")
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(help=f"The weight of the references; 0 gives the base map.  [default: {_STRENGTH}]"),
    ] = None,
    method: options.UsualMethod = None,
    model: options.Model = None,
    pretrained: options.Pretrained = None,
    classes: options.Classes = None,
    site: options.Site = None,
    fit: options.Fit = None,
    size: options.Size = None,
    templates: options.Templates = None,
    device: options.Device = "cpu",
    sweep: Annotated[bool, typer.Option("--sweep", help="Also draw the maps at strengths from 0 to 2, side by side.")] = False,
    by_reference: Annotated[
        bool,
        typer.Option("--by-reference", help="Also draw each place in the colour of the reference that it rules out most."),
    ] = False,
    seed: options.Seed = None,
    batch_size: options.BatchSize = 8,
    workers: options.Workers = 2,
    processes: options.Processes = 1,
    engine: options.Engine = "processes",
    table: options.Table = None,
    output: options.Output = "files",
    overlays: options.Overlays = None,
    out: options.Out = Path("concept-cam-out"),
) -> None:
    """Draw a heat map of what makes an image the target and not its references.

    Several images are a run with a table, rows.csv; a run that was interrupted is resumed by the same command.
    """
    from concept_cam.comparison import check_strength
    from concept_cam.files import write_image
    from concept_cam.methods import method_named, sees_score
    from concept_cam.runs import run_together
    from concept_cam.writers import Comparisons, Overlays, Table, localize_images
    from concept_cam.writers.dataset import files_of_data
    from concept_cam.writers.names import names_of

    chosen = None if method is None else method_named(method)
    compares = chosen is None or sees_score(chosen)
    references = references_of(against, nearest, rivals)
    gpus, written = gpus_for(engine, device), output_of(output, table)
    if strength is not None:
        check_strength(strength)
    if images:
        refuse("--seed", seed, "where images are given: it says which plate to draw")
    if not compares:
        refuse("--strength", strength, f"with --method {method}, which does not look at the score")
    given = Asked(model, pretrained, classes, device, site, fit, size, templates)
    check_texts(vocabulary=vocabulary)
    plate = None
    if not images:
        if not given.preset.draws:
            raise ImageError("No image given; images are drawn only for the embedded encoder (without --model).")
        plate, target, twin = draw_one(target, seed or 0)
        references = references or (twin if compares else None)
    elif target is None:
        raise ComparisonError("What shall be found in the image? Name it with --target.")
    out, table = address_of(out), None if table is None else address_of(table)
    if table is not None:
        Table(table).discard()  # A mistake is told before the work.
    found = sources(of_tables(images or [])[0], but=out)
    make_folder(out)
    if plate is not None:
        found = [write_image(out / f"{target.replace(' ', '-')}-{seed or 0}.png", plate)]
    names = names_of(found)
    endings = (*Overlays.endings, ".safetensors", ".json", *Comparisons.endings)
    results = [out / f"{name}{ending}" for name in names.values() for ending in endings] + files_of_data(out, len(names))
    check_apart((*found, *(images or ())), (*results, *([table] if table else ())))
    backbone = given.load()
    preset = given.preset.suiting(backbone)
    localizer = given.localizer(backbone, vocabulary or preset.vocabulary or (), preset.templates, chosen)
    job = partial(
        localize_images,
        localizer,
        found,
        out,
        target,
        references,
        strength=_STRENGTH if strength is None else strength,
        sweep=sweep,
        by_reference=(1.0 if strength is None else strength) if by_reference else None,
        table=table,
        output=written,
        overlays=overlays,
        batch_size=batch_size,
        workers=workers,
        about={"pretrained": pretrained},
        data=called(images or found),
        command=command_line(),
    )

    def tell(path: Path, result: Localization) -> None:
        if written == "files":
            _print_table(result, path, out / f"{names[path]}-overlay.png" if overlays is not False else None)

    failed = run_together(processes, job, engine=engine, gpus=gpus, told=tell, failed=lambda _, problem: complain(problem))
    if written == "parquet" and failed < len(found):
        say(f"{number(len(found) - failed, 'image')} in {data_of(out)}")
    check_all(len(found), failed, out)


def _print_table(result: Localization, path: Path, overlay_path: Path | None) -> None:
    from rich.table import Table
    from rich.text import Text

    comparison = result.comparison
    table = Table("concept", "role", "score", "similarity", "weight", title=Text(cell(path.name)), title_justify="left")
    table.add_row(Text(cell(comparison.target)), "target", f"{result.scores[comparison.target]:.3f}", "", "")
    rows = zip(comparison.references, comparison.similarities, comparison.weights, strict=True)
    for name, similarity, weight in rows:
        table.add_row(Text(cell(name)), "reference", f"{result.scores[name]:.3f}", f"{similarity:.3f}", f"{weight:.2f}")
    console().print(table)
    x, y = result.peak()
    say(f"strongest at ({x:.0f}, {y:.0f})" + (f"; heat map in {overlay_path}" if overlay_path else ""))
