"""``concept-cam parts``: where the parts of images are, and what each looks like."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from concept_cam.address import address_of
from concept_cam.cli import options
from concept_cam.cli.command import command_line
from concept_cam.cli.drawn import draw_several
from concept_cam.cli.encoders import Asked
from concept_cam.cli.folders import sources
from concept_cam.cli.given import gpus_for, refuse, vocabularies_of_parts
from concept_cam.cli.images import called, check_all, check_apart, data_of, make_folder, output_of
from concept_cam.cli.tabled import of_tables, species_of
from concept_cam.cli.terminal import complain, number, say
from concept_cam.errors import ImageError, OptionError, one_line

if TYPE_CHECKING:
    from concept_cam.parts import PartFinding

_DRAWN, _FEW = 6, 8


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
    from concept_cam.parts.sheet import summary
    from concept_cam.runs import run_together
    from concept_cam.writers import Table, find_parts_of_images
    from concept_cam.writers.dataset import files_of_data
    from concept_cam.writers.names import names_of

    chosen = None if method is None else method_named(method)
    if chosen is not None and not sees_score(chosen):
        raise OptionError(f"{method} does not look at the score, so all parts would have one map; take another --method.")
    check_strength(strength)
    gpus, written = gpus_for(engine, device), output_of(output, table)
    if images:
        refuse("--count", count, "where images are given: it says how many plates to draw")
    given = Asked(model, pretrained, classes, device, site, fit, size, templates)
    wanted = parts or given.preset.parts
    if wanted is None:
        raise OptionError(f"Which parts? Give --parts: {', '.join(vocabularies_of_parts())}, or a .yaml file of your own.")
    known = read_parts(wanted)
    out, table = address_of(out), None if table is None else address_of(table)
    if table is not None:
        Table(table).discard()  # A mistake is told before the work.
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

    def tell(path: Path, finding: PartFinding) -> None:
        if len(found) <= _FEW:
            say(f"{one_line(path.name, 120)}: {summary(finding)}")

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
        batch_size=batch_size,
        workers=workers,
        about={"pretrained": pretrained},
        data=called(images or []),
        command=command_line(),
    )
    made = run_together(
        processes,
        job,
        engine=engine,
        gpus=gpus,
        told=tell,
        failed=lambda _, problem: complain(problem),
        unnamed=lambda error: complain(f"not in cub/: {error}"),
    )
    if made.failed < len(found):
        read = number(len(found) - made.failed, "image") + (f", {made.failed} skipped" if made.failed else "")
        drawn = "annotated/, " if overlays or (overlays is None and written == "files") else ""
        files = f"parts.csv, coco.json, cub/ and {number(made.sheets, 'sheet')} in {out}"
        where = f"{drawn}{files if written == 'files' else data_of(out)}"
        say(f"{read}, {made.visible} of {number(made.asked, 'part')} visible; {where}")
    check_all(len(found), made.failed, out)
