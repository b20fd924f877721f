"""``concept-cam localize``: heat maps of images."""

from __future__ import annotations

from functools import partial
from itertools import compress
from pathlib import Path
from typing import Annotated

import typer

from concept_cam.address import address_of
from concept_cam.cli import options
from concept_cam.cli.answers import answers_of
from concept_cam.cli.command import command_line
from concept_cam.cli.drawn import draw_one
from concept_cam.cli.encoders import Asked
from concept_cam.cli.folders import sources
from concept_cam.cli.given import check_texts, gpus_for, references_of, refuse
from concept_cam.cli.images import called, check_all, check_apart, make_folder, output_of, table_at
from concept_cam.cli.localized import Localized
from concept_cam.cli.tabled import of_tables
from concept_cam.errors import ComparisonError, ImageError

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
    show: Annotated[
        bool,
        typer.Option("--show", help="Also show the map in the terminal: as an image where it can, else in blocks or letters."),
    ] = False,
    json: options.Json = False,
    out: options.Out = Path("concept-cam-out"),
) -> None:
    """Draw a heat map of what makes an image the target and not its references.

    Several images are a run with a table, rows.csv; the highest scores are listed last. The same command resumes it.

    The folder of a run is refused if other options are given; the results of one image overwrite earlier ones of its name.
    """
    from concept_cam.comparison import check_strength
    from concept_cam.files import write_image
    from concept_cam.methods import method_named, sees_score
    from concept_cam.runs import run_together
    from concept_cam.writers import Comparisons, Overlays, localize_images
    from concept_cam.writers.dataset import files_of_data
    from concept_cam.writers.names import names_of

    answers = answers_of(output, as_json=json, show=show)
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
    out, table = address_of(out), table_at(table)
    found = sources(of_tables(images or [])[0], but=out)
    make_folder(out)
    if plate is not None:
        found = [write_image(out / f"{target.replace(' ', '-')}-{seed or 0}.png", plate)]
    names = names_of(found)
    every = (*Overlays.endings, ".safetensors", ".json", *Comparisons.endings)
    results = [out / f"{name}{ending}" for name in names.values() for ending in every] + files_of_data(out, len(names))
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

    asked = (*[overlays is not False] * len(Overlays.endings), True, True, sweep, by_reference)
    told = Localized(answers, out, names, list(compress(every, asked)) if written == "files" else (), show)
    with answers.of(found):
        failed = run_together(processes, job, engine=engine, gpus=gpus, told=told.take, failed=answers.failed)
    if failed < len(found):
        texts = ["--vocabulary", vocabulary] if vocabulary else []
        told.finish(len(found) - failed, given, localizer, images or found, texts, plate is not None)
    check_all(len(found), failed, out)
