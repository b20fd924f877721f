"""What all readers share: lines and tables, paths that may be opened, sizes and boxes, names of classes."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from concept_cam import formats
from concept_cam.address import STORES, absolute, address_of, is_remote
from concept_cam.decoding import opened
from concept_cam.errors import DatasetError, missing, one_line, reason, refused_as
from concept_cam.outside import read_bytes
from concept_cam.regions import Box
from concept_cam.textfiles import MAX_ROWS, TextTable, lines_of, table_of, text_of

SUFFIXES = formats.SUFFIXES

MAX_JSON = 2**31
"""Largest size of a JSON file in bytes; one of LVIS has 1.1 GB."""

MAX_TABLE = 2**28
"""Largest size of a table or a list in bytes."""

_MAX_VALUE = 2**17
"""Largest number of characters of a value in a Parquet file; the csv module has the same limit."""


def within(folders: Path | Sequence[Path], name: str, root: Path | None = None) -> Path:
    """The path of a file of the data set; a path that leads out of its folder is refused.

    Args:
        folders: the folders that may have the file; the first that has it counts.
        name: path relative to them, or absolute.
        root: the folder that the path may not lead out of; by default the folder that has the file.

    Raises:
        DatasetError: the path leads out, or there is no such file.
    """
    tried = [folders] if isinstance(folders, Path) else list(folders)
    with refused_as(DatasetError, one_line(name, 120)):
        if is_remote(name) or is_remote(tried[0]):
            return _listed(name, tried[0], root)
        folder = next((folder for folder in tried if address_of(folder / name).is_file()), tried[0])
        file, inside = address_of(folder / name), root or folder
        if not file.resolve().is_relative_to(inside.resolve()):
            hint = "give a root that holds it" if root is None else "the root holds all files of the set"
            raise DatasetError(f"{one_line(name, 120)}: leads out of {inside}, so it is not opened; {hint}.")
        if not file.is_file():
            raise DatasetError(f"{one_line(file, 300)}: there is no such file.")
    return file


def _listed(name: str, folder: Path, root: Path | None) -> Path:
    """An address that a table lists.

    Raises:
        DatasetError: it is not of a store of images.
    """
    listed = is_remote(name)
    found = address_of(name) if listed else absolute(folder / name)
    if listed and (found.parts[0] not in (*STORES, folder.parts[0]) or ".." in found.parts):
        raise DatasetError(
            f"{one_line(name, 120)}: addresses in a table begin with {', '.join(f'{one}//' for one in STORES)}."
        )
    root = folder if root is None and not listed else root
    if root is not None and not found.is_relative_to(address_of(root)):
        raise DatasetError(
            f"{one_line(name, 120)}: leads out of {root}, so it is not opened; the root holds all files of the set."
        )
    return found


def files_below(folder: Path, problems: list[str]) -> Iterator[Path]:
    """All files below a folder, in the order of their names.

    Args:
        folder: the folder to search; links to folders are not followed.
        problems: receives a line for each folder that cannot be read.
    """
    stack = [folder]
    while stack:
        path = stack.pop()
        try:
            if path.is_dir() and (path == folder or not path.is_symlink()):
                stack += sorted((inside for inside in path.iterdir() if inside.name[0] != "."), reverse=True)
            elif path.is_dir():
                problems.append(f"{path}: a link to a folder is not followed.")
            else:
                yield path
        except OSError as error:
            problems.append(f"{one_line(path, 200)}: cannot be read ({reason(error)}).")


def lines(file: Path) -> Iterator[str]:
    """The lines of a text file that are not blank.

    Raises:
        DatasetError: the file cannot be read.
    """
    try:
        text = text_of(file, MAX_TABLE)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file}: cannot be read ({reason(error)}); is this the layout's folder?") from error
    return (line for line in lines_of(text) if line.strip())


def numbered(file: Path, problems: list[str]) -> dict[str, str]:
    """Read a file of lines "number rest" by number; a repeated number adds a line to ``problems``."""
    found: dict[str, str] = {}
    for line in lines(file):
        key, _, rest = line.strip().partition(" ")
        if found.setdefault(key, rest) != rest:
            problems.append(f"{file.name}: {key} is listed twice; the first is used.")
    return found


def table(file: Path) -> TextTable:
    """Read a CSV file with a header, or a Parquet file.

    Raises:
        DatasetError: the file cannot be read, or it is Parquet and the extra ``parquet`` is not installed.
    """
    with refused_as(DatasetError, file):
        return _parquet(file) if file.suffix.lower() == ".parquet" else table_of(text_of(file, MAX_TABLE))


def _parquet(file: Path) -> TextTable:
    try:
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError as error:
        raise DatasetError(f"{file}: {missing('parquet', 'read Parquet')}") from error
    try:
        # Not by read_table, which takes folders such as year=2024 on the way to the file for columns.
        # Of an address, all of it is read: it is no larger than a table may be.
        given = file if type(file) is type(Path()) else io.BytesIO(read_bytes(file, MAX_TABLE))
        with pyarrow.parquet.ParquetFile(given) as held:
            about, types = held.metadata, {field.name: field.type for field in held.schema_arrow}
        unpacked = sum(about.row_group(k).total_byte_size for k in range(about.num_row_groups))
        if about.num_rows > MAX_ROWS or unpacked > 4 * MAX_TABLE:
            raise ValueError(
                f"{about.num_rows:,} rows of {unpacked:,} bytes; at most {MAX_ROWS:,} of {4 * MAX_TABLE:,} are read"
            )
        names = tuple(name for name, kind in types.items() if not _is_binary(kind) and not pyarrow.types.is_nested(kind))
        # Texts stay in dictionaries: one long text, told a thousand times, is held once.
        texts = [name for name in names if pyarrow.types.is_string(types[name]) or pyarrow.types.is_large_string(types[name])]
        with pyarrow.parquet.ParquetFile(given, read_dictionary=texts) as held:
            batches = held.iter_batches(1024, columns=list(names))
            rows = tuple(enumerate((_named(row) for batch in batches for row in batch.to_pylist()), 1))
    except MemoryError as error:
        # A damaged file says of itself that it is large.
        raise ValueError("it asks for more memory than there is") from error
    return TextTable(names, rows)


def _is_binary(kind: Any) -> bool:
    return "binary" in str(kind)


def _named(row: Mapping[str, Any]) -> dict[str, str]:
    known = {name: str(value) for name, value in row.items() if value is not None}
    if any(len(value) > _MAX_VALUE for value in known.values()):
        raise ValueError(f"a value of more than {_MAX_VALUE:,} letters")
    return {name: value for name, value in known.items() if value.strip()}


def json_of(file: Path) -> Any:
    """Read a JSON file.

    Raises:
        DatasetError: the file cannot be read.
    """
    with refused_as(DatasetError, file):
        return json.loads(text_of(file, MAX_JSON))


def size_of(file: Path, what: str = "image") -> tuple[int, int]:
    """(height, width) of the upright image, from the header of the file alone.

    If EXIF rotates a photograph, these are the sides after the rotation. Boxes and outlines refer to the upright image, since
    viewers and annotation tools show that.

    Args:
        file: the image.
        what: what the file is, for messages.

    Raises:
        DatasetError: the file is not an image, or is one that would be refused when it is read.
    """
    with opened(file, str(file), DatasetError, what) as stored:
        return stored.upright


def checked_box(corners: Sequence[float], size: tuple[int, int], name: str) -> Box:
    """Round a half-open box (left, top, right, bottom) to whole pixels and check that it is on the image.

    Args:
        corners: of the box; half a pixel beyond the border is allowed.
        size: (height, width) of the upright image.
        name: of the image, for the message.

    Raises:
        DatasetError: the box is not finite, is empty, or extends beyond the image.

    Example:
        >>> checked_box((0.4, -0.2, 9.6, 8.0), (8, 10), "a.png")
        (0, 0, 10, 8)
    """
    height, width = size
    if all(math.isfinite(side) for side in corners):
        left, top, right, bottom = (round(side) for side in corners)
        if 0 <= left < right <= width and 0 <= top < bottom <= height:
            return left, top, right, bottom
    shown = ", ".join(f"{side:.6g}" for side in corners)
    raise DatasetError(f"{name}: the box ({shown}) is not inside an image of {width} x {height}.")


def words(name: str) -> str:
    """The name of a class from that of its folder.

    Example:
        >>> words("001.Black_footed_Albatross")
        'Black footed Albatross'
    """
    number, dot, rest = name.partition(".")
    return (rest if dot and number.isdecimal() else name).replace("_", " ").strip()
