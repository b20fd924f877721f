"""COCO's run-length encoding of masks: counts of zeros and ones in turn, column by column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from torch import Tensor

from concept_cam.errors import DatasetError, one_line

_LETTERS = 7
"""Largest number of characters of a length: 35 bits, enough for any image that fits into memory."""


def run_lengths(outline: Mapping[str, Any], size: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
    """Decode run lengths, compressed or not, to a mask of (height, width).

    Args:
        outline: a mapping with ``size`` and ``counts``.
        size: (height, width) of the image.

    Raises:
        DatasetError: the run lengths have another size, are not integers, or do not sum to the size.

    Example:
        >>> run_lengths({"size": [3, 2], "counts": [2, 4]}, (3, 2)).tolist()
        [[False, True], [False, True], [True, True]]
    """
    counts, held = outline.get("counts", ()), outline.get("size")
    if held not in (list(size), size):
        raise DatasetError(f"Run lengths of {one_line(repr(held), 40)} pixels do not fill an image of {list(size)}.")
    lengths = _uncompressed(counts) if isinstance(counts, str | bytes) else _plain(counts)
    if sum(lengths) != size[0] * size[1] or min(lengths, default=0) < 0:
        raise DatasetError(f"Run lengths of {one_line(sum(lengths), 40)} pixels do not fill an image of {list(size)}.")
    inside: Bool[np.ndarray, "height width"] = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(size[::-1]).T
    return inside


def _plain(counts: Any) -> list[int]:
    if not isinstance(counts, list) or not all(type(count) is int for count in counts):
        raise DatasetError(f"Run lengths are {one_line(repr(counts), 40)}; expected whole numbers.")
    return counts


def compressed(mask: Bool[Tensor, "height width"]) -> dict[str, Any]:
    """Encode a mask as compressed run lengths with its ``size`` (height, width), exactly as pycocotools does.

    Example:
        >>> import torch
        >>> compressed(torch.tensor([[False, True], [False, True], [True, True]]))
        {'size': [3, 2], 'counts': '24'}
    """
    flat = mask.numpy().T.ravel()
    edges = np.flatnonzero(np.diff(flat, prepend=False))
    lengths = np.diff(edges, prepend=0, append=flat.size)
    return {"size": list(mask.shape), "counts": _compressed(lengths.astype(np.int64))}


def _uncompressed(text: str | bytes) -> list[int]:
    """COCO's compression: five bits per character, lowest first; from the fourth on, lengths are stored as differences."""
    letters = text.encode() if isinstance(text, str) else text
    lengths: list[int] = []
    value = shift = 0
    for letter in letters:
        bits = letter - 48
        if not 0 <= bits < 64 or shift >= 5 * _LETTERS:
            raise DatasetError(f"Run lengths are {one_line(repr(text), 40)}, which COCO's compression never writes.")
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    if shift:
        raise DatasetError(f"Run lengths end within a number: {one_line(repr(text), 40)}.")
    return lengths


def _compressed(lengths: Int[np.ndarray, " runs"]) -> str:
    """The inverse: each length in as few characters as hold it with its sign; all but the last have the sixth bit set."""
    values = lengths.copy()
    values[3:] -= lengths[1:-2]
    magnitudes = np.where(values < 0, ~values, values)
    places = np.arange(_LETTERS)
    last = (magnitudes[:, None] >> (5 * places[1:] - 1) > 0).sum(axis=1, keepdims=True)
    letters = (values[:, None] >> 5 * places & 0x1F) + np.where(places < last, 0x20, 0) + 48
    return bytes(letters[places <= last].astype(np.uint8)).decode()
