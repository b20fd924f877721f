"""STORED: results on disk, tensors with metadata; everything is checked before use, since files come from anyone."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor

from concept_cam.decoding import MAX_PIXELS
from concept_cam.errors import OutputError, Unreachable, one_line
from concept_cam.images import Placement
from concept_cam.outside import parse_json, read_bytes

MOST_BYTES = 256 * 2**20
"""Of a file; a field of 4,096 patches and 4,096 numbers each has 32 MiB."""

MOST_NUMBERS = 2**26
"""Of the vectors of a field, which in a low rank need much less room on disk."""

MOST_CELLS = 2**20
"""Of a map."""

_MOST_WEIGHTS = 2**24
"""Of the interpolation that puts a map back, along either axis: pixels times cells."""

_FARTHEST = 1e9
"""Of a window's sides from the corner of its image, in pixels."""

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@contextmanager
def refused(path: str | os.PathLike[str], kind: str) -> Iterator[None]:
    """Turn any exception in the block into an ``OutputError`` of one line; ``Unreachable`` and a ``MemoryError`` pass.

    Raises:
        OutputError: the file is not such a result.
    """
    try:
        yield
    except (MemoryError, Unreachable):
        raise
    except Exception as error:
        said = f"it has no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise OutputError(f"{os.fspath(path)}: not a saved {kind} ({one_line(said, 300)}).") from error


def read_stored(path: str | os.PathLike[str], key: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The metadata under a key of a file, and its tensors, after a check that they are finite.

    Raises:
        ValueError, KeyError, OSError: the file is not such a result, is truncated, or is too large.
    """
    content = read_bytes(path, MOST_BYTES)
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > len(content) - 8:
        raise ValueError("its header is cut short")
    metadata = mapping(mapping(parse_json(content[8 : 8 + length]), "its header").get("__metadata__"), "its metadata")
    if not isinstance(metadata[key], str):
        raise ValueError(f"{key!r} in its metadata is no text")
    about = mapping(parse_json(metadata[key]), key)
    tensors = load(content)
    for name, tensor in tensors.items():
        if tensor.dtype not in _FLOATS or not tensor.numel() or not tensor.isfinite().all():
            raise ValueError(f"{name} does not hold finite floating-point numbers")
    return about, tensors


# ---- what is said -----------------------------------------------------------------------------------------------------


def mapping(value: Any, name: str) -> dict[str, Any]:
    """The value, after a check that it is a JSON object.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {one_line(value, 60)}; expected a JSON object")
    return value


def number(value: Any, name: str, low: float, high: float) -> float:
    """The value, after a check that it is a finite number between ``low`` and ``high``.

    Args:
        value: from a file.
        name: of the value, for the message.
        low: smallest value.
        high: largest value.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high or not isfinite(value):
        raise ValueError(f"{name} is {one_line(value, 60)}; expected a number from {low:g} to {high:g}")
    return float(value)


def numbers(value: Any, name: str, low: float, high: float, count: int) -> tuple[float, ...]:
    """The value, after a check that it is a list of ``count`` numbers between ``low`` and ``high``.

    Args:
        value: from a file.
        name: of the value, for the message.
        low: smallest value.
        high: largest value.
        count: how many.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, list) or len(value) != count:
        raise ValueError(f"{name} is {one_line(value, 60)}; expected {count} numbers")
    return tuple(number(one, name, low, high) for one in value)


def sides(value: Any, name: str, most: int) -> tuple[int, int]:
    """The value, after a check that it is two integers of at least 1 whose product is at most ``most``.

    Args:
        value: from a file.
        name: of the value, for the message.
        most: largest product.

    Raises:
        ValueError: it is not.
    """
    first, second = numbers(value, name, 1, most, 2)
    if not first.is_integer() or not second.is_integer() or first * second > most:
        raise ValueError(f"{name} is {one_line(value, 60)}; expected two whole numbers whose product is at most {most:,}")
    return int(first), int(second)


def texts(value: Any, name: str) -> tuple[str, ...]:
    """The value, after a check that it is a list of strings, none of them empty.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, list) or not all(isinstance(one, str) and one and _is_text(one) for one in value):
        raise ValueError(f"{name} is {one_line(value, 60)}; expected a list of texts")
    return tuple(value)


def _is_text(value: str) -> bool:
    """Halves of characters that JSON can spell, but no file can hold, are none."""
    return value.encode(errors="replace").decode() == value


def exactly(held: Mapping[str, Any], names: Iterable[str], what: str) -> None:
    """Raise ValueError unless a mapping has these keys and no others.

    Args:
        held: the mapping.
        names: the keys.
        what: what the mapping is, for the message.
    """
    wanted = set(names)
    if held.keys() != wanted:
        raise ValueError(f"{what} has {', '.join(sorted(held)) or 'nothing'}; expected {', '.join(sorted(wanted))}")


def placed(value: Any, grid: tuple[int, int]) -> Placement:
    """The placement of a map of a (rows, cols) grid, after a check that it shows a part of its image.

    Args:
        value: the stored mapping.
        grid: of the map.

    Raises:
        ValueError: the placement is invalid, or the image or the map exceeds the limits.
    """
    held = mapping(value, "placement")
    exactly(held, {"window", "image_size"} | (held.keys() & {"cells"}), "placement")
    height, width = sides(held["image_size"], "image_size", MAX_PIXELS)
    if max(height * grid[0], width * grid[1]) > _MOST_WEIGHTS:
        raise ValueError(f"a map of {grid[0]} x {grid[1]} cells is too fine for an image of {height} x {width} pixels")
    for key in ("window", "cells") if held.get("cells") is not None else ("window",):
        left, top, right, bottom = numbers(held[key], key, -_FARTHEST, _FARTHEST, 4)
        if not (left < right and top < bottom):
            raise ValueError(f"{key} is {held[key]}; expected left, top, right, bottom in order")
        if not (left < width and top < height and right > 0 and bottom > 0):
            raise ValueError(f"{key} is {held[key]}, which shows nothing of an image of {height} x {width} pixels")
    return Placement.read(held)
