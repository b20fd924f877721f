"""Rows as CSV: numbers with six digits, what does not apply empty."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from concept_cam.errors import OutputError
from concept_cam.runs.digests import ADDRESS

Row: TypeAlias = dict[str, Any]

_WORDS = ("picture", "label", "method", "references", "against", "problem", "predicted", "runner_up", "words", "background")
"""Columns of texts; all others are of numbers."""


def csv_of(rows: Sequence[Row], columns: Sequence[str]) -> bytes:
    """A table with a header; numbers with six digits, what does not apply empty."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: f"{x:.6g}" if isinstance(x, float) else x for key, x in row.items()} for row in rows)
    # Names of files can be anything that a disk holds.
    return stream.getvalue().encode(errors="surrogateescape")


def read_rows(file: Path) -> list[Row]:
    """The rows of a run; numbers are numbers, what is empty is left out.

    Raises:
        OutputError: it cannot be read.
    """
    try:
        with file.open(newline="", encoding="utf-8", errors="surrogateescape") as stream:
            return [{key: _value(key, text) for key, text in row.items() if text} for row in csv.DictReader(stream)]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise OutputError(f"{file}: not the rows of a run ({error}).") from error


def _value(key: str, text: str) -> Any:
    return text if key in _WORDS else float(text)


def problem_row(name: str, label: str, error: BaseException | str) -> Row:
    """Why an example cannot be used: one line, without what is another in the next run."""
    text = str(error) or type(error).__name__
    return {"picture": name, "label": label, "problem": " ".join(ADDRESS.sub("", text).split())}
