"""The rows of a grid on disk, batch by batch: what is interrupted is resumed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from concept_cam.datasets import Dataset, Example
from concept_cam.datasets.extra import extra_columns, of_rows, with_extra
from concept_cam.errors import OutputError
from concept_cam.evaluation.grid import COLUMNS, Grid, Row
from concept_cam.evaluation.identity import identity_of
from concept_cam.files import write_file
from concept_cam.tables import read_table, table_of

T = TypeVar("T")

BATCH = 50
"""Examples that go through the model together, and whose rows are written together."""


def write_rows(grid: Grid, dataset: Dataset, folder: Path, about: Mapping[str, Any]) -> Path:
    """Write ``rows.csv`` into a folder; batches that are there already are not run again.

    A batch is a file that is written whole or not at all, and always of the same examples, so that a run that was interrupted
    ends with the same rows as one that was not.

    Args:
        grid: what is run.
        dataset: on what.
        folder: for ``run.json``, ``batches/`` and ``rows.csv``.
        about: what else decides the rows: the model, how it is loaded, which examples.

    Raises:
        OutputError: the folder holds another evaluation, or cannot be written.
    """
    count = len(dataset.examples)
    run = {field.name: getattr(grid.settings, field.name) for field in fields(grid.settings)}
    run |= {"methods": list(grid.settings.named), "dataset": dataset.name, "examples": count, "scale": grid.scale}
    settings = {**about, **run, **identity_of(grid.localizer, dataset)}
    claim(folder / "run.json", settings)
    extra = extra_columns(dataset, COLUMNS)
    columns = (*COLUMNS, *extra.values())

    def write(examples: Sequence[Example], file: Path) -> None:
        write_file(file, csv_of(with_extra(of_rows(grid.rows(examples), examples), extra), columns))

    return join_batches(write_batches(dataset.examples, folder, BATCH, write), folder / "rows.csv", columns)


def write_batches(items: Sequence[T], folder: Path, size: int, write: Callable[[Sequence[T], Path], object]) -> list[Path]:
    """Have a CSV file written for every so many items, but for those that are there already; with a progress bar.

    Args:
        items: the examples of a data set, or what is made of them.
        folder: the files are in its ``batches/``.
        size: of a batch.
        write: writes what is to be written of some items, the CSV file last.
    """
    files, count = [], len(items)
    with tqdm(total=count, desc="pictures", disable=None) as bar:
        for start in range(0, count, size):
            batch = items[start : start + size]
            file = folder / "batches" / f"{start // size:05d}.csv"
            if not file.exists():
                write(batch, file)
            files.append(file)
            bar.update(len(batch))
    return files


def join_batches(files: Sequence[Path], table: Path, columns: Sequence[str] = COLUMNS) -> Path:
    """Write one table of the rows of several, with one header."""
    header = csv_of([], columns)
    return write_file(table, header + b"".join(file.read_bytes()[len(header) :] for file in files))


def read_rows(file: Path) -> list[Row]:
    """What ``write_rows`` wrote; numbers are numbers, what is empty is left out; further columns, which are last, are texts.

    Raises:
        OutputError: it cannot be read.
    """
    try:
        return [{key: _value(key, text) for key, text in row.items()} for row in read_table(file.read_bytes())]
    except (OSError, ValueError) as error:
        raise OutputError(f"{file}: not the rows of an evaluation ({error}).") from error


_WORDS = ("picture", "label", "method", "references", "against", "problem", "predicted", "runner_up", "words", "background")


def csv_of(rows: Sequence[Row], columns: Sequence[str] = COLUMNS) -> bytes:
    """A table with a header; see ``table_of``."""
    return table_of(rows, columns)


_IDENTITY = {
    "model_digest": "model (its numbers are not the same)",
    "preprocessing_digest": "preprocessing",
    "images_digest": "set of images or labels",
    "training_digest": "set of training images or labels",
}
"""How a refusal calls what ``identity`` gives."""


def claim(file: Path, settings: Mapping[str, Any]) -> None:
    """Take a folder for a run, by the file that says with which settings; or find that it is already this one's.

    Raises:
        OutputError: it is another's.
    """
    settings = json.loads(json.dumps(settings))
    if file.exists():
        try:
            held = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise OutputError(f"{file}: cannot be read ({error}); choose another --out.") from error
        other = [key for key in settings if held.get(key) != settings[key]]
        if other:
            # A model by another name has other numbers: digests are told where nothing else says it.
            named = [key for key in other if key not in _IDENTITY]
            what = ", ".join(named or (_IDENTITY[key] for key in other))
            raise OutputError(f"{file.parent} holds a run with another {what}; choose another --out, or delete it.")
    else:
        write_file(file, (json.dumps(settings, indent=2) + "\n").encode())
