"""``concept-cam parts``: where the parts of pictures are, and what each looks like."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from concept_cam.cli.encoders import HELP, load_encoder
from concept_cam.cli.given import refuse
from concept_cam.cli.pictures import check_apart, first_free, make_folder, names_of, size_of, sources
from concept_cam.errors import OptionError, PictureError, PromptError

if TYPE_CHECKING:
    from PIL import Image

    from concept_cam.localizer import Localizer
    from concept_cam.parts import PartFinding, PartVocabulary
    from concept_cam.parts.sheet import PartSheet

_BATCH = 2
"""A finding holds a mask for each part at the size of its picture."""

_DRAWN, _FEW = 6, 8
_PLATES = ("ember finch", "royal jay", "misty heron")


def parts(
    pictures: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Pictures, folders of pictures or of a folder for each species; none: plates of the field guide are drawn."
        ),
    ] = None,
    vocabulary: Annotated[
        str | None,
        typer.Option(help="Parts to look for, such as birds: a name or a .yaml file; of the embedded model fieldguide-parts."),
    ] = None,
    strength: Annotated[float, typer.Option(help="How much of the other parts is subtracted; 0: each part alone.")] = 1.0,
    method: Annotated[str, typer.Option(help="How the maps are made; `concept-cam methods` lists all.")] = "legrad",
    model: Annotated[str | None, typer.Option(help=HELP)] = None,
    pretrained: Annotated[
        str | None, typer.Option(help="An open_clip tag (downloaded on first use) or a weights file.")
    ] = None,
    site: Annotated[str | None, typer.Option(help="Where tokens are read; `concept-cam check` lists the sites.")] = None,
    fit: Annotated[str | None, typer.Option(help="crop, pad, squash or native; by default as the model was trained.")] = None,
    size: Annotated[str | None, typer.Option(help="Input size, N or HxW; a larger one places small parts better.")] = None,
    templates: Annotated[
        str | None, typer.Option(help="Sentences around a phrase: a name or a file; by default those for parts.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, cuda:1, mps.")] = "cpu",
    plates: Annotated[
        int | None,
        typer.Option("--count", min=1, help=f"How many plates to draw if no picture is given.  [default: {_DRAWN}]"),
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder for pictures, tables and sheets.")] = Path("concept-cam-parts"),
) -> None:
    """Find the parts of pictures, and what each looks like.

    Writes annotated/, parts.csv, coco.json, cub/, and a sheet for each species, which is what the folder of its pictures says.

    cub/ has the layout of CUB-200-2011; its images/ is the folder of the pictures, to be linked or copied there.
    """
    from concept_cam import fieldguide
    from concept_cam.comparison import check_strength
    from concept_cam.images import check_fit
    from concept_cam.localizer import Localizer
    from concept_cam.methods import method_named, sees_score
    from concept_cam.parts import read_parts

    chosen = method_named(method)
    if not sees_score(chosen):
        raise OptionError(f"{method} does not look at the score, so all parts would have one map; take another --method.")
    check_strength(strength)
    if pictures:
        refuse("--count", plates, "where pictures are given: it says how many plates to draw")
    if fit is not None:
        check_fit(fit)
    embedded = model is None or model in fieldguide.MODELS
    wanted = vocabulary or ("fieldguide-parts" if embedded else None)
    if wanted is None:
        raise OptionError(f"Which parts? Give a --vocabulary: {', '.join(_vocabularies())}, or a .yaml file of your own.")
    known = read_parts(wanted)
    options: dict[str, Any] = {"method": chosen, "site": site, "fit": fit, "size": size_of(size)}
    if not pictures and not embedded:
        raise PictureError("No picture given; the field guide is drawn only for the embedded model (without --model).")
    given = list({os.path.abspath(path): path for path in sources(pictures or [], deep=True)}.values())  # noqa: PTH100
    make_folder(out, "annotated", "cub", "pictures")
    if not given:
        pictures = [out / "pictures"]
        given = list(_draw(plates or _DRAWN, out / "pictures"))
    names = names_of(given)
    check_apart(given, (out / "annotated" / f"{name}.png" for name in names.values()))
    backbone, sentences = load_encoder(model, pretrained, device)
    sentences = "parts" if sentences == "photo" else sentences
    localizer = Localizer(backbone, templates=templates or sentences, **options)
    failed = _run(localizer, known, names, _species(given, pictures or [], known.parent), strength, out)
    if failed:
        rest = f"the others are in {out}" if failed < len(given) else "none is left"
        raise PictureError(f"{failed} of {len(given)} pictures could not be read; {rest}.")


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
    from concept_cam import fieldguide
    from concept_cam.files import write_picture

    for k in sorted(range(count), key=lambda k: k % len(_PLATES)):
        name, seed = _PLATES[k % len(_PLATES)], k // len(_PLATES)
        path = folder / name.replace(" ", "_") / f"{name.replace(' ', '-')}-{seed}.png"
        yield write_picture(path, fieldguide.draw_species(name, seed).picture)


def _species(pictures: Sequence[Path], given: Sequence[Path], parent: str) -> dict[Path, str]:
    """What each shows: the name of its folder; if all are of one folder that nobody named, the parent."""
    from concept_cam.datasets.files import words

    folders = {path: Path(os.path.abspath(path)).parent for path in pictures}  # noqa: PTH100
    told = len(set(folders.values())) > 1 or any(os.path.isdir(path) for path in given)  # noqa: PTH112
    return {path: (words(folder.name) if told else "") or parent for path, folder in folders.items()}


def _run(
    localizer: Localizer,
    vocabulary: PartVocabulary,
    names: Mapping[Path, str],
    species: Mapping[Path, str],
    strength: float,
    out: Path,
) -> int:
    """Find the parts of all pictures, some at a time; returns how many could not be read."""
    from tqdm import tqdm

    from concept_cam.files import write_picture
    from concept_cam.images import read_picture
    from concept_cam.parts import stream_parts
    from concept_cam.parts.sheet import annotated, summary

    failed = 0
    sheets, tables = _Sheets(species, out), _Tables(species)
    with tqdm(total=len(names), disable=None if len(names) > _FEW else True) as bar:

        def report(path: Path, error: PictureError) -> None:
            nonlocal failed
            if len(names) == 1:
                raise error
            failed += 1
            bar.update()
            sheets.leave_out(path)
            typer.echo(f"concept-cam: {error}", err=True)

        done = stream_parts(localizer, list(names), vocabulary, strength=strength, batch_size=_BATCH, on_error=report)
        with closing(done):
            for path, finding in done:
                try:
                    picture = read_picture(path)
                    shown = annotated(finding, picture)
                except PictureError as error:  # it was another when it was read before
                    report(path, error)
                    continue
                write_picture(out / "annotated" / f"{names[path]}.png", shown)
                sheets.add(path, names[path], picture, finding)
                tables.add(path, finding)
                if len(names) <= _FEW:
                    typer.echo(f"{' '.join(path.name.splitlines())}: {summary(finding)}")
                bar.update()
    if failed < len(names):
        sheets.write_all()
        tables.write(out)
        read = _number(len(names) - failed, "picture") + (f", {failed} left out" if failed else "")
        sheets_of = f"{_number(sheets.written, 'sheet')} in {out}"
        typer.echo(
            f"{read}, {tables.visible} of {_number(tables.asked, 'part')} visible; "
            f"annotated/, parts.csv, coco.json, cub/ and {sheets_of}"
        )
    return failed


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


class _Sheets:
    """A sheet for each species, written as soon as its last picture is there."""

    def __init__(self, species: Mapping[Path, str], out: Path) -> None:
        self._species, self._left = species, Counter(species.values())
        self._open: dict[str, PartSheet] = {}
        self._files: dict[str, Path] = {}
        taken: set[str] = set()
        for name in self._left:
            slug = first_free(re.sub(r"\W+", "-", name.lower()).strip("-")[:80] or "sheet", taken)
            taken.add(slug)
            self._files[name] = out / f"sheet-{slug}.html"
        self.written = 0

    def add(self, path: Path, name: str, picture: Image.Image, finding: PartFinding) -> None:
        from concept_cam.parts.sheet import PartSheet

        species = self._species[path]
        self._open.setdefault(species, PartSheet(species)).add(name, picture, finding)
        self._left[species] -= 1
        if self._left[species] == 0:
            self._write(species)

    def leave_out(self, path: Path) -> None:
        self._left[self._species[path]] -= 1

    def write_all(self) -> None:
        for species in list(self._open):
            self._write(species)

    def _write(self, species: str) -> None:
        from concept_cam.files import write_file
        from concept_cam.page import to_html

        write_file(self._files[species], to_html(self._open.pop(species).page()).encode())
        self.written += 1


class _Tables:
    """What is written at the end, without the masks: COCO has them as run lengths, and the others do not ask for them.

    Pictures are named by their paths from the folder that holds all of them.
    """

    def __init__(self, species: Mapping[Path, str]) -> None:
        whole = {path: Path(os.path.abspath(path)) for path in species}  # noqa: PTH100
        folder = os.path.commonpath([path.parent for path in whole.values()])
        self._names = {path: file.relative_to(folder).as_posix() for path, file in whole.items()}
        self._species = species
        self._coco: dict[str, Any] = {}
        self._findings: dict[str, PartFinding] = {}
        self._cub: dict[str, str] = {}
        self.visible = self.asked = 0

    def add(self, path: Path, finding: PartFinding) -> None:
        import torch

        from concept_cam.parts import to_coco, to_cub

        name = self._names[path]
        self.visible += sum(part.visible for part in finding.parts)
        self.asked += len(finding.parts)
        self._add_to_coco(to_coco({name: finding}))
        nothing = torch.zeros(1, 1, dtype=torch.float32, device="cpu")
        light = [replace(part, mask=None if part.mask is None else nothing > 0, map=nothing) for part in finding.parts]
        self._findings[name] = replace(finding, parts=tuple(light))
        try:
            to_cub({name: self._findings[name]}, self._species_of(path))
        except OptionError as error:
            typer.echo(f"concept-cam: not in cub/: {error}", err=True)
        else:
            self._cub |= self._species_of(path)

    def _species_of(self, path: Path) -> dict[str, str]:
        return {self._names[path]: self._species[path]}

    def _add_to_coco(self, one: dict[str, Any]) -> None:
        if not self._coco:
            self._coco = {**one, "images": [], "annotations": []}
        images, annotations = self._coco["images"], self._coco["annotations"]
        images.append(one["images"][0] | {"id": len(images) + 1})
        annotations += [
            annotation | {"id": number, "image_id": len(images)}
            for number, annotation in enumerate(one["annotations"], len(annotations) + 1)
        ]

    def write(self, out: Path) -> None:
        from concept_cam.files import write_file
        from concept_cam.parts import to_csv, to_cub

        write_file(out / "parts.csv", to_csv(self._findings))
        write_file(out / "coco.json", json.dumps(self._coco).encode())
        if self._cub:
            for file, content in to_cub({name: self._findings[name] for name in self._cub}, self._cub).items():
                write_file(out / "cub" / file, content)
