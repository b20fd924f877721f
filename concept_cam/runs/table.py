"""The rows of a run as CSV: numbers with six digits, what does not apply empty."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from concept_cam.errors import OutputError
from concept_cam.outside import read_bytes
from concept_cam.runs.digests import ADDRESS
from concept_cam.tables import columns_of, read_table, table_of

Row: TypeAlias = dict[str, Any]

_LARGEST = 1 << 31

_WORDS = ("image", "label", "method", "references", "against", "problem", "predicted", "runner_up", "words", "background")
"""Columns of texts; all others are of numbers, but for those of the data set, which come after the last of ours."""

_LAST = "problem"


def csv_of(rows: Sequence[Row], columns: Sequence[str]) -> bytes:
    """A table with a header; see ``table_of``."""
    return table_of(rows, columns)


def read_rows(file: Path) -> list[Row]:
    """The rows of a run; numbers are numbers, what is empty is left out; columns of the data set are texts.

    Raises:
        OutputError: it cannot be read.
    """
    try:
        content = read_bytes(file, _LARGEST)
        columns = columns_of(content)
        texts = {*_WORDS, *columns[columns.index(_LAST) + 1 if _LAST in columns else len(columns) :]}
        return [{key: text if key in texts else float(text) for key, text in row.items()} for row in read_table(content)]
    except (OSError, ValueError) as error:
        raise OutputError(f"{file}: not the rows of a run ({error}).") from error


def problem_row(name: str, label: str, error: BaseException | str) -> Row:
    """Why an example cannot be used: one line, without what is another in the next run."""
    text = str(error) or type(error).__name__
    return {"image": name, "label": label, "problem": " ".join(ADDRESS.sub("", text).split())}
