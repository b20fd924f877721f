"""Readers of data sets, one for each layout. Nothing is downloaded.

A reader reads lists and tables at once; images and masks are read when they are used. A problem of one example is a line in
``Dataset.problems``, and the other examples are kept. A problem of the whole layout is a ``DatasetError``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from concept_cam.address import address_of
from concept_cam.datasets.builder import DatasetBuilder
from concept_cam.datasets.coco import read_coco
from concept_cam.datasets.example import Dataset, Example
from concept_cam.datasets.files import SUFFIXES, files_below, within, words
from concept_cam.datasets.huggingface import read_huggingface
from concept_cam.datasets.published import read_aircraft, read_cars, read_cub, read_fishvista, read_pets
from concept_cam.datasets.table import read_table
from concept_cam.errors import DatasetError, did_you_mean, one_line, refused_as

_NAMED = 5
"""Number of skipped files that a problem names."""


def read_folders(folder: Path, root: Path | None = None) -> Dataset:
    """Read a folder of classes, ``NAME/*.jpg``; an underscore in the name of a class becomes a space.

    Args:
        folder: has one folder for each class.
        root: a folder that contains all files of the data set, links included; ``folder`` by default.
    """
    inside = sorted(path for path in folder.iterdir() if path.name[0] != ".")
    classes = [path for path in inside if path.is_dir()]
    gathered = DatasetBuilder()
    found = [file for path in classes for file in files_below(path, gathered.problems)]
    links = {path.name for path in classes if path.is_symlink()}

    def read(file: Path) -> Example:
        name = file.relative_to(folder)
        # Only a link can lead out of its folder.
        if file.is_symlink() or name.parts[0] in links:
            within(folder, str(name), root)
        if not file.is_file():
            raise DatasetError(f"{one_line(name, 120)}: is not a file.")
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


@final
@dataclass(frozen=True)
class Layout:
    """A layout of data sets.

    Attributes:
        read: the reader, a function of the path and the root.
        signs: files or folders in the folder of a data set by which the layout is recognised.
        suffixes: suffixes by which it is recognised if the data set is a file.
    """

    read: Callable[[Path, Path | None], Dataset]
    signs: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()


LAYOUTS: Mapping[str, Layout] = {
    "folders": Layout(read_folders),
    "table": Layout(read_table),
    "cub": Layout(read_cub, signs=("image_class_labels.txt",)),
    "pets": Layout(read_pets, signs=("annotations/trimaps",)),
    "aircraft": Layout(read_aircraft, signs=("data/variants.txt",)),
    "cars": Layout(read_cars, signs=("devkit/cars_meta.mat",)),
    "coco": Layout(read_coco, suffixes=(".json",)),
    "fishvista": Layout(read_fishvista, signs=("segmentation_masks/seg_id_trait_map.json",)),
    "huggingface": Layout(read_huggingface, signs=("dataset_dict.json", "dataset_info.json")),
}
"""Layouts by name; a folder without a sign is in the layout ``folders``, a file with another suffix in ``table``."""


def read_dataset(path: Path, layout: str | None = None, root: Path | None = None) -> Dataset:
    """Read a data set. Without ``layout``, the layout is recognised by the files of the folder.

    Args:
        path: a folder or a file.
        layout: one of ``LAYOUTS``.
        root: a folder that contains all files of the data set. Paths in a table are relative to it, and paths and links may
            lead anywhere inside it. By default they may not lead out of the data set's own folder.

    Raises:
        DatasetError: there is no such file or folder, or it is not in the layout.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from concept_cam.datasets import read_dataset
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     (Path(folder) / "house_finch").mkdir()
        ...     Image.new("RGB", (8, 8)).save(Path(folder) / "house_finch" / "a.png")
        ...     read_dataset(Path(folder)).classes
        ('house finch',)
    """
    path, root = address_of(path), None if root is None else address_of(root)
    with refused_as(DatasetError, one_line(path, 300)):
        if not path.exists():
            raise DatasetError(f"{path}: there is no such file or folder.")
        if root is not None and not root.is_dir():
            raise DatasetError(f"{root}: there is no such folder; a root is a folder that holds all files of the set.")
        chosen = layout or _recognised(path)
        if chosen not in LAYOUTS:
            raise DatasetError(f"No layout {chosen!r}.{did_you_mean(chosen, LAYOUTS)} There are {', '.join(LAYOUTS)}.")
        return LAYOUTS[chosen].read(path, root)


def _recognised(path: Path) -> str:
    if path.is_file():
        return next((name for name, layout in LAYOUTS.items() if path.suffix.lower() in layout.suffixes), "table")
    found = (name for name, layout in LAYOUTS.items() if any((path / sign).exists() for sign in layout.signs))
    return next(found, "folders")
