"""Tables with one row per image; columns have several accepted titles, and further columns are kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from concept_cam.datasets.builder import DatasetBuilder
from concept_cam.datasets.example import Dataset, Example, Region
from concept_cam.datasets.files import checked_box, size_of, table, within
from concept_cam.datasets.masks import of_boxes, of_levels, union
from concept_cam.errors import DatasetError, one_line
from concept_cam.regions import Box

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "file": ("file", "image", "picture", "path", "file_name", "filename", "filepath", "file_path", "image_path"),
    "label": ("label", "class", "class_name", "species", "target", "category"),
    "twin": ("twin",),
    "mask": ("mask", "mask_path", "mask_file"),
    "left": ("left", "xmin", "x_min"),
    "top": ("top", "ymin", "y_min"),
    "right": ("right", "xmax", "x_max"),
    "bottom": ("bottom", "ymax", "y_max"),
}
"""Accepted titles of each column; of several the first counts."""

_SIDES = ("left", "top", "right", "bottom")

_Row = tuple[int, Mapping[str, str]]


def read_table(file: Path, root: Path | None = None) -> Dataset:
    """Read a CSV or Parquet file with one row per image: file, label, and optionally twin, mask and box; see ``COLUMNS``.

    A box is ``left``, ``top``, ``right``, ``bottom`` in pixels of the upright image, half-open. Several rows of one image and
    label add their masks and boxes. Any other column is kept in ``Example.extra``.

    Args:
        file: the table.
        root: a folder that contains all files of the data set, to which paths are relative; by default paths are relative to
            the folder of the table and may not lead out of it.
    """
    found = table(file)
    columns = _columns(file, found.header)
    extra = tuple(name for name in found.header if name and name not in columns.values())
    gathered = DatasetBuilder(problems=[f"{file.name}: {problem}" for problem in found.problems])
    grouped: dict[tuple[str, str], list[_Row]] = defaultdict(list)
    for number, row in found.rows:
        name, label = row.get(columns["file"], ""), row.get(columns["label"], "").strip()
        if name and label:
            grouped[name, label].append((number, row))
        else:
            missing = columns["label" if name else "file"]
            gathered.problems.append(f"{file.name}, row {number}: no {missing}; expected one in each row.")

    def read(key: tuple[str, str]) -> Example:
        name, label = key
        image = within([root, file.parent] if root else file.parent, name, root)
        given = [{known: row[column] for known, column in columns.items() if column in row} for _, row in grouped[key]]
        named = {one["twin"].strip() for one in given if "twin" in one}
        if len(named) > 1:
            raise DatasetError(f"{one_line(name, 120)}: its rows name the twins {', '.join(sorted(named))}; expected one.")
        regions: list[Region] = []
        boxes: list[Box] = []
        for one in given:
            box = _box(one, name, image)
            boxes += box
            if "mask" in one:
                mask = within([root, file.parent] if root else file.parent, one["mask"], root)
                regions.append(of_levels(mask, image))
            elif box:
                regions.append(of_boxes(box, size_of(image)))
        known = {column: _joined([row[column] for _, row in grouped[key] if column in row]) for column in extra}
        more = {column: value for column, value in known.items() if value}
        region = union(regions) if regions else None
        return Example(name, image, label, next(iter(named), None), region=region, boxes=tuple(boxes), extra=more)

    gathered.add(grouped, read, name=lambda key: key[0])
    return gathered.dataset(file, [label for _, label in grouped], extra)


def _columns(file: Path, header: Sequence[str]) -> dict[str, str]:
    """The title of each known column in this table.

    Raises:
        DatasetError: the table has no column of files or labels, or a box lacks a side.
    """
    folded = {name.strip().casefold().replace(" ", "_"): name for name in reversed(header)}
    found: dict[str, str] = {}
    for known, names in COLUMNS.items():
        there = [folded[name] for name in names if name in folded]
        found |= {known: there[0]} if there else {}
    shown = one_line(", ".join(name for name in header if name), 300) or "none"
    for needed in ("file", "label"):
        if needed not in found:
            raise DatasetError(
                f"{file}: no column of {needed}s, such as {', '.join(COLUMNS[needed][:6])}. It has the columns {shown}; "
                "expected file and label, and if there are any twin, mask, left, top, right, bottom."
            )
    sides = [side for side in _SIDES if side in found]
    if 1 < len(sides) < len(_SIDES):
        missing = ", ".join(side for side in _SIDES if side not in found)
        raise DatasetError(
            f"{file}: a box needs left, top, right and bottom; there is no {missing}. It has the columns {shown}."
        )
    # A single side is the title of something else.
    return {known: name for known, name in found.items() if len(sides) != 1 or known not in _SIDES}


def _box(row: Mapping[str, str], name: str, image: Path) -> list[Box]:
    """The box of a row, if it has one.

    Raises:
        DatasetError: a side is missing or not a number, or the box is not inside the image.
    """
    given = [side for side in _SIDES if side in row]
    if not given:
        return []
    if len(given) < len(_SIDES):
        missing = ", ".join(side for side in _SIDES if side not in row)
        raise DatasetError(f"{one_line(name, 120)}: a box without {missing}; expected all four sides, or none.")
    return [checked_box([float(row[side]) for side in _SIDES], size_of(image), one_line(name, 120))]


def _joined(values: Sequence[str]) -> str:
    """The values of one image and label, joined."""
    return "; ".join(dict.fromkeys(values))
