"""``concept-cam parts``: where the parts of images are, and what each looks like."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from concept_cam.cli import options
from concept_cam.cli.command import command_line
from concept_cam.cli.encoders import Asked
from concept_cam.cli.folders import sources
from concept_cam.cli.given import refuse
from concept_cam.cli.images import Watched, check_apart, make_folder, names_of
from concept_cam.cli.partfiles import Sheets, Tables
from concept_cam.cli.tabled import of_tables
from concept_cam.cli.terminal import complain, say
from concept_cam.errors import ConceptCamError, ImageError, OptionError, PromptError, one_line

if TYPE_CHECKING:
    from concept_cam.localizer import Localizer
    from concept_cam.parts import PartVocabulary
    from concept_cam.provenance import Provenance

_BATCH = 2
"""A finding holds a mask for each part at the size of its image."""

_DRAWN, _FEW = 6, 8
_PLATES = ("ember finch", "royal jay", "misty heron")


def parts(
    images: options.Images = None,
    parts: options.Parts = None,
    strength: Annotated[
        float, typer.Option(help="The weight of the other parts in a comparison; 0 gives the base map of each part.")
    ] = 1.0,
    method: options.Method = "legrad",
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
    out: options.Out = Path("concept-cam-parts"),
) -> None:
    """Find the parts of images, and what each looks like.

    Writes annotated/, parts.csv, coco.json, cub/, and a sheet for each species, which is what the folder of its images says.

    cub/ has the layout of CUB-200-2011; its images/ is the folder of the images, to be linked or copied there.
    """
    from concept_cam.comparison import check_strength
    from concept_cam.methods import method_named, sees_score
    from concept_cam.parts import read_parts
    from concept_cam.parts.how import how_parts_are_made

    chosen = method_named(method)
    if not sees_score(chosen):
        raise OptionError(f"{method} does not look at the score, so all parts would have one map; take another --method.")
    check_strength(strength)
    if images:
        refuse("--count", count, "where images are given: it says how many plates to draw")
    given = Asked(model, pretrained, classes, device, site, fit, size, templates)
    wanted = parts or given.preset.parts
    if wanted is None:
        raise OptionError(f"Which parts? Give --parts: {', '.join(_vocabularies())}, or a .yaml file of your own.")
    known = read_parts(wanted)
    if not images and not given.preset.draws:
        raise ImageError("No image given; images are drawn only for the embedded model (without --model).")
    listed, labels = of_tables(images or [])
    found = sources(listed, but=out)
    make_folder(out, "annotated", "cub", "images")
    if not found:
        images = [out / "images"]
        found = list(_draw(count or _DRAWN, out / "images"))
    names = names_of(found)
    check_apart(found, (out / "annotated" / f"{name}.png" for name in names.values()))
    backbone = given.load()
    localizer = given.localizer(backbone, templates=given.preset.suiting(backbone).part_templates, method=chosen)
    species = _species(found, images or [], known.parent) | {path: labels[path] for path in found if path in labels}
    made = how_parts_are_made(localizer, known, species, images or [], strength, command_line())
    failed = _run(localizer, known, names, species, strength, out, made)
    if failed:
        rest = f"the others are in {out}" if failed < len(found) else "none is left"
        raise ImageError(f"{failed} of {len(found)} images failed; {rest}.")


def _vocabularies() -> Iterator[str]:
    """The names of those that have a parent."""
    from concept_cam.prompts import prompts_folders, read_vocabulary

    names = {file.stem for folder in prompts_folders() for file in (folder / "vocabularies").glob("*.yaml")}
    for name in sorted(names):
        try:
            if read_vocabulary(name).parent:
                yield name
        except PromptError:
            continue


def _draw(count: int, folder: Path) -> Iterator[Path]:
    """So many plates, of each species alike, in a folder for each."""
    from concept_cam import world
    from concept_cam.files import write_image

    for k in sorted(range(count), key=lambda k: k % len(_PLATES)):
        name, seed = _PLATES[k % len(_PLATES)], k // len(_PLATES)
        path = folder / name.replace(" ", "_") / f"{name.replace(' ', '-')}-{seed}.png"
        yield write_image(path, world.draw_species(name, seed).image)


def _species(images: Sequence[Path], given: Sequence[Path], parent: str) -> dict[Path, str]:
    """What each shows: the name of its folder, or of the one that it is below in a folder of species, as a data set has it.

    If all are of one folder that nobody named, it is the parent.
    """
    from concept_cam.datasets.files import words

    roots = [Path(os.path.abspath(path)) for path in given if os.path.isdir(path)]  # noqa: PTH100, PTH112
    folders = {path: _below(Path(os.path.abspath(path)).parent, roots) for path in images}  # noqa: PTH100
    told = len(set(folders.values())) > 1 or bool(roots)
    return {path: (words(folder.name) if told else "") or parent for path, folder in folders.items()}


def _below(folder: Path, roots: Sequence[Path]) -> Path:
    """The folder, or that one around it which lies in one of the roots."""
    around = [root for root in roots if root in folder.parents]
    return max(around) / folder.relative_to(max(around)).parts[0] if around else folder


def _run(
    localizer: Localizer,
    vocabulary: PartVocabulary,
    names: Mapping[Path, str],
    species: Mapping[Path, str],
    strength: float,
    out: Path,
    made: Provenance,
) -> int:
    """Find the parts of all images, some at a time; returns how many failed."""
    from tqdm import tqdm

    from concept_cam.files import write_image
    from concept_cam.parts import stream_parts
    from concept_cam.parts.sheet import annotated, summary

    failed, watched = 0, Watched(names)
    sheets, tables = Sheets(species, out, made), Tables(species)

    with tqdm(total=len(names), disable=None if len(names) > _FEW else True) as bar:

        def report(path: Path, error: ConceptCamError) -> None:
            nonlocal failed
            if len(names) == 1:
                raise error
            failed += 1
            bar.update()
            sheets.leave_out(path)
            complain(error)

        done = stream_parts(localizer, watched, vocabulary, strength=strength, batch_size=_BATCH, on_error=report)
        with closing(done):
            for path, finding in done:
                try:
                    image = watched.again(path)
                    shown = annotated(finding, image)
                except ImageError as error:
                    report(path, error)
                    continue
                write_image(out / "annotated" / f"{names[path]}.png", shown)
                sheets.add(path, names[path], image, finding)
                tables.add(path, finding)
                if len(names) <= _FEW:
                    say(f"{one_line(path.name, 120)}: {summary(finding)}")
                bar.update()
    if failed < len(names):
        sheets.write_all()
        tables.write(out)
        read = _number(len(names) - failed, "image") + (f", {failed} skipped" if failed else "")
        sheets_of = f"{_number(sheets.written, 'sheet')} in {out}"
        say(
            f"{read}, {tables.visible} of {_number(tables.asked, 'part')} visible; "
            f"annotated/, parts.csv, coco.json, cub/ and {sheets_of}"
        )
    return failed


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"
