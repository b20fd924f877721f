"""Images that a command line names by a table of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from concept_cam.cli.terminal import complain

TABLES = (".csv", ".parquet", ".tsv")
"""Endings of files that list images and are none."""


def of_tables(given: Sequence[Path]) -> tuple[list[Path], dict[Path, str]]:
    """What is given with the images of tables in their places, and the labels that tables have for them.

    What is wrong with a row is told, and the others are there.

    Raises:
        DatasetError: a table cannot be read.
    """
    from concept_cam.datasets import read_dataset

    found: list[Path] = []
    labels: dict[Path, str] = {}
    for path in given:
        if path.suffix.lower() not in TABLES:
            found.append(path)
            continue
        data = read_dataset(path, "table")
        for problem in data.problems:
            complain(f"skipped: {problem}")
        for example in data.examples:
            if isinstance(example.image, Path):
                labels.setdefault(example.image, example.label)
                found.append(example.image)
    return list(dict.fromkeys(found)), labels
