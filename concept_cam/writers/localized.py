"""Localizations of many images in one folder: a run that is resumed."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from concept_cam.address import address_of
from concept_cam.backbones.snapshot import texts_settled
from concept_cam.datasets import Dataset, Example
from concept_cam.errors import OptionError
from concept_cam.exploration import STRENGTHS, Exploration
from concept_cam.localizer import Localizer
from concept_cam.methods import name_of
from concept_cam.result import Localization
from concept_cam.runs import Run, identity_of
from concept_cam.runs.digests import digest_of
from concept_cam.runs.how import how_it_is_made
from concept_cam.selectors import Named
from concept_cam.targets import References
from concept_cam.writers.comparisons import Comparisons, OfResult
from concept_cam.writers.dataset import ROWS, Output, check_output, file_of_maps
from concept_cam.writers.names import held_by, names_of
from concept_cam.writers.overlays import Overlays, Saved, Summaries
from concept_cam.writers.run import BatchFile, Failed, Job, ignore, table_file
from concept_cam.writers.table import LOCALIZED, LocalizationRow, Row, Table, rows_of
from concept_cam.writers.writer import Renamed, Writer


@texts_settled()
def localize_images(
    localizer: Localizer,
    images: Sequence[Path],
    folder: str | os.PathLike[str],
    target: str,
    against: References = None,
    *,
    strength: float = 0.6,
    sweep: bool = False,
    by_reference: float | None = None,
    table: str | os.PathLike[str] | None = None,
    output: Output = "files",
    overlays: bool | None = None,
    batch_size: int = 8,
    workers: int = 2,
    about: Mapping[str, Any] | None = None,
    data: str | None = None,
    command: str | None = None,
    told: Callable[[Path, Localization], None] = ignore,
    failed: Callable[[Path, str], None] = ignore,
) -> int:
    """Localize in many images and write overlays, maps, summaries and a table into a folder; or a Parquet data set.

    Of each image there are ``NAME-overlay.png``, ``NAME-compared.png``, ``NAME.safetensors`` and ``NAME.json``. Of several
    images the folder is a run: ``run.json`` holds all that the results depend on, ``how.json`` how they are made, ``rows.csv``
    a row for each image, and what is done is kept batch by batch, so that the same call resumes a run that was interrupted and
    ends with the same bytes. Of one image nothing of this is written.

    With ``output="parquet"`` there is a run of one image too, and instead of the files of each image ``data/NNNNN.parquet``
    for each batch of 256, of which ``read_results`` gives the rows.

    Args:
        localizer: model, method, templates, vocabulary and input.
        images: files, each once.
        folder: for the results.
        target: the concept to look for.
        against: names to compare with, or a selector; see ``Localizer.batch``.
        strength: of the references.
        sweep: also draw ``NAME-strengths.png``, the maps at several strengths.
        by_reference: also draw ``NAME-references.png``, each place by its reference, at this strength.
        table: a further table of all images, ending in .csv or .parquet; also of one image. Not with ``parquet``.
        output: ``files`` of each image, or ``parquet`` (which needs the extra of that name).
        overlays: whether overlays are drawn; by default with ``files`` alone.
        batch_size: how many images go through the model at once.
        workers: threads that read images.
        about: what else decides the results, to be compared with an older run in the folder.
        data: the name of the images, for ``how.json``; by default that of the folder that holds them.
        command: the command line, for ``how.json``.
        told: called with each result, in order; of a run that is resumed also with those that are kept as files.
        failed: called with each image that fails, and why. Where no run is kept, the error is raised.

    Returns:
        How many images failed.

    Raises:
        OutputError: the folder holds another run, another process is writing there, or it cannot be written.
        ImageError, NoSpatialGradient: the one image fails.
        ComparisonError, UnknownConcept, OptionError, BackboneError: see ``Localizer.batch``.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from concept_cam import world
        >>> from concept_cam.writers import localize_images
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     plates = [Path(folder, f"{seed}.png") for seed in range(2)]
        ...     for seed, plate in enumerate(plates):
        ...         world.draw_species("ember finch", seed, 96).image.save(plate)
        ...     failures = localize_images(world.localizer(), plates, f"{folder}/out", "ember finch", "frost finch")
        ...     rows = Path(folder, "out", "rows.csv").read_text().splitlines()
        >>> failures, len(rows)
        (0, 3)
    """
    check_output(output, table)
    images = [address_of(path) for path in images]
    folder, names, apart = address_of(folder), names_of(images), output == "files"
    if not names:
        raise OptionError("There are no images; give one or more.")
    drawn = apart if overlays is None else overlays
    if against is not None and not callable(against) and not isinstance(against, str | int):
        against = tuple(against)  # It may be a generator, and is asked several times.
    how: dict[str, Any] = {"strength": strength, "batch_size": batch_size, "workers": workers}
    more: dict[str, Any] = {"strengths": STRENGTHS if sweep else (), "each": by_reference}
    comparing = sweep or by_reference is not None

    def results(paths: Iterable[Path], fail: Failed) -> Generator[tuple[Path, Exploration, Image.Image | None], None, None]:
        # An exploration holds the images of a few batches; without one they are read again to be drawn on, in little memory.
        if comparing:
            with closing(localizer.explore(paths, target, against, **how, **more, on_error=fail)) as explored:
                yield from ((path, found, found.image) for path, found in explored)
        else:
            with closing(localizer.stream(paths, target, against, **how, on_error=fail)) as stream:
                yield from ((path, Exploration(None, result, (), ()), None) for path, result in stream)

    for _ in localizer.stream((), target, against, **how):  # What is wrong with the question is raised before all work.
        raise AssertionError("there are no images")
    saved, paths = Saved(folder), {name: path for path, name in names.items()}
    own: list[Writer[Localization]] = [Overlays(folder)] if drawn else []
    own += [saved, Summaries(folder, paths)] if apart else []
    each: list[Writer[Exploration]] = [OfResult(one) for one in own]
    each += [Comparisons(folder)] if comparing else []

    def again(name: str) -> Exploration:
        return Exploration(None, Localization.load(saved.file(name)), (), ())

    def rows(path: Path, result: Exploration | str) -> list[Row]:
        if isinstance(result, Exploration):
            return rows_of(str(path), result.result)
        return [LocalizationRow(str(path), target, problem=result).cells()]

    def miss(path: Path, problem: str) -> None:
        for further in tables:
            further.add_rows(rows(path, problem))
        failed(path, problem)

    tables = [] if table is None else [Table(table)]
    by_path = {name: str(path) for name, path in paths.items()}
    named = [OfResult(Renamed(further, by_path)) for further in tables]
    hear = lambda path, found: told(path, found.result)  # noqa: E731
    files: dict[str, BatchFile[Exploration]] = {".csv": table_file(rows, LOCALIZED)}
    job = Job(names, results, each, named, files, again if apart else None, hear, miss, batch_size)
    if len(images) == 1 and apart:
        return job.run(Run.unkept(folder, LOCALIZED))
    references = _described(against)
    dataset = Dataset(data or held_by(images).name, (target,), [Example(str(path), path, target) for path in images])
    concepts = (target, *(references if isinstance(references, list) else localizer.vocabulary))
    texts = [template.replace("{}", name) for name in concepts for template in localizer.templates]
    identity = identity_of(localizer, dataset, {name_of(localizer.method): localizer.method}, texts)
    settings = {
        "job": "localize",
        "images": len(images),
        "target": target,
        "references": references,
        "strength": strength,
        "sweep": sweep,
        "by_reference": by_reference,
        "output": output,
        "overlays": drawn,
        "batch_size": batch_size,
        **settings_of(localizer),
        **(about or {}),
        "vocabulary_digest": digest_of(localizer.vocabulary),
        **identity,
    }
    made = how_it_is_made(
        "localize",
        localizer,
        (dataset.name, len(images)),
        identity,
        strengths=(strength,),
        more={"target": target, "references": ", ".join(references) if isinstance(references, list) else references},
        command=command,
    )
    with Run.held(folder, settings, LOCALIZED, below=()) as run:
        about = made.kept(folder).as_json()
        if not apart:
            in_data = _of_results(file_of_maps(localizer, target, about))
            job = replace(job, files={**files, ".parquet": in_data}, together=ROWS)
        return job.run(run)


def _of_results(file: BatchFile[Localization]) -> BatchFile[Exploration]:
    """The file with the rows of the results of explorations."""
    return BatchFile(lambda path, found: file.rows(path, found if isinstance(found, str) else found.result), file.content)


def settings_of(localizer: Localizer) -> dict[str, Any]:
    """What the results of a localizer depend on, as it is told in ``run.json``.

    Args:
        localizer: model, method, input and templates.
    """
    return {
        "model": localizer.backbone.name,
        "method": name_of(localizer.method),
        "site": localizer.site,
        "form": localizer.form,
        "fit": localizer.preprocess.fit,
        "size": localizer.preprocess.size,
        "templates": localizer.templates,
    }


def _described(against: References) -> list[str] | str | None:
    """References as settings: names, or how they are selected."""
    if against is None:
        return None
    if isinstance(against, Named):
        return list(against.names)
    if callable(against):
        return f"{name_of_selector(against)} {digest_of(against)[:12]}"
    return [str(one) for one in ((against,) if isinstance(against, str | int) else against)]


def name_of_selector(selector: Any) -> str:
    """``nearest:3``; of a function of the user's, its name.

    Args:
        selector: of references.
    """
    name = getattr(selector, "__name__", type(selector).__name__).strip("_").lower()
    count = getattr(selector, "count", None)
    return f"{name}:{count}" if isinstance(count, int) else name
