"""``concept-cam parts``: where the parts of images are, and what each looks like."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from concept_cam.address import address_of
from concept_cam.cli import options
from concept_cam.cli.answers import answers_of
from concept_cam.cli.command import command_line
from concept_cam.cli.drawn import draw_several
from concept_cam.cli.encoders import Asked
from concept_cam.cli.folders import sources
from concept_cam.cli.found import Found
from concept_cam.cli.given import gpus_for, refuse, vocabularies_of_parts
from concept_cam.cli.images import called, check_all, check_apart, make_folder, output_of, table_at
from concept_cam.cli.tabled import of_tables, species_of
from concept_cam.cli.terminal import complain
from concept_cam.errors import ImageError, OptionError

_DRAWN = 6


def parts(
    images: options.Images = None,
    parts: options.Parts = None,
    strength: Annotated[
        float, typer.Option(help="The weight of the other parts in a comparison; 0 gives the base map of each part.")
    ] = 1.0,
    method: options.UsualMethod = None,
    model: options.Model = None,
    pretrained: options.Pretrained = None,
    classes: options.Classes = None,
    site: options.Site = None,
    fit: options.Fit = None,
    size: options.Size = None,
    templates: options.Templates = None,
    device: options.Device = "cpu",
    count: Annotated[
        int | None,
        typer.Option(min=1, max=100_000, help=f"The number of images to draw if none is given.  [default: {_DRAWN}]"),
    ] = None,
    batch_size: options.BatchSize = 2,
    workers: options.Workers = 2,
    processes: options.Processes = 1,
    engine: options.Engine = "processes",
    table: options.Table = None,
    output: options.Output = "files",
    overlays: options.Overlays = None,
    explore: Annotated[
        bool,
        typer.Option(
            "--explore", help="Write an explorer beside each page, to compare phrases on its images: one more pass for each."
        ),
    ] = False,
    boxes: Annotated[bool, typer.Option("--boxes", help="Draw the box of each part besides its point.")] = False,
    json: options.Json = False,
    out: options.Out = Path("concept-cam-parts"),
) -> None:
    """Find the parts of images, and what each looks like.

    Writes annotated/, findings/, parts.csv, coco.json, cub/, and a page for each species, which has the name of the folder of
    its images (with --explore, an explorer beside each); with --as parquet parts.csv and data/. A run that was interrupted is
    resumed by the same command.

    cub/ has the layout of CUB-200-2011; its images/ is the folder of the images, to be linked or copied there.
    """
    from concept_cam.comparison import check_strength
    from concept_cam.methods import method_named, sees_score
    from concept_cam.parts import read_parts
    from concept_cam.runs import run_together
    from concept_cam.writers import find_parts_of_images
    from concept_cam.writers.dataset import files_of_data
    from concept_cam.writers.names import names_of

    answers = answers_of(output, as_json=json)
    chosen = None if method is None else method_named(method)
    if chosen is not None and not sees_score(chosen):
        raise OptionError(f"{method} does not look at the score, so all parts would have one map; take another --method.")
    check_strength(strength)
    gpus, written = gpus_for(engine, device), output_of(output, table)
    draws = _draws(written, overlays, boxes=boxes)
    if images:
        refuse("--count", count, "where images are given: it says how many plates to draw")
    given = Asked(model, pretrained, classes, device, site, fit, size, templates)
    wanted = parts or given.preset.parts
    if wanted is None:
        raise OptionError(f"Which parts? Give --parts: {', '.join(vocabularies_of_parts())}, or a .yaml file of your own.")
    known = read_parts(wanted)
    out, table = address_of(out), table_at(table)
    if not images and not given.preset.draws:
        raise ImageError("No image given; images are drawn only for the embedded encoder (without --model).")
    listed, labels = of_tables(images or [])
    found = sources(listed, but=out)
    make_folder(out, "annotated", "findings", "cub", "images")
    if not found:
        images = [out / "images"]
        found = list(draw_several(count or _DRAWN, out / "images"))
    results = [out / "annotated" / f"{name}.png" for name in names_of(found).values()]
    results += files_of_data(out, len(found))
    check_apart((*found, *(images or ())), (*results, *([table] if table else ())))
    backbone = given.load()
    localizer = given.localizer(backbone, templates=given.preset.suiting(backbone).part_templates, method=chosen)
    species = species_of(found, images or [], known.parent) | {path: labels[path] for path in found if path in labels}

    job = partial(
        find_parts_of_images,
        localizer,
        species,
        out,
        known,
        strength=strength,
        table=table,
        output=written,
        overlays=overlays,
        explore=explore,
        boxes=boxes,
        batch_size=batch_size,
        workers=workers,
        about={"pretrained": pretrained},
        data=called(images or []),
        command=command_line(),
    )
    told = Found(answers, out, names_of(found), draws, written)
    unnamed = lambda error: complain(f"not in cub/: {error}")  # noqa: E731
    with answers.of(found):
        made = run_together(processes, job, engine=engine, gpus=gpus, told=told.take, failed=answers.failed, unnamed=unnamed)
    told.finish(made, given)
    check_all(len(found), made.failed, out)


def _draws(output: str, overlays: bool | None, *, boxes: bool) -> bool:
    """Whether images are drawn on.

    Args:
        output: ``files`` or ``parquet``.
        overlays: as it was given.
        boxes: whether boxes are asked for.

    Raises:
        OptionError: boxes are asked for, and nothing is drawn.
    """
    draws = output == "files" if overlays is None else overlays
    if boxes and not draws:
        raise OptionError("--boxes has no effect where nothing is drawn; leave it out, or add --overlays.")
    return draws
