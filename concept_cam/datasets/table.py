"""Tables with a row an image, as people have them: their columns go by many names, and the rest of them is kept."""

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
    "twin": ("twin", "rival"),
    "mask": ("mask", "mask_path", "mask_file"),
    "left": ("left", "xmin", "x_min"),
    "top": ("top", "ymin", "y_min"),
    "right": ("right", "xmax", "x_max"),
    "bottom": ("bottom", "ymax", "y_max"),
}
"""What is read, and the names of its column; of several that are there the first."""

_SIDES = ("left", "top", "right", "bottom")

_Row = tuple[int, Mapping[str, str]]


def read_table(file: Path, root: Path | None = None) -> Dataset:
    """CSV or Parquet with a row an image: a file, a label, and if it has any a twin, a mask, and a box; see ``COLUMNS``.

    A box is ``left``, ``top``, ``right``, ``bottom`` in pixels of the image as it is shown, upright, half-open. With several
    rows for an image and label, masks and boxes add up. Columns that are none of these are ``Example.extra``.

    Args:
        file: the table.
        root: a folder that holds all files of the set, to which paths are relative; by default they are relative to the
            table's folder, and lead nowhere else.
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
    """What each column is called in this table.

    Raises:
        DatasetError: there is none of files or labels, or a box lacks a side.
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
    # One alone is of something else.
    return {known: name for known, name in found.items() if len(sides) != 1 or known not in _SIDES}


def _box(row: Mapping[str, str], name: str, image: Path) -> list[Box]:
    """The box of a row, if it has one.

    Raises:
        DatasetError: a side of it is missing, or no number, or it is not inside the image.
    """
    given = [side for side in _SIDES if side in row]
    if not given:
        return []
    if len(given) < len(_SIDES):
        missing = ", ".join(side for side in _SIDES if side not in row)
        raise DatasetError(f"{one_line(name, 120)}: a box without {missing}; expected all four sides, or none.")
    return [checked_box([float(row[side]) for side in _SIDES], size_of(image), one_line(name, 120))]


def _joined(values: Sequence[str]) -> str:
    """What the rows of one image and label say."""
    return "; ".join(dict.fromkeys(values))
