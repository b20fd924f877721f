"""The rows of a run: dataclasses whose fields are the columns of a table in CSV, with their types and their meaning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from math import inf, isfinite
from pathlib import Path
from typing import Annotated, Any, TypeVar, final, get_args, get_type_hints

from concept_cam.datasets import Example
from concept_cam.errors import OutputError, one_line
from concept_cam.outside import read_bytes
from concept_cam.runs.digests import ADDRESS
from concept_cam.tables import columns_of, read_table, table_of

_LARGEST = 1 << 31

_SLACK = 1e-3
"""By which a number may lie outside its range: it was rounded."""


@dataclass(frozen=True)
class Column:
    """What a column of a table holds, as the annotation of a field: ``Annotated[float, Column("share on the object")]``.

    Attributes:
        help: one sentence.
        low: its numbers are not less.
        high: its numbers are not more.
    """

    help: str
    low: float = -inf
    high: float = inf


@dataclass(frozen=True, kw_only=True)
class Row:
    r"""What a run says of one example; each kind of run adds its own columns.

    A field that may be None is an empty cell where it is, and so is an empty text.

    Attributes:
        extra: further columns of the data set, which come last in a table.

    Example:
        >>> from concept_cam.runs.table import Column, Row, columns
        >>> @dataclass(frozen=True, kw_only=True)
        ... class Own(Row):
        ...     energy: Annotated[float | None, Column("Share on the object.", 0, 1)] = None
        >>> list(columns(Own))
        ['image', 'label', 'energy']
        >>> csv_of([Own(image="a.png", label="finch", energy=0.25)], Own).decode()
        'image,label,energy,problem\na.png,finch,0.25,\n'
    """

    image: Annotated[str, Column("Name of the image, as in the data set.")]
    label: Annotated[str, Column("The class that the data set says the image shows.")]
    extra: Mapping[str, str] = field(default_factory=dict)


RowT = TypeVar("RowT", bound=Row)


@final
@dataclass(frozen=True, kw_only=True)
class Skipped(Row):
    """An example that could not be used, in the place of its row."""

    problem: Annotated[str, Column("Why the image could not be used; the other columns are then empty.")]

    @classmethod
    def of(cls, name: str, label: str, error: BaseException | str) -> Skipped:
        """The reason on one line, without addresses in memory, which differ from run to run.

        Args:
            name: of the image.
            label: of the image.
            error: what went wrong.
        """
        return cls(image=name, label=label, problem=problem_of(error))


def problem_of(error: BaseException | str) -> str:
    """An error on one line, without addresses in memory; its type where it says nothing.

    Example:
        >>> problem_of(ValueError("no such  thing"))
        'no such thing'
    """
    return " ".join(ADDRESS.sub("", str(error)).split()) or type(error).__name__


PROBLEM = fields(Skipped)[-1].name
"""The last column of each table of rows, but for those of the data set."""


def columns(kind: type[Row]) -> dict[str, Column]:
    """The columns of a kind of rows by their names, in order.

    Example:
        >>> columns(Skipped)["label"].help
        'The class that the data set says the image shows.'
    """
    return {name: one for name, (one, _) in _columns(kind).items()}


def column_names(kind: type[Row], extra: Iterable[str] = ()) -> tuple[str, ...]:
    """The header of a table of such rows: their columns, ``problem``, and further columns of the data set."""
    return (*columns(kind), PROBLEM, *extra)


def csv_of(rows: Iterable[Row], kind: type[Row], extra: Iterable[str] = ()) -> bytes:
    """A table with a header; numbers have six digits, and yes and no are 1 and 0; see ``table_of``.

    Args:
        rows: of that kind, and those that were skipped.
        kind: whose columns the table has.
        extra: further columns of the data set.

    Example:
        >>> from concept_cam.runs import Row, Skipped, csv_of
        >>> rows = [Row(image="a.png", label="finch"), Skipped.of("b.png", "wren", "damaged")]
        >>> csv_of(rows, Row).decode().split()
        ['image,label,problem', 'a.png,finch,', 'b.png,wren,damaged']
    """
    return table_of(map(_cells, rows), column_names(kind, extra))


def read_rows(file: Path, kind: type[RowT]) -> list[RowT | Skipped]:
    """The rows that ``csv_of`` wrote, with the types of their fields.

    Args:
        file: with the table.
        kind: of its rows.

    Raises:
        OutputError: it cannot be read, or is not a table of such rows.

    Example:
        >>> import tempfile
        >>> from concept_cam.runs import Row, csv_of, read_rows
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "rows.csv"
        ...     _ = file.write_bytes(csv_of([Row(image="a.png", label="finch")], Row))
        ...     read_rows(file, Row)
        [Row(image='a.png', label='finch', extra={})]
    """
    try:
        content = read_bytes(file, _LARGEST)
        header, own = columns_of(content), column_names(kind)
        if header[: len(own)] != own:
            raise ValueError(f"its columns are {one_line(', '.join(header), 200)}; expected {', '.join(own)}")
        return [_row(kind, cells, header[len(own) :]) for cells in read_table(content)]
    except (OSError, ValueError) as error:
        raise OutputError(f"{file}: not the rows of a run ({error}).") from error


def with_extra(pairs: Iterable[tuple[RowT, Example]], named: Mapping[str, str]) -> list[RowT]:
    """Rows with what further columns of the data set say of their examples.

    Args:
        pairs: each row with its example.
        named: what the columns are called in the table; see ``extra_columns``.
    """
    return [
        replace(row, extra={column: example.extra[name] for name, column in named.items() if name in example.extra})
        for row, example in pairs
    ]


def of_examples(rows: Iterable[RowT], examples: Iterable[Example]) -> list[tuple[RowT, Example]]:
    """Each row with the example of its image and label."""
    known = {(example.name, example.label): example for example in examples}
    return [(row, known[row.image, row.label]) for row in rows]


def _cells(row: Row) -> dict[str, object]:
    values = {name: getattr(row, name) for name in _columns(type(row))}
    return {name: int(value) if isinstance(value, bool) else value for name, value in values.items()} | dict(row.extra)


def _row(kind: type[RowT], cells: Mapping[str, str], extra: Sequence[str]) -> RowT | Skipped:
    further = {name: cells[name] for name in extra if name in cells}
    if PROBLEM in cells:
        return Skipped(image=cells.get("image", ""), label=cells.get("label", ""), problem=cells[PROBLEM], extra=further)
    values = {name: _value(name, one, kinds, cells.get(name)) for name, (one, kinds) in _columns(kind).items()}
    return kind(**values, extra=further)


_KNOWN: dict[type[Row], dict[str, tuple[Column, tuple[type, ...]]]] = {}


def _columns(kind: type[Row]) -> dict[str, tuple[Column, tuple[type, ...]]]:
    """The columns and the types that each may have; with that of None where it may be empty."""
    if kind not in _KNOWN:
        known = {}
        for name, hint in get_type_hints(kind, include_extras=True).items():
            about = [part for part in getattr(hint, "__metadata__", ()) if isinstance(part, Column)]
            if about:
                (plain, *_) = get_args(hint)
                known[name] = about[0], get_args(plain) or (plain,)
        _KNOWN[kind] = known  # whole, for other threads too
    return _KNOWN[kind]


def _value(name: str, column: Column, kinds: tuple[type, ...], text: str | None) -> Any:
    if text is None and (type(None) in kinds or str in kinds):
        return None if type(None) in kinds else ""
    if text is None:
        raise ValueError(f"a row has no {name}")
    if str in kinds:
        return text
    if bool in kinds:
        if text not in ("0", "1"):
            raise ValueError(f"{name} is {one_line(text, 40)}; expected 0 or 1")
        return text == "1"
    number = float(text)
    if not (isfinite(number) and column.low - _SLACK <= number <= column.high + _SLACK):
        raise ValueError(f"{name} is {text}; expected a number from {column.low:g} to {column.high:g}")
    return int(number) if int in kinds and float not in kinds else number
