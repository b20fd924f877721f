"""The parts of many images in one folder: a run that is resumed."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, final

from concept_cam.address import absolute, address_of
from concept_cam.backbones.snapshot import texts_settled
from concept_cam.datasets import Dataset, Example
from concept_cam.errors import OptionError
from concept_cam.explorer import has_field
from concept_cam.localizer import Localizer
from concept_cam.methods import name_of
from concept_cam.parts import PartFinding, PartVocabulary, stream_parts
from concept_cam.parts.explored import Explored
from concept_cam.runs import Run, identity_of
from concept_cam.runs.batches import Files
from concept_cam.runs.digests import digest_of
from concept_cam.runs.how import how_it_is_made
from concept_cam.tables import read_table
from concept_cam.writers.coco import Coco
from concept_cam.writers.cub import Cub
from concept_cam.writers.dataset import ROWS, Output, check_output, file_of_parts
from concept_cam.writers.localized import settings_of
from concept_cam.writers.names import held_by, names_of
from concept_cam.writers.overlays import Overlays, Saved
from concept_cam.writers.run import BatchFile, Failed, Job, ignore, table_file
from concept_cam.writers.sheets import Sheets
from concept_cam.writers.table import Row, Table, columns_of_parts, rows_of
from concept_cam.writers.writer import Renamed, Writer

TABLE = "parts.csv"


@final
@dataclass
class PartsFound:
    """What a run found.

    Attributes:
        failed: images that failed.
        asked: parts that were looked for.
        visible: parts that are visible.
        sheets: pages that were written.
    """

    failed: int = 0
    asked: int = 0
    visible: int = 0
    sheets: int = 0


@texts_settled()
def find_parts_of_images(
    localizer: Localizer,
    species: Mapping[Path, str],
    folder: str | os.PathLike[str],
    vocabulary: PartVocabulary,
    *,
    strength: float = 1.0,
    table: str | os.PathLike[str] | None = None,
    output: Output = "files",
    overlays: bool | None = None,
    explore: bool = False,
    boxes: bool = False,
    batch_size: int = 2,
    workers: int = 2,
    about: Mapping[str, Any] | None = None,
    data: str | None = None,
    command: str | None = None,
    told: Callable[[Path, PartFinding], None] = ignore,
    failed: Callable[[Path, str], None] = ignore,
    unnamed: Callable[[OptionError], None] = ignore,
) -> PartsFound:
    """Find the parts of many images and write them into a folder.

    Of each image there are ``annotated/NAME.png`` and ``findings/NAME.safetensors``; of all of them ``parts.csv``,
    ``coco.json``, ``cub/``, a page ``sheet-SPECIES.html`` for each species, and ``how.json``. Of several images the folder is
    a run: ``run.json`` holds all that the results depend on, and what is done is kept batch by batch, so that the same call
    resumes a run that was interrupted and ends with the same bytes.

    With ``output="parquet"`` there is a run of one image too, with ``parts.csv``, ``how.json``, and instead of all other files
    ``data/NNNNN.parquet`` for each batch of 256 images, of which ``read_results`` gives the rows, one for each part.

    Args:
        localizer: model, method, templates and input.
        species: what each image shows, by its file.
        folder: for the results.
        vocabulary: the parts.
        strength: of the comparison.
        table: a further table of all parts, ending in .csv or .parquet. Not with ``parquet``.
        output: ``files`` of each image, or ``parquet`` (which needs the extra of that name).
        overlays: whether ``annotated/`` is drawn; by default with ``files`` alone.
        explore: whether there is ``explore-SPECIES.html`` beside each page, which compares the phrases of the parts on its
            images; each image of a page costs one more pass. The method must be linear. Not with ``parquet``.
        boxes: whether it has the box of each part besides its point.
        batch_size: how many images go through the model at once; a finding holds a mask of the image's size for each part.
        workers: threads that read images.
        about: what else decides the results, to be compared with an older run in the folder.
        data: the name of the images, for ``how.json``; by default that of the folder that holds them.
        command: the command line, for ``how.json``.
        told: called with each finding, in order; of a run that is resumed also with those that are kept as files.
        failed: called with each image that fails, and why. Where no run is kept, the error is raised.
        unnamed: called with what is wrong with the name of an image that ``cub/`` cannot hold.

    Raises:
        OutputError: the folder holds another run, another process is writing there, or it cannot be written.
        ImageError, NoSpatialGradient: the one image fails.
        OptionError, ComparisonError, UnknownConcept, BackboneError: see ``find_parts``.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from concept_cam import world
        >>> from concept_cam.parts import read_parts
        >>> from concept_cam.writers import find_parts_of_images
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     plates = {Path(folder, f"{seed}.png"): "ember finch" for seed in range(2)}
        ...     for seed, plate in enumerate(plates):
        ...         world.draw_species("ember finch", seed, 96).image.save(plate)
        ...     find_parts_of_images(world.localizer(), plates, f"{folder}/out", read_parts("world-parts")).asked
        24
    """
    check_output(output, table)
    species = {address_of(path): label for path, label in species.items()}
    folder, names, apart = address_of(folder), names_of(species), output == "files"
    if not names:
        raise OptionError("There are no images; give one or more.")
    drawn = apart if overlays is None else overlays
    explored = _explored(localizer, vocabulary, apart) if explore else None
    stream = partial(stream_parts, localizer, strength=strength, batch_size=batch_size, workers=workers)

    def results(paths: Iterable[Path], fail: Failed) -> Generator[tuple[Path, PartFinding, None], None, None]:
        with closing(stream(paths, vocabulary, on_error=fail)) as findings:
            yield from ((path, finding, None) for path, finding in findings)

    for _ in stream((), vocabulary):  # What is wrong with the question is raised before anything is written.
        raise AssertionError("there are no images")
    within = {names[path]: name for path, name in named_within(species).items()}
    attributes = tuple(dict.fromkeys(name for part in vocabulary.parts for name in part.attributes))
    dataset = Dataset(
        data or held_by(species).name,
        tuple(dict.fromkeys(species.values())),
        [Example(within[names[path]], path, label) for path, label in species.items()],
    )
    texts = [template.replace("{}", text) for text in vocabulary.texts() for template in localizer.templates]
    identity = identity_of(localizer, dataset, {name_of(localizer.method): localizer.method}, texts)
    made = how_it_is_made(
        "parts",
        localizer,
        (dataset.name, len(species)),
        identity,
        strengths=(strength,),
        more={"parts": vocabulary.title},
        command=command,
    )
    found = PartsFound()
    saved = Saved(folder / "findings")
    sheets = Sheets(folder, {names[path]: label for path, label in species.items()}, made, explored)
    cub = Cub(folder / "cub", {within[names[path]]: label for path, label in species.items()}, unnamed)
    tables: list[Writer[PartFinding]] = [] if table is None else [Table(table, attributes)]
    whole: list[Writer[PartFinding]] = [Coco(folder / "coco.json"), cub, *tables]
    of_all: list[Writer[PartFinding]] = [sheets, *(Renamed(writer, within) for writer in whole)] if apart else []

    def rows(path: Path, finding: PartFinding | str) -> list[Row]:
        return rows_of(within[names[path]], finding, attributes) if isinstance(finding, PartFinding) else []

    def count(files: Files) -> None:
        held = read_table(files[".csv"])
        found.asked += len(held)
        found.visible += sum(row["visible"] == "1" for row in held)

    def miss(path: Path, problem: str) -> None:
        sheets.skip(names[path])
        failed(path, problem)

    columns = columns_of_parts(attributes)
    each: list[Writer[PartFinding]] = [Overlays(folder / "annotated", boxes=boxes)] if drawn else []
    each += [saved] if apart else []
    again = (lambda name: PartFinding.load(saved.file(name))) if apart else None
    files: dict[str, BatchFile[PartFinding]] = {".csv": table_file(rows, columns)}
    job = Job(names, results, each, of_all, files, again, told, miss, batch_size, counted=count)
    if len(names) == 1 and apart:
        found.failed = job.run(Run.unkept(folder, columns, TABLE))
    else:
        settings = {
            "job": "parts",
            "images": len(species),
            "parts": vocabulary.texts(),
            "strength": strength,
            "output": output,
            "overlays": drawn,
            "boxes": boxes,
            "batch_size": batch_size,
            **settings_of(localizer),
            **({"explore": True} if explore else {}),
            **(about or {}),
            "vocabulary_digest": digest_of(vocabulary),
            **identity,
        }
        with Run.held(folder, settings, columns, table=TABLE, below=("annotated", "findings", "cub", "images")) as run:
            if not apart:
                in_data = file_of_parts(localizer, made.kept(folder).as_json())
                job = replace(job, files={**files, ".parquet": in_data}, together=ROWS)
            found.failed = job.run(run)
    found.sheets = sheets.written
    return found


def _explored(localizer: Localizer, vocabulary: PartVocabulary, apart: bool) -> Callable[[Path], Explored]:
    """What makes the explorer of a page.

    Raises:
        OptionError: there are no pages, or the method is not linear.
    """
    if not apart:
        raise OptionError("An explorer is written beside the pages of species, of which parquet has none; leave explore out.")
    if not has_field(localizer.method):
        raise OptionError(
            f"{name_of(localizer.method)} is not linear, so that an explorer could not compare phrases; take another method, "
            "or leave explore out."
        )
    return partial(Explored, localizer, vocabulary)


def named_within(images: Iterable[Path]) -> dict[Path, str]:
    """Each image by its path from the folder that holds all of them.

    Args:
        images: files.
    """
    paths = list(images)
    folder = held_by(paths)
    return {path: absolute(path).relative_to(folder).as_posix() for path in paths}
