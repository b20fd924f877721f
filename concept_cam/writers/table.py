"""Tables of results, CSV or Parquet: a row for each localization, or for each part of each image."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, TypeAlias, final

from PIL import Image

from concept_cam.address import address_of
from concept_cam.errors import DatasetError, OptionError, OutputError, missing
from concept_cam.files import FileWriter
from concept_cam.parts.part import PartFinding
from concept_cam.result import Localization
from concept_cam.tables import table_of
from concept_cam.writers.coco import NOTHING
from concept_cam.writers.regions import Result, boxes_of, peak_of, regions_of
from concept_cam.writers.writer import Writer

Row: TypeAlias = dict[str, Any]


@final
@dataclass(frozen=True)
class LocalizationRow:
    """A localization, or why there is none, as a row of a table; its fields are the columns.

    Attributes:
        image: the name or the path of the image.
        target: the concept looked for.
        references: the concepts it is compared with, separated by semicolons.
        strength: the weight of the references.
        score: of the target on the image.
        reference_scores: of the references, in their order.
        x: of the peak, in pixels.
        y: of the peak.
        boxes: of the mask, the strongest first: left, top, right and bottom, half-open, in pixels.
        problem: why the image has no localization.
    """

    image: str
    target: str
    references: str = ""
    strength: float | None = None
    score: float | None = None
    reference_scores: str = ""
    x: float | None = None
    y: float | None = None
    boxes: str = ""
    problem: str = ""

    @classmethod
    def of(cls, name: str, result: Localization) -> LocalizationRow:
        """The row of a localization."""
        comparison, scores = result.comparison, result.scores
        x, y = peak_of(result)
        return cls(
            name,
            comparison.target,
            "; ".join(comparison.references),
            float(comparison.strength),
            float(scores[comparison.target]),
            "; ".join(f"{scores[reference]:.6g}" for reference in comparison.references),
            float(x),
            float(y),
            "; ".join(" ".join(map(str, box)) for box in boxes_of(result)),
        )

    def cells(self) -> Row:
        """What it holds that is not empty, by column."""
        return {name: value for name, value in asdict(self).items() if value not in (None, "")}


LOCALIZED = tuple(field.name for field in fields(LocalizationRow))
"""Columns of a table of localizations."""

_FOUND = ("image", "part", "visible", "confidence", "x", "y", "left", "top", "right", "bottom")
_AT_ONCE = 10_000


def to_csv(results: Mapping[str, Result]) -> bytes:
    """A table in UTF-8: a row for each localization, or for each part of each image; numbers have six digits.

    For a localization: the target and the references, their scores, the peak (x, y) and the boxes of the mask, the strongest
    first. For a part: whether it is visible, and if it is, its confidence, keypoint, box and attributes. Boxes are half-open.
    Every attribute ``NAME`` has two columns: ``NAME``, the value, and ``NAME_confidence``; where the table has one of that
    name already, ``NAME_`` and ``NAME__confidence``. A text that begins with = + - @, a tab or a line break gets an apostrophe
    before it: a spreadsheet would run it as a formula, and file names come from anyone. Bytes of a file name that are not
    UTF-8 are escaped with backslashes.

    Args:
        results: by name of the image.

    Raises:
        OptionError: there are none.

    Example:
        >>> from concept_cam import world
        >>> from concept_cam.writers import to_csv
        >>> plate = world.draw_species("ember finch", seed=3)
        >>> table = to_csv({"plate.png": world.localizer()(plate.image, "ember finch", "frost finch")})
        >>> table.splitlines()[1][:35]
        b'plate.png,ember finch,frost finch,0'
    """
    if not results:
        raise OptionError(NOTHING)
    findings = [result for result in results.values() if isinstance(result, PartFinding)]
    attributes = [name for finding in findings for part in finding.parts for name in part.attributes]
    rows = [row for name, result in results.items() for row in rows_of(name, result, attributes)]
    return csv_of(rows, columns_of(rows))


@final
class Table(Writer[Result]):
    """Writes ``to_csv`` of many results to a .csv file, or the same as .parquet, which needs the extra ``parquet``.

    Rows are kept on disk until the table is closed, for only then it is known which columns there are.

    Args:
        path: ending in .csv or .parquet.
        attributes: that the parts can have, in the order of their columns; by default in the order in which they are found.

    Raises:
        OptionError: the path has another ending.
        DatasetError: the extra is not there.
    """

    def __init__(self, path: str | os.PathLike[str], attributes: Sequence[str] = ()) -> None:
        self._path, self._attributes = address_of(path), attributes
        if self._path.suffix.lower() not in (".csv", ".parquet"):
            raise OptionError(f"{self._path}: expected a table that ends in .csv or .parquet.")
        if self._path.suffix.lower() == ".parquet":
            pyarrow_of()
        self._rows = TemporaryFile()  # noqa: SIM115  (closed with the table)
        self._kinds: dict[str, set[type]] = {}

    def add(self, name: str, result: Result, image: Image.Image | None = None) -> tuple[Path, ...]:
        """Take a result; see ``Writer``."""
        self.add_rows(rows_of(name, result, self._attributes))
        return ()

    def add_rows(self, rows: Iterable[Row]) -> None:
        """Take rows: those of a result, or one that says why there is none.

        Raises:
            OutputError: there is no room for them.
        """
        try:
            for row in rows:
                for key, value in row.items():
                    self._kinds.setdefault(key, set()).add(type(value))
                self._rows.write(json.dumps(row).encode() + b"\n")
        except OSError as error:
            raise OutputError(f"{self._path}: its rows cannot be kept ({error.strerror or error}).") from error

    def close(self) -> None:
        """Write the table; without a row there is none."""
        first = columns_of_parts(self._attributes) if self._attributes else ()
        columns = columns_of([dict.fromkeys(first), self._kinds]) if self._kinds else ()
        if columns:
            with FileWriter(self._path) as file:
                if self._path.suffix.lower() == ".csv":
                    file.write(csv_of([], columns))
                    for rows in self._some():
                        file.write(csv_of(rows, columns)[len(csv_of([], columns)) :])
                else:
                    self._write_parquet(file, columns)
        self._rows.close()

    def discard(self) -> None:
        """Delete what is not finished."""
        self._rows.close()

    def _some(self) -> Iterator[list[Row]]:
        self._rows.seek(0)
        while some := [json.loads(line) for line in islice(self._rows, _AT_ONCE)]:
            yield some

    def _write_parquet(self, file: FileWriter, columns: Sequence[str]) -> None:
        pyarrow, parquet = pyarrow_of()
        of_kind = {str: pyarrow.string(), float: pyarrow.float64(), int: pyarrow.int64()}
        kinds = {name: next((k for k in of_kind if k in self._kinds.get(name, ())), str) for name in columns}
        schema = pyarrow.schema([(name, of_kind[kinds[name]]) for name in columns])
        sink = pyarrow.PythonFile(_Sink(file), mode="w")
        with parquet.ParquetWriter(sink, schema) as writer:
            for rows in self._some():
                held = [{name: _plain(kinds[name], row.get(name)) for name in columns} for row in rows]
                writer.write_table(pyarrow.Table.from_pylist(held, schema))


class _Sink:
    """What pyarrow writes to."""

    closed = False

    def __init__(self, file: FileWriter) -> None:
        self._file, self._at, self._failed = file, 0, False

    def write(self, content: Any) -> int:
        # After a full disk pyarrow ends its file once more, which is gone by then.
        if not self._failed:
            self._failed = True
            self._at += self._file.write(bytes(content))
            self._failed = False
        return len(content)

    def tell(self) -> int:
        return self._at

    def flush(self) -> None:
        """Nothing is held back here."""

    def close(self) -> None:
        """The table closes its file itself."""


def rows_of(name: str, result: Result, attributes: Sequence[str] = ()) -> list[Row]:
    """The rows of one image: one of a localization, one for each part of a finding.

    Args:
        name: of the image.
        result: of the image.
        attributes: that the parts of all images can have; those of this image follow.
    """
    if isinstance(result, PartFinding):
        return list(_rows_of_parts(name, result, attributes))
    return [LocalizationRow.of(name, result).cells()]


def columns_of(rows: Iterable[Iterable[str]]) -> tuple[str, ...]:
    """The columns of a table with such rows, in their usual order."""
    names = list(dict.fromkeys(chain.from_iterable(rows)))
    usual = _FOUND if "part" in names else LOCALIZED[:-1]
    return (*usual, *(name for name in names if name not in usual))


def columns_of_parts(attributes: Iterable[str]) -> tuple[str, ...]:
    """The columns of a table of parts that can have these attributes."""
    return (*_FOUND, *chain.from_iterable(_pairs(attributes).values()))


def csv_of(rows: Iterable[Row], columns: Sequence[str]) -> bytes:
    """Rows as CSV with a header, in UTF-8 whatever the names of files are.

    Args:
        rows: each a mapping from columns to values.
        columns: in their order.
    """
    return table_of(rows, columns, errors="backslashreplace")


def _rows_of_parts(name: str, finding: PartFinding, attributes: Sequence[str]) -> Iterator[Row]:
    pairs = _pairs(chain(attributes, *(part.attributes for part in finding.parts)))
    seen = {region.place: region for region in regions_of(finding).seen}
    for index, part in enumerate(finding.parts):
        row: Row = {"image": name, "part": part.name, "visible": int(part.visible), "confidence": float(part.confidence)}
        if index in seen:
            places = (*map(float, seen[index].keypoint), *seen[index].box)
            row |= zip(("x", "y", "left", "top", "right", "bottom"), places, strict=True)
        for attribute, reading in part.attributes.items():
            row |= zip(pairs[attribute], (reading.value, float(reading.confidence)), strict=True)
        yield row


def _pairs(attributes: Iterable[str]) -> dict[str, tuple[str, str]]:
    """The two columns of each attribute, which no other has."""
    pairs: dict[str, tuple[str, str]] = {}
    taken = set(_FOUND)
    for name in dict.fromkeys(attributes):
        own = name
        while taken & {own, f"{own}_confidence"}:
            own += "_"
        pairs[name] = (own, f"{own}_confidence")
        taken.update(pairs[name])
    return pairs


def _plain(kind: type, value: Any) -> Any:
    """A value of a Parquet column."""
    if value is None or kind is not str:
        return value
    return as_text(value)


def as_text(value: object) -> str:
    """A text as Parquet holds it, in UTF-8 whatever the name of a file is."""
    return str(value).encode(errors="backslashreplace").decode()


def pyarrow_of() -> tuple[Any, Any]:
    """``pyarrow`` and ``pyarrow.parquet``.

    Raises:
        DatasetError: the extra is not there.
    """
    try:
        import pyarrow  # noqa: PLC0415
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError as error:
        raise DatasetError(missing("parquet", "write Parquet")) from error
    return pyarrow, pyarrow.parquet
