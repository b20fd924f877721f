"""The rows of a grid on disk, batch by batch: what is interrupted is resumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from concept_cam.concepts import ConceptBank
from concept_cam.datasets import Dataset, Example
from concept_cam.datasets.extra import extra_columns
from concept_cam.evaluation.columns import GridRow
from concept_cam.evaluation.grid import Grid
from concept_cam.localizer import Localizer
from concept_cam.runs import Run, Skipped, csv_of, identity_of, name_of_example
from concept_cam.runs.batches import Files
from concept_cam.runs.table import column_names, of_examples, read_rows as read_rows_of, with_extra

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
        OutputError: the folder holds another evaluation, another process is writing there, or it cannot be written.
        DatasetError: two examples have one name and label.

    Example:
        >>> import tempfile
        >>> from concept_cam import world
        >>> from concept_cam.evaluation import Settings, read_rows, write_rows
        >>> from concept_cam.world.dataset import birds_dataset
        >>> localizer, dataset = world.localizer(), birds_dataset(2)
        >>> grid = Grid(localizer, localizer.bank(dataset.classes), 50.0, Settings(("hires_cam",), strengths=(1.0,)))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [(row.label, row.references) for row in read_rows(write_rows(grid, dataset, Path(folder), {}))]
        [('ember finch', 'none'), ('ember finch', 'twin'), ('frost finch', 'none'), ('frost finch', 'twin')]
    """
    settings = {**about, "scale": grid.scale, **settings_of_rows(grid.settings, grid.localizer, grid.bank, dataset)}
    extra = extra_columns(dataset, column_names(GridRow))

    def make(examples: Sequence[Example]) -> Files:
        rows = with_extra(of_examples(grid.rows(examples), examples), extra)
        return {".csv": csv_of(rows, GridRow, extra.values())}

    with Run.held(folder, settings, column_names(GridRow, extra.values())) as run:
        run.batches(dataset.examples, BATCH, name_of_example, make)
    return run.table


def read_rows(file: Path) -> list[GridRow | Skipped]:
    """The rows of an evaluation; an example that was skipped has a row that says why.

    Raises:
        OutputError: it cannot be read, or is not the table of an evaluation.

    Example:
        >>> import tempfile
        >>> from concept_cam.evaluation import evaluate, read_rows
        >>> from concept_cam import world
        >>> from concept_cam.world.dataset import birds_dataset
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = evaluate(world.localizer(), birds_dataset(2), folder, methods="hires_cam", strengths=1.0)
        ...     rows = read_rows(Path(folder) / "rows.csv")
        >>> rows[0].method, rows[0].references, rows[0].correct
        ('hires_cam', 'none', True)
    """
    return read_rows_of(file, GridRow)


def settings_of_rows(settings: Any, localizer: Localizer, bank: ConceptBank, dataset: Dataset) -> dict[str, Any]:
    """What rows depend on: what is run, on what, by which model.

    Args:
        settings: ``Settings`` or ``MosaicSettings``.
        localizer: its own method is not used.
        bank: the classes.
        dataset: its examples are gone through once.
    """
    run = {field.name: getattr(settings, field.name) for field in fields(settings)}
    run |= {"methods": list(settings.named), "dataset": dataset.name, "examples": len(dataset.examples)}
    texts = [template.replace("{}", name) for name in bank.names for template in localizer.templates]
    return {**run, **identity_of(localizer, dataset, settings.named, texts)}
