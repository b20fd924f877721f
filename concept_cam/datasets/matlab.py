"""MATLAB's files of version 5 to 7, as far as data sets use them: texts, numbers, cells and structs.

The layout is that of "MAT-File Format" (The MathWorks). It is read here and not by scipy, which ends the whole process on a
damaged file.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from concept_cam.outside import read_bytes

MAX_BYTES = 2**26
"""Of a file, unpacked."""

_MAX_LEVELS = 8
_MATRIX, _PACKED = 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CELL, _STRUCT, _TEXT = 1, 2, 4
_NUMERIC = range(6, 16)


def read_matlab(file: Path) -> dict[str, Any]:
    """Read the variables of a file by name: strings, numbers or lists of them; cells as lists, structs as lists of mappings.

    Raises:
        OSError, ValueError, struct.error, zlib.error: the file cannot be read; see ``errors.refused_as``.
    """
    content = read_bytes(file, MAX_BYTES)
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None or content[124:126] not in (b"\0\1", b"\1\0"):
        raise ValueError("it is no MATLAB file of version 5 to 7")
    left = MAX_BYTES - len(content)
    found: dict[str, Any] = {}
    for kind, held in _elements(memoryview(content)[128:], order):
        parts = [(kind, held)]
        if kind == _PACKED and left >= 0:
            unpacked = zlib.decompressobj().decompress(held, left + 1)
            left -= len(unpacked)
            parts = list(_elements(memoryview(unpacked), order))
        if left < 0:
            raise ValueError(f"it has more than {MAX_BYTES:,} bytes, unpacked")
        for inner, matrix in parts:
            if inner == _MATRIX:
                name, value = _array(matrix, order)
                found[name] = value
    return found


def _elements(content: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Each with its kind; small ones hold kind and length in four bytes, others in eight, and end on a multiple of eight."""
    place = 0
    while place + 8 <= len(content):
        kind, length = struct.unpack_from(f"{order}II", content, place)
        start = place + 8
        if kind >> 16:
            kind, length, start = kind & 0xFFFF, kind >> 16, place + 4
            place += 8
        else:
            place = start + length + (0 if kind == _PACKED else -length % 8)
        if start + length > min(len(content), max(place, start)):
            raise ValueError("it is cut short")
        yield kind, content[start : start + length]


def _array(content: memoryview, order: str, level: int = 0) -> tuple[str, Any]:
    """A variable with its name; what is in cells and structs has none."""
    if not content:
        return "", []
    if level > _MAX_LEVELS:
        raise ValueError(f"more than {_MAX_LEVELS} levels")
    parts = _elements(content, order)
    flags, sides = (_numbers(parts, order) for _ in range(2))
    name, kind, count = bytes(_next(parts)[1]).decode("latin-1"), int(flags[0]) & 0xFF, math.prod(sides)
    if kind in _NUMERIC:
        values = _numbers(parts, order)
        return name, values[0] if len(values) == 1 else values
    if kind == _TEXT:
        if math.prod(sides[:-1]) > 1:
            raise ValueError("a text of several rows")
        return name, _text(*_next(parts), order)
    fields = [""]
    if kind == _STRUCT:
        (width,) = _numbers(parts, order)
        names = bytes(_next(parts)[1])
        fields = [names[k : k + width].split(b"\0")[0].decode("latin-1") for k in range(0, len(names), width)]
    elif kind != _CELL:
        raise ValueError(f"an array of kind {kind}; expected texts, numbers, cells or structs")
    # Each value takes eight bytes at least.
    if not 0 <= count * max(1, len(fields)) * 8 <= len(content):
        raise ValueError("it is cut short")
    rows = [{field: _array(_next(parts, _MATRIX)[1], order, level + 1)[1] for field in fields} for _ in range(count)]
    return name, rows if kind == _STRUCT else [row[""] for row in rows]


def _next(parts: Iterator[tuple[int, memoryview]], kind: int | None = None) -> tuple[int, memoryview]:
    found = next(parts, None)
    if found is None or kind not in (None, found[0]):
        raise ValueError("an array without its values")
    return found


def _numbers(parts: Iterator[tuple[int, memoryview]], order: str) -> list[Any]:
    kind, content = _next(parts)
    if kind not in _NUMBERS:
        raise ValueError(f"values of kind {kind}; expected numbers")
    values: list[Any] = np.frombuffer(content, f"{order}{_NUMBERS[kind]}").tolist()
    return values


def _text(kind: int, content: memoryview, order: str) -> str:
    end = "le" if order == "<" else "be"
    wide = {4: f"utf-16-{end}", 16: "utf-8", 17: f"utf-16-{end}", 18: f"utf-32-{end}"}
    return bytes(content).decode(wide.get(kind, "latin-1"))
