"""Further columns of a data set (groups, sites, dates) in the rows of a run: they come last, and are texts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from concept_cam.datasets.example import Dataset, Example


def extra_columns(dataset: Dataset, own: Collection[str]) -> dict[str, str]:
    """The titles of a data set's further columns in a table: their own, or ``data_NAME`` if the table has a column NAME.

    Args:
        dataset: the data set with ``extra`` columns.
        own: the columns of the table.

    Example:
        >>> from concept_cam.datasets import Dataset
        >>> extra_columns(Dataset("a", (), (), extra=("site", "energy")), ["image", "energy"])
        {'site': 'site', 'energy': 'data_energy'}
    """
    found: dict[str, str] = {}
    for name in dataset.extra:
        column = name
        while column in own or column in found.values():
            column = f"data_{column}"
        found[name] = column
    return found


def with_extra(pairs: Iterable[tuple[Mapping[str, Any], Example]], columns: Mapping[str, str]) -> list[dict[str, Any]]:
    """Rows with what the further columns say of their examples.

    Args:
        pairs: each row with its example.
        columns: what further columns are called in the table; see ``extra_columns``.
    """
    return [
        {**row, **{column: example.extra[name] for name, column in columns.items() if name in example.extra}}
        for row, example in pairs
    ]


def of_rows(rows: Iterable[Mapping[str, Any]], examples: Iterable[Example]) -> list[tuple[Mapping[str, Any], Example]]:
    """Each row with the example of its image and label."""
    known = {(example.name, example.label): example for example in examples}
    return [(row, known[row["image"], row["label"]]) for row in rows]
