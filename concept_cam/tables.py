"""CSV tables that a spreadsheet shows without running formulas; all tables are written and read here."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
"""What a spreadsheet would run, with as many apostrophes before it as it may have of its own."""

_NOWHERE = re.compile("[\x00\ud800-\udc7f\udd00-\udfff]")
"""What neither UTF-8 nor a byte of a file name stands for; text from JSON may hold it."""


def table_of(rows: Iterable[Mapping[str, object]], columns: Sequence[str], *, errors: str = "surrogateescape") -> bytes:
    r"""Write rows as CSV with a header, in UTF-8: numbers with six digits, missing values empty.

    A text that a spreadsheet would run as a formula (it starts with one of ``= + - @``, a tab or a line break) gets an
    apostrophe in front (OWASP's advice against CSV injection); ``read_table`` removes it. Numbers get none.

    Args:
        rows: mappings from columns to numbers and texts; None is empty.
        columns: titles in their order.
        errors: how bytes of a file name that are not UTF-8 are encoded: by default as they are, so that ``read_table``
            returns them; ``backslashreplace`` keeps the table valid UTF-8.

    Raises:
        ValueError: a row has another column.

    Example:
        >>> table_of([{"file": "=1+1.png", "x": -0.25}, {"file": "a, b.png"}], ["file", "x"]).decode()
        'file,x\n\'=1+1.png,-0.25\n"a, b.png",\n'
    """
    stream = io.StringIO(newline="")
    # With this ending every break within a text is quoted, a carriage return too.
    writer = csv.writer(stream, lineterminator="\r\n")
    lines: list[str] = []
    for cells in _lines(rows, columns):
        writer.writerow(cells)
        lines.append(f"{stream.getvalue()[:-2]}\n")
        stream.seek(0)
        stream.truncate()
    return _NOWHERE.sub("\ufffd", "".join(lines)).encode(errors=errors)


def read_table(content: bytes) -> list[dict[str, str]]:
    """The rows of a table from ``table_of``: texts and numbers as strings, without empty cells.

    Raises:
        ValueError: the content is not such a table: not UTF-8 (except file names), or a row of another length than the header.

    Example:
        >>> read_table(table_of([{"file": "=1+1.png", "x": -0.25}], ["file", "x"]))
        [{'file': '=1+1.png', 'x': '-0.25'}]
    """
    header, *rows = _cells_of(content)
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise ValueError(f"row {number} has {len(row)} cells, but the header has {len(header)}")
    return [{key: cell for key, cell in zip(header, row, strict=True) if cell} for row in rows]


def columns_of(content: bytes) -> tuple[str, ...]:
    """The header of a table from ``table_of``.

    Raises:
        ValueError: the content is not such a table.

    Example:
        >>> columns_of(table_of([], ["file", "x"]))
        ('file', 'x')
    """
    return tuple(next(_cells_of(content), ()))


def guarded(text: str) -> str:
    """The text with an apostrophe in front, if a spreadsheet would run it; see ``table_of``.

    Example:
        >>> guarded("=1+1"), guarded("'=1+1"), guarded("it's")
        ("'=1+1", "''=1+1", "it's")
    """
    return f"'{text}" if _FORMULA.match(text) else text


def _cells_of(content: bytes) -> Iterator[list[str]]:
    text = io.StringIO(content.decode("utf-8", errors="surrogateescape"), newline="")
    with _fields_of_any_length():
        try:
            for row in csv.reader(text, strict=True):
                yield [_opened(cell) for cell in row]
        except csv.Error as error:
            raise ValueError(f"not a table in CSV ({error})") from error


def _opened(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _lines(rows: Iterable[Mapping[str, object]], columns: Sequence[str]) -> Iterator[list[str]]:
    yield [guarded(column) for column in columns]
    known = frozenset(columns)
    for row in rows:
        if not row.keys() <= known:
            raise ValueError(f"a row has {', '.join(sorted(row.keys() - known))}; the columns are {', '.join(columns)}")
        yield [_cell(row.get(column)) for column in columns]


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value) if isinstance(value, int) else guarded(str(value))


@contextmanager
def _fields_of_any_length() -> Iterator[None]:
    """Python's reader refuses longer fields than it writes."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)
