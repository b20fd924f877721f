"""Sets that ``datasets`` of Hugging Face has saved to disk; with the extra ``huggingface``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from PIL import Image
from torch import Tensor

from concept_cam.datasets.example import Dataset, Example, Lazy
from concept_cam.datasets.files import words
from concept_cam.errors import DatasetError
from concept_cam.images import read_levels, read_picture

_EVALUATED = ("test", "validation", "val")


def read_huggingface(root: Path) -> Dataset:
    """What ``save_to_disk`` wrote: the first column of pictures, the first of class labels, and a column of masks named so.

    Of several splits ``test`` is evaluated, or ``validation``, and ``train`` is for a probe. Pictures are decoded when they
    are asked for.
    """
    try:
        import datasets  # noqa: PLC0415
    except ImportError as error:
        raise DatasetError(f"{root}: to read it, install concept-cam[huggingface].") from error
    try:
        held = datasets.load_from_disk(str(root))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{root}: cannot be read ({error}).") from error
    splits = dict(held) if isinstance(held, datasets.DatasetDict) else {"all": held}
    chosen = next((name for name in _EVALUATED if name in splits), next(iter(splits)))
    features = splits[chosen].features
    pictures = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    labels = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    masks = [name for name in pictures if "mask" in name.lower()]
    seen = [name for name in pictures if name not in masks]
    if not seen or not labels:
        raise DatasetError(f"{root}: expected a column of pictures and one of class labels; found {', '.join(features)}.")
    columns = [seen[0], labels[0], *masks[:1]]
    stored = datasets.Image(decode=False)

    names = tuple(words(name) for name in features[labels[0]].names)

    def rows(split: str) -> Lazy:
        table = splits[split].select_columns(columns)
        for name in (seen[0], *masks[:1]):
            table = table.cast_column(name, stored)
        return Lazy(len(table), partial(_example, table, split, columns, names))

    training = rows("train") if "train" in splits and chosen != "train" else ()
    return Dataset(root.name, names, rows(chosen), training)


def _example(table: Any, split: str, columns: Sequence[str], names: Sequence[str], index: int) -> Example:
    """One row; the columns are those of the picture, of the label, and of the mask if there is one."""
    row, name = table[index], f"{split}-{index:06d}"
    label = row[columns[1]]
    region = None
    if len(columns) > 2 and row[columns[2]] is not None:
        region = partial(_mask, row[columns[2]], name)
    known = label is not None and 0 <= label < len(names)
    return Example(name, partial(_picture, row[columns[0]], name), names[label] if known else f"label {label}", region=region)


def _picture(stored: Any, name: str) -> Image.Image:
    return read_picture(_encoded(stored, name), name)


def _mask(stored: Any, name: str) -> Bool[Tensor, "height width"]:
    return torch.from_numpy(read_levels(_encoded(stored, name), name, DatasetError) > 0)


def _encoded(stored: Any, name: str) -> bytes | str:
    """What a row keeps of an image: the file itself, or its path.

    Raises:
        DatasetError: neither.
    """
    found = (stored.get("bytes") or stored.get("path")) if isinstance(stored, Mapping) else None
    if not isinstance(found, bytes | str):
        raise DatasetError(f"{name}: the row holds no picture.")
    return found
