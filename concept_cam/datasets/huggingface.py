"""Data sets that Hugging Face's ``datasets`` saved to disk; needs the extra ``huggingface``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Bool
from PIL import Image
from torch import Tensor

from concept_cam.datasets.example import Dataset, Example, Lazy
from concept_cam.datasets.files import json_of, within, words
from concept_cam.errors import DatasetError, missing, one_line, refused_as
from concept_cam.images import read_image, read_levels

_EVALUATED = ("test", "validation", "val")


def read_huggingface(folder: Path, root: Path | None = None) -> Dataset:
    """Read a folder of ``save_to_disk``: the first column of images, the first of class labels, and a column named "mask".

    Of several splits, ``test`` or ``validation`` is evaluated and ``train`` is for a probe. Images are decoded when they are
    used; one that is stored as a path must lie in the folder of the data set, or in ``root``.
    """
    try:
        import datasets  # noqa: PLC0415
    except ImportError as error:
        raise DatasetError(f"{folder}: {missing('huggingface', 'read a data set of Hugging Face')}") from error
    _check_files(folder, root)
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
        return Lazy(len(kept), partial(_example, _Stored(table, folder, root), (seen[0], *masks[:1]), told))

    training = rows("train") if "train" in splits and chosen != "train" else ()
    evaluated = rows(chosen)
    if not len(evaluated):
        raise DatasetError(f"{folder}: no example can be used. {' '.join(problems)}")
    classes = tuple(dict.fromkeys(filter(None, names)))
    return Dataset(folder.name, classes, evaluated, training, tuple(problems))


def _check_files(folder: Path, root: Path | None) -> None:
    """Check that the lists of splits and files of a data set do not lead out of it.

    Raises:
        DatasetError: a path leads out or does not exist, or a list is malformed.
    """
    splits = [folder]
    if (folder / "dataset_dict.json").is_file():
        with refused_as(DatasetError, folder / "dataset_dict.json"):
            splits = [folder / name for name in json_of(folder / "dataset_dict.json")["splits"]]
    for split in splits:
        state = within(folder, str((split / "state.json").relative_to(folder)), root)
        within(folder, str((split / "dataset_info.json").relative_to(folder)), root)
        with refused_as(DatasetError, state):
            for about in json_of(state)["_data_files"]:
                within(folder, os.path.relpath(split / about["filename"], folder), root)


@final
@dataclass(frozen=True)
class _Stored:
    """The rows of a split, and the folders of their files."""

    table: Any
    folder: Path
    root: Path | None

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
    return Example(name, partial(_image, stored, row, columns[0], name), label, region=region)


def _image(stored: _Stored, row: int, column: str, name: str) -> Image.Image:
    return read_image(stored.content(row, column), name)


def _mask(stored: _Stored, row: int, column: str, name: str) -> Bool[Tensor, "height width"]:
    return torch.from_numpy(read_levels(stored.content(row, column), name, DatasetError) > 0)
