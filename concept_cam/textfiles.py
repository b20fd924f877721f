"""Text files from outside, of bounded size: their text, their lines, and tables with a header."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from concept_cam.outside import read_bytes

MAX_ROWS = 5_000_000
"""Of a table."""

_SEPARATORS = ",;\t"


@dataclass(frozen=True)
class TextTable:
    """A table with a header.

    Attributes:
        header: titles of the columns.
        rows: the number of each row, and its values without empty ones.
        problems: one line for each row that cannot be read.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[int, Mapping[str, str]], ...]
    problems: tuple[str, ...] = ()


def text_of(path: Path, limit: int) -> str:
    """The text of a file in UTF-8, with or without a byte-order mark, or in UTF-16 with one, as spreadsheets export it.

    Args:
        path: a file; a folder, pipe or device is not opened.
        limit: largest size in bytes.

    Raises:
        OSError, ValueError: the file cannot be read; see ``errors.refused_as``.
    """
    content = read_bytes(path, limit)
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text: {error.reason} at byte {error.start}; save it as UTF-8") from error
    if "\0" in text:
        raise ValueError("not UTF-8 text: it holds NUL characters; save it as UTF-8")
    return text


def lines_of(text: str) -> Iterator[str]:
    r"""The lines of a text; unlike ``str.splitlines`` it does not split at U+2028 or a form feed.

    Example:
        >>> list(lines_of("crown\nbeak"))
        ['crown', 'beak']
    """
    return (line.rstrip("\n") for line in io.StringIO(text, newline=None))


def table_of(text: str) -> TextTable:
    """Read a table separated by commas, semicolons or tabs, whichever is most frequent in its header.

    Raises:
        ValueError: there is no header, a title is repeated, or there are too many rows.
    """
    hint = re.match(rf"sep=([{_SEPARATORS}])(\r\n|\r|\n)", text)
    if hint:
        separator, text = hint[1], text[hint.end() :]
    else:
        first = re.split("[\r\n]", text, maxsplit=1)[0]
        separator = max(_SEPARATORS, key=first.count)
    # Lines are cut by the csv module, which knows where a line break is part of a value.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        header = tuple(name.strip() for name in next(reader, ()))
    except csv.Error as error:
        raise ValueError(f"its header: {error}") from error
    twice = [name for place, name in enumerate(header) if name and name in header[:place]]
    if twice or not any(header):
        raise ValueError(f"its header names {twice[0]!r} twice" if twice else "it has no header")
    rows: list[tuple[int, Mapping[str, str]]] = []
    problems = []
    while True:
        number = reader.line_num + 1
        try:
            values = next(reader, None)
        except csv.Error as error:
            problems.append(f"line {number}: {error}")
            continue
        if values is None:
            return TextTable(header, tuple(rows), tuple(problems))
        if any(values[len(header) :]):
            problems.append(f"line {number}: {len(values)} values, where the header names {len(header)}")
        elif any(value.strip() for value in values):
            named = zip(header, values, strict=False)
            rows.append((number, {name: value for name, value in named if name and value.strip()}))
        if len(rows) > MAX_ROWS:
            raise ValueError(f"it has more than {MAX_ROWS:,} rows")
