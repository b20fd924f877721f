"""Further columns of a data set (groups, sites, dates), as the rows of a run have them: last, and as texts."""

from __future__ import annotations

from collections.abc import Collection

from concept_cam.datasets.example import Dataset


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
