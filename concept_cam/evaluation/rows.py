"""The rows of a grid on disk, batch by batch: what is interrupted is resumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from concept_cam.concepts import ConceptBank
from concept_cam.datasets import Dataset, Example
from concept_cam.datasets.extra import extra_columns, of_rows, with_extra
from concept_cam.evaluation.grid import COLUMNS, Grid
from concept_cam.localizer import Localizer
from concept_cam.runs import Run, csv_of, identity_of, name_of_example
from concept_cam.runs.batches import Files

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
    """
    settings = {**about, "scale": grid.scale, **settings_of_rows(grid.settings, grid.localizer, grid.bank, dataset)}
    extra = extra_columns(dataset, COLUMNS)
    columns = (*COLUMNS, *extra.values())

    def make(examples: Sequence[Example]) -> Files:
        return {".csv": csv_of(with_extra(of_rows(grid.rows(examples), examples), extra), columns)}

    with Run.held(folder, settings, columns) as run:
        run.batches(dataset.examples, BATCH, name_of_example, make)
    return run.table


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
