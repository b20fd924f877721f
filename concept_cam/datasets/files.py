"""What all layouts have in common: lines and tables, names in bad order, pictures that are not there."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from concept_cam.decoding import opened
from concept_cam.errors import DatasetError
from concept_cam.regions import Box

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def within(root: Path, name: str) -> Path:
    """A file of the data set; a name that leads out of its folder is not trusted.

    Raises:
        DatasetError: it leads out, or there is no such file.
    """
    file = root / name
    if not file.resolve().is_relative_to(root.resolve()):
        raise DatasetError(f"{name}: leads out of {root}.")
    if not file.is_file():
        raise DatasetError(f"{file}: there is no such file.")
    return file


def lines(file: Path) -> Iterator[str]:
    """The lines of a text file that say something.

    Raises:
        DatasetError: it cannot be read.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file}: cannot be read ({error}); is this the layout's folder?") from error
    return (line for line in text.splitlines() if line.strip())


def numbered(file: Path) -> dict[str, str]:
    """A file of lines "number rest"."""
    return {key: rest for key, _, rest in (line.strip().partition(" ") for line in lines(file))}


def table(file: Path) -> list[dict[str, str]]:
    """The rows of a CSV file with a header, or of a Parquet file; what is empty is left out.

    Raises:
        DatasetError: it cannot be read, or Parquet is asked for without the extra ``parquet``.
    """
    if file.suffix.lower() == ".parquet":
        return [{key: str(value) for key, value in row.items() if value is not None} for row in _parquet(file)]
    return [{key: value for key, value in row.items() if key and value} for row in csv.DictReader(list(lines(file)))]


def _parquet(file: Path) -> list[dict[str, Any]]:
    try:
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError as error:
        raise DatasetError(f"{file}: to read Parquet, install concept-cam[parquet].") from error
    try:
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(file).to_pylist()
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file}: cannot be read ({error}).") from error
    return rows


def json_of(file: Path) -> Any:
    """What a JSON file holds.

    Raises:
        DatasetError: it cannot be read.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file}: cannot be read ({error}).") from error


def matlab(file: Path) -> dict[str, Any]:
    """The variables of a MATLAB file, single values as such.

    Raises:
        DatasetError: it cannot be read, or the extra ``cars`` is not there.
    """
    try:
        import scipy.io  # noqa: PLC0415
    except ImportError as error:
        raise DatasetError(f"{file}: to read MATLAB's files, install concept-cam[cars].") from error
    try:
        held: dict[str, Any] = scipy.io.loadmat(file, squeeze_me=True)
    except (OSError, ValueError, TypeError) as error:
        raise DatasetError(f"{file}: cannot be read ({error}).") from error
    return {name: np.atleast_1d(value) for name, value in held.items() if not name.startswith("__")}


def size_of(file: Path) -> tuple[int, int]:
    """(height, width) of a picture as a person sees it, from its header alone.

    Of a photograph that EXIF turns on its side, these are the sides after the turn. Boxes and outlines of a layout lie on the
    picture as it is seen, as those do that were drawn in a viewer or an annotation tool.

    Raises:
        DatasetError: it is none, or would be refused when it is read.
    """
    with opened(file, str(file), DatasetError) as stored:
        return stored.upright


def checked_box(corners: Sequence[float], size: tuple[int, int]) -> Box:
    """A half-open box of (left, top, right, bottom) in whole pixels, half a pixel over the edge forgiven.

    Raises:
        DatasetError: it is empty, or reaches out of the picture.
    """
    left, top, right, bottom = (round(side) for side in corners)
    height, width = size
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise DatasetError(f"the box {tuple(corners)} is not inside a picture of {width} x {height}.")
    return left, top, right, bottom


def words(name: str) -> str:
    """``001.Black_footed_Albatross`` -> ``Black footed Albatross``."""
    number, dot, rest = name.partition(".")
    return (rest if dot and number.isdecimal() else name).replace("_", " ").strip()
