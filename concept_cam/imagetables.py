"""OUTSIDE: tables whose rows hold encoded images, in Arrow files as ``save_to_disk`` writes them, and in Parquet files."""

from __future__ import annotations

import io
import json
import mmap
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import accumulate
from pathlib import PurePosixPath
from typing import Any, final

from concept_cam.errors import DatasetError, missing, reason
from concept_cam.remote import Held, Pieces

ARROW, PARQUET = ".arrow", ".parquet"

_EXTRAS = {ARROW: "huggingface", PARQUET: "parquet"}

_LARGEST_GROUP = 1 << 30
"""Bytes of a column in a row group of a Parquet file, which are unpacked together."""

_AT_ONCE = 100
"""Rows that are unpacked before it is known how many bytes they are."""

_UNPACKING = threading.Lock()

_DIGITS = 12
"""Of the number of a row, at most."""


@final
@dataclass(frozen=True, eq=False)
class ImageTable:
    """An open table of images.

    The image in a row is called after its column and the number of the row, from 0: ``image-000012``.

    Attributes:
        count: how many rows there are.
        columns: those that hold images; each gives the cell of a row.
        labels: gives the label of a row, by a column of class labels; None if there is no such column.
        problems: none; a row without an image is found when it is read.
    """

    count: int
    columns: Mapping[str, Callable[[int], Any]]
    labels: Callable[[int], str | None] | None = None
    problems: tuple[str, ...] = ()

    def names(self) -> Iterator[str]:
        """The images of the first column that is not called a mask, row by row."""
        column = next((name for name in self.columns if "mask" not in name.lower()), next(iter(self.columns)))
        return (name_of_row(column, row) for row in range(self.count))

    def size(self, name: str) -> int:
        """How many bytes an image has.

        Raises:
            FileNotFoundError: there is none of that name.
            ValueError: the row holds no image, or is damaged.
        """
        return len(self._content(name))

    def opened(self, name: str) -> io.BufferedReader:
        """An image to be read.

        Raises:
            FileNotFoundError: there is none of that name.
            ValueError: the row holds no image, or is damaged.
        """
        content = self._content(name)
        return io.BufferedReader(Pieces(lambda place, count: bytes(content[place : place + count]), len(content)))

    def label(self, name: str) -> str | None:
        """The label of the row of an image, if the table has one for it.

        Raises:
            OSError, ValueError: the table is damaged.
        """
        with _refused():
            return self.labels(int(name.rpartition("-")[2])) if self.labels else None

    def _content(self, name: str) -> memoryview:
        column, _, digits = name.rpartition("-")
        known = column in self.columns and digits.isdecimal() and len(digits) <= _DIGITS
        if not known or int(digits) >= self.count or name != name_of_row(column, int(digits)):
            raise FileNotFoundError(2, "the table has no such image")
        with _refused():
            cell = self.columns[column](int(digits))
            encoded = cell["bytes"] if cell.is_valid else cell
            listed = cell.is_valid and "path" in cell and cell["path"].is_valid
            if encoded.is_valid and encoded.as_buffer():
                return memoryview(encoded.as_buffer())
        if listed:
            raise ValueError("the row holds the path of an image and not the image; give the folder of the files instead")
        raise ValueError("the row holds no image")


def name_of_row(column: str, row: int) -> str:
    """What the image in a row is called.

    Example:
        >>> name_of_row("image", 12)
        'image-000012'
    """
    return f"{column}-{row:06d}"


def image_table(held: Held, ending: str) -> ImageTable:
    """The images of an open file.

    Args:
        held: the file.
        ending: of its name, ``.arrow`` or ``.parquet``.

    Raises:
        DatasetError: pyarrow is not installed.
        OSError, ValueError: it is no such file, is damaged, or has no column of images.
    """
    try:
        import pyarrow  # noqa: PLC0415
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError as error:
        raise DatasetError(missing(_EXTRAS[ending], f"read images in {ending} files")) from error
    with _refused():
        # Mapped into memory: of a table of any size, only the rows that are read are in it.
        content = pyarrow.py_buffer(mmap.mmap(held.file.fileno(), 0, access=mmap.ACCESS_READ))
        return _of_arrow(pyarrow, content) if ending == ARROW else _of_parquet(pyarrow, content)


@contextmanager
def _refused() -> Iterator[None]:
    """Whatever is wrong with a table is a ``ValueError`` or an ``OSError``; pyarrow raises errors of many classes.

    Raises:
        OSError, ValueError: it is damaged.
    """
    try:
        yield
    except (OSError, ValueError):
        raise
    except MemoryError as error:
        # A damaged file says of itself that it is large.
        raise ValueError("it asks for more memory than there is") from error
    except Exception as error:
        raise ValueError(reason(error)) from error


def _of_arrow(pyarrow: Any, content: Any) -> ImageTable:
    is_file = bytes(content[:6]) == b"ARROW1"
    with pyarrow.ipc.open_file(content) if is_file else pyarrow.ipc.open_stream(content) as reader:
        names = _classes_in(reader.schema)
        classes = next(iter(names), None)
        images, batches, size = _images_in(pyarrow, reader.schema), [], 0
        wanted = [*images, *([classes] if classes else [])]
        for batch in map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader:
            batches.append(batch.select(wanted))
            # Wrong lengths would be read beyond the end of the file.
            batches[-1].validate(full=True)
            size += batches[-1].nbytes
            if size > content.size:
                raise ValueError("it is compressed, and would be unpacked as a whole; write it without")
        table = pyarrow.Table.from_batches(batches, pyarrow.schema([reader.schema.field(name) for name in wanted]))
    cells = {name: table.column(name).__getitem__ for name in images}
    labels = partial(_label, table.column(classes).__getitem__, names[classes]) if classes else None
    return ImageTable(table.num_rows, cells, labels)


def _of_parquet(pyarrow: Any, content: Any) -> ImageTable:
    about = pyarrow.parquet.ParquetFile(content)
    ends = list(accumulate(about.metadata.row_group(k).num_rows for k in range(about.metadata.num_row_groups)))
    names = _classes_in(about.schema_arrow)
    classes = next(iter(names), None)

    # A reader for each group: one is not for several threads.
    reader = partial(pyarrow.parquet.ParquetFile, content)

    def cell(column: str, row: int) -> Any:
        number = bisect_right(ends, row)
        with _UNPACKING:  # else several threads would each unpack a group that is new
            group = _group(reader, column, number)
        return group[row - (ends[number - 1] if number else 0)]

    images = {name: partial(cell, name) for name in _images_in(pyarrow, about.schema_arrow)}
    return ImageTable(
        ends[-1] if ends else 0, images, partial(_label, partial(cell, classes), names[classes]) if classes else None
    )


@lru_cache(2)
def _group(reader: Callable[[], Any], column: str, number: int) -> Any:
    """A column of a row group; the last two are kept, of whichever tables.

    Raises:
        ValueError: it is too large, or damaged.
    """
    import pyarrow  # noqa: PLC0415  (an extra)

    batches, size = [], 0
    for batch in reader().iter_batches(_AT_ONCE, row_groups=[number], columns=[column]):
        batch.validate(full=True)
        # What a file says of its size is how it is packed: an image that is in many rows is there once.
        size += batch.nbytes
        if size > _LARGEST_GROUP:
            raise ValueError(
                f"a row group of more than {_LARGEST_GROUP:,} bytes; so many are read at once. Write the table with smaller "
                "ones, such as row_group_size=100"
            )
        batches.append(batch)
    return pyarrow.Table.from_batches(batches).column(column)


def _images_in(pyarrow: Any, schema: Any) -> list[str]:
    """The columns of images: of encoded bytes, each with the name of its file or without.

    Raises:
        ValueError: there are none.
    """
    told = _features_of(schema)
    found = []
    for column in schema:
        kind, feature = column.type, told.get(column.name)
        encoded = pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 and kind.field("bytes").type
        is_binary = encoded and (pyarrow.types.is_binary(encoded) or pyarrow.types.is_large_binary(encoded))
        # Sounds are stored alike, and are told apart by what ``datasets`` says of the column.
        is_image = feature is None or feature.get("_type") == "Image"
        if is_binary and is_image and PurePosixPath(column.name).parts == (column.name,) and column.name != "..":
            found.append(column.name)
    if not found:
        names = ", ".join(schema.names) or "none"
        raise ValueError(f"it has no column of images, of bytes and path; its columns are {names}")
    return found


def _classes_in(schema: Any) -> dict[str, list[str]]:
    """The columns of class labels, with the names of the classes."""
    names = {
        name: feature.get("names") for name, feature in _features_of(schema).items() if feature.get("_type") == "ClassLabel"
    }
    return {
        name: found
        for name, found in names.items()
        if isinstance(found, list) and name in schema.names and all(map(_is_text, found))
    }


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _label(cell: Callable[[int], Any], names: list[str], row: int) -> str | None:
    number = cell(row).as_py()
    return names[number] if isinstance(number, int) and 0 <= number < len(names) else None


def _features_of(schema: Any) -> dict[str, dict[str, Any]]:
    """What ``datasets`` says of the columns of a table that it has written."""
    try:
        told = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {name: feature for name, feature in told.items() if isinstance(feature, dict)}
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return {}
