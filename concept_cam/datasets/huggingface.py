"""Data sets that Hugging Face's ``datasets`` saved to disk; needs the extra ``huggingface``."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Bool
from PIL import Image
from torch import Tensor

from concept_cam.address import Address, images_within
from concept_cam.datasets.example import Dataset, Example, Lazy
from concept_cam.datasets.files import json_of, within, words
from concept_cam.errors import DatasetError, Unreachable, missing, one_line, refused_as
from concept_cam.images import read_image, read_levels
from concept_cam.imagetables import name_of_row

_EVALUATED = ("test", "validation", "val")
_SPLITS, _STATE = "dataset_dict.json", "state.json"


def is_saved(folder: Path) -> bool:
    """Whether ``save_to_disk`` has written a folder: a data set, or one of its splits."""
    if isinstance(folder, Address):
        return any((folder / name).exists() for name in (_SPLITS, _STATE))
    return any(os.path.isfile(folder / name) for name in (_SPLITS, _STATE))  # noqa: PTH113  (says no to any name)


def saved_images(folder: Path) -> list[Path]:
    """The images in a folder of ``save_to_disk``, of all splits, row by row: of the first column that is not called a mask.

    Each is the address of a row, ``train/data-00000-of-00001.arrow/image-000012``, which can be given wherever a path is. No
    row is read for it. The folder may be the address of one in an object store.

    Args:
        folder: of a ``Dataset``, of a ``DatasetDict``, or of one of its splits.

    Raises:
        DatasetError: it is damaged, a path in it leads out, no column holds images, or the extra ``huggingface`` is missing.

    Example:
        >>> import io, tempfile
        >>> from pathlib import Path
        >>> import datasets
        >>> from concept_cam import world
        >>> from concept_cam.datasets import saved_images
        >>> stream = io.BytesIO()
        >>> world.draw_species("ember finch", 3).image.save(stream, "PNG")
        >>> rows = {"image": [{"bytes": stream.getvalue(), "path": None}] * 2}
        >>> made = datasets.Dataset.from_dict(rows, datasets.Features({"image": datasets.Image()}))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     made.save_to_disk(f"{folder}/birds")
        ...     [image.relative_to(folder).as_posix() for image in saved_images(Path(folder, "birds"))]
        ['birds/data-00000-of-00001.arrow/image-000000', 'birds/data-00000-of-00001.arrow/image-000001']
    """
    files = _files_of(folder, None)
    with refused_as(DatasetError, folder):
        return [image for of_split in files.values() for file in of_split for image in images_within(file)]


def read_huggingface(folder: Path, root: Path | None = None) -> Dataset:
    """Read a folder of ``save_to_disk``: the first column of images, the first of class labels, and a column named "mask".

    Of several splits, ``test`` or ``validation`` is evaluated and ``train`` is for a probe. Images are decoded when they are
    used. One that is stored in its row has the address of that row; one that is stored as a path must lie in the folder of the
    data set, or in ``root``.
    """
    try:
        import datasets  # noqa: PLC0415
    except ImportError as error:
        raise DatasetError(f"{folder}: {missing('huggingface', 'read a data set of Hugging Face')}") from error
    files = _files_of(folder, root)
    with refused_as(DatasetError, folder):
        try:
            held = datasets.load_from_disk(str(folder))
        except MemoryError as error:
            # The header of a damaged file may claim a huge size.
            raise ValueError("it asks for more memory than there is") from error
    splits = dict(held) if isinstance(held, datasets.DatasetDict) else {"all": held}
    chosen = next((name for name in _EVALUATED if name in splits), next(iter(splits)))
    features = splits[chosen].features
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    labels = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    masks = [name for name in images if "mask" in name.lower()]
    seen = [name for name in images if name not in masks]
    if not seen or not labels:
        found = one_line(", ".join(features), 300)
        raise DatasetError(f"{folder}: expected a column of images and one of class labels; found {found}.")
    names, problems = tuple(words(name) for name in features[labels[0]].names), []
    stored = datasets.Image(decode=False)

    def rows(split: str) -> Lazy:
        table = splits[split].with_format(None)
        # A memory-mapped file is validated, since wrong lengths would read beyond its end.
        table.data.table.validate(full=True)
        numbers = table[labels[0]]
        known = [number is not None and 0 <= number < len(names) and bool(names[number]) for number in numbers]
        kept = [row for row, is_known in enumerate(known) if is_known]
        unknown = len(numbers) - len(kept)
        if unknown:
            problems.append(f"{split}: {unknown} rows have a label that is none of the {len(names)} classes.")
        table = table.select_columns([seen[0], *masks[:1]])
        for name in (seen[0], *masks[:1]):
            table = table.cast_column(name, stored)
        told = [(f"{split}-{row:06d}", row, names[numbers[row]]) for row in kept]
        # A set that is saved has no order of its own beside that of its files.
        places = _Places.of(files[split], len(numbers)) if table._indices is None else None
        return Lazy(len(kept), partial(_example, _Stored(table, folder, root, places), (seen[0], *masks[:1]), told))

    training = rows("train") if "train" in splits and chosen != "train" else ()
    evaluated = rows(chosen)
    if not len(evaluated):
        raise DatasetError(f"{folder}: no example can be used. {' '.join(problems)}")
    classes = tuple(dict.fromkeys(filter(None, names)))
    return Dataset(folder.name, classes, evaluated, training, tuple(problems))


def _files_of(folder: Path, root: Path | None) -> dict[str, list[Path]]:
    """The files of each split; of a set without splits, they are under ``all``.

    Raises:
        DatasetError: a path leads out or does not exist, or a list is malformed.
    """
    splits = {"all": folder}
    if (folder / _SPLITS).is_file():
        with refused_as(DatasetError, folder / _SPLITS):
            splits = {name: folder / name for name in json_of(folder / _SPLITS)["splits"]}
    found = {}
    for name, split in splits.items():
        state = within(folder, _seen_from(folder, split / _STATE), root)
        within(folder, _seen_from(folder, split / "dataset_info.json"), root)
        with refused_as(DatasetError, state):
            listed = [about["filename"] for about in json_of(state)["_data_files"]]
            found[name] = [within(folder, _seen_from(folder, split / one), root) for one in listed]
    return found


def _seen_from(folder: Path, file: Path) -> str:
    """A path as it is listed: relative, and out of the folder where it leads out, be it to another store."""
    return os.path.relpath("/".join(file.parts), "/".join(folder.parts))


@final
@dataclass(frozen=True)
class _Places:
    """Where the rows of a split lie.

    Attributes:
        files: with some rows each.
        ends: how many rows there are to the end of each.
    """

    files: tuple[Path, ...]
    ends: tuple[int, ...]

    @classmethod
    def of(cls, files: Sequence[Path], count: int) -> _Places | None:
        """The places of so many rows; None if the files have another number, or are no tables of images with addresses."""
        try:
            ends = tuple(accumulate(sum(1 for _ in Address(file).shard().names()) for file in files))
        except ValueError:
            return None
        return cls(tuple(files), ends) if ends and ends[-1] == count else None

    def image(self, row: int, column: str) -> Path | None:
        """The address of an image; None where the row does not hold it."""
        file = bisect_right(self.ends, row)
        address = Address(self.files[file], name_of_row(column, row - (self.ends[file - 1] if file else 0)))
        try:
            address.stat()
        except Unreachable:
            raise
        except (OSError, ValueError):
            return None
        return address


@final
@dataclass(frozen=True)
class _Stored:
    """The rows of a split, the folders of their files, and where the rows lie."""

    table: Any
    folder: Path
    root: Path | None
    places: _Places | None

    def content(self, row: int, column: str) -> bytes | Path:
        """An encoded image, or the path of its file."""
        held = self.table[row][column]
        if held is None:
            raise ValueError("there is none")
        if held["bytes"]:
            return bytes(held["bytes"])
        return within(self.folder, held["path"], self.root)


def _example(stored: _Stored, columns: tuple[str, ...], known: Sequence[tuple[str, int, str]], index: int) -> Example:
    """The example of a row; the columns are those of the image and, if there is one, of the mask."""
    name, row, label = known[index]
    region = None
    try:
        if len(columns) > 1 and stored.table[row][columns[1]] is not None:
            region = partial(_mask, stored, row, columns[1], name)
    except Exception:  # noqa: BLE001
        # The row cannot be read; the image raises that when it is used.
        region = None
    image = stored.places.image(row, columns[0]) if stored.places else None
    return Example(name, image or partial(_image, stored, row, columns[0], name), label, region=region)


def _image(stored: _Stored, row: int, column: str, name: str) -> Image.Image:
    return read_image(stored.content(row, column), name)


def _mask(stored: _Stored, row: int, column: str, name: str) -> Bool[Tensor, "height width"]:
    return torch.from_numpy(read_levels(stored.content(row, column), name, DatasetError) > 0)
