"""Readers, one for each layout that people have on disk. Nothing is downloaded.

A reader reads lists and tables at once, images and masks when they are asked for. What is wrong with one example is a line
in ``Dataset.problems``, and the others are there; what is wrong with the layout as a whole is a ``DatasetError``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from concept_cam.datasets.builder import DatasetBuilder
from concept_cam.datasets.coco import read_coco
from concept_cam.datasets.example import Dataset, Example
from concept_cam.datasets.files import SUFFIXES, files_in, within, words
from concept_cam.datasets.huggingface import read_huggingface
from concept_cam.datasets.published import read_aircraft, read_cars, read_cub, read_fishvista, read_pets
from concept_cam.datasets.table import read_table
from concept_cam.errors import DatasetError, did_you_mean, one_line, refused_as

_NAMED = 5
"""How many of the files that are skipped are named."""


def read_folders(folder: Path, root: Path | None = None) -> Dataset:
    """A folder of classes: ``NAME/*.jpg``; underscores in names are spaces.

    Args:
        folder: holds a folder for each class.
        root: a folder that holds all files of the set; by default no link may lead out of the first.
    """
    inside = sorted(path for path in folder.iterdir() if path.name[0] != ".")
    classes = [path for path in inside if path.is_dir()]
    gathered = DatasetBuilder()
    found = [file for path in classes for file in files_in(path, gathered.problems)]
    links = {path.name for path in classes if path.is_symlink()}

    def read(file: Path) -> Example:
        name = file.relative_to(folder)
        # Nothing but a link leads out of where it is found.
        if file.is_symlink() or name.parts[0] in links:
            within(folder, str(name), root)
        if not file.is_file():
            raise DatasetError(f"{one_line(name, 120)}: is no file.")
        return Example(str(name), file, words(name.parts[0]))

    gathered.add([file for file in found if _is_image(file)], read)
    beside = [file for file in inside if file not in classes and _is_image(file)]
    reasons = {
        f"an image ends in one of {' '.join(SUFFIXES)}": [file for file in found if not _is_image(file)],
        "expected in the folder of a class": beside,
    }
    for reason, files in reasons.items():
        if files:
            named = ", ".join(one_line(file.relative_to(folder), 60) for file in files[:_NAMED])
            count = "1 file is" if len(files) == 1 else f"{len(files):,} files are"
            gathered.problems.append(f"{count} skipped: {named}{', ...' * (len(files) > _NAMED)} ({reason}).")
    return gathered.dataset(folder, [words(path.name) for path in classes])


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES


LAYOUTS: Mapping[str, Callable[[Path, Path | None], Dataset]] = {
    "folders": read_folders,
    "table": read_table,
    "cub": read_cub,
    "pets": read_pets,
    "aircraft": read_aircraft,
    "cars": read_cars,
    "coco": read_coco,
    "fishvista": read_fishvista,
    "huggingface": read_huggingface,
}
"""Readers by name."""


def read_dataset(path: Path, layout: str | None = None, root: Path | None = None) -> Dataset:
    """Read a data set; without a layout it is recognised by what lies there.

    Args:
        path: a folder or a file.
        layout: one of ``LAYOUTS``.
        root: a folder that holds all files of the set. A table names files relative to it, and names and links may lead
            anywhere inside it; without it none leads out of the set's own folder.

    Raises:
        DatasetError: there is nothing, or it is in no layout, or not in that one.
    """
    with refused_as(DatasetError, one_line(path, 300)):
        if not path.exists():
            raise DatasetError(f"{path}: there is no such file or folder.")
        if root is not None and not root.is_dir():
            raise DatasetError(f"{root}: there is no such folder; a root is a folder that holds all files of the set.")
        chosen = layout or _recognised(path)
        if chosen not in LAYOUTS:
            raise DatasetError(f"No layout {chosen!r}.{did_you_mean(chosen, LAYOUTS)} There are {', '.join(LAYOUTS)}.")
        return LAYOUTS[chosen](path, root)


def _recognised(path: Path) -> str:
    if path.is_file():
        return "coco" if path.suffix.lower() == ".json" else "table"
    signs = (
        ("cub", "image_class_labels.txt"),
        ("pets", "annotations/trimaps"),
        ("aircraft", "data/variants.txt"),
        ("cars", "devkit/cars_meta.mat"),
        ("fishvista", "segmentation_masks/seg_id_trait_map.json"),
        ("huggingface", "dataset_dict.json"),
        ("huggingface", "dataset_info.json"),
    )
    return next((name for name, sign in signs if (path / sign).exists()), "folders")
