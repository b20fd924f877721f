"""IMAGE IN: the orientation of an image, the only value that is read from EXIF."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from jaxtyping import Shaped
from PIL import Image

from concept_cam.metered import Metered

_LONGEST = 1 << 20
"""Bytes of an EXIF block that are looked at."""

_NUMBERS = {3: "H", 4: "I"}
"""Types of a tag that an orientation may have."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What puts an image upright, for each orientation but 1."""


Readable: TypeAlias = io.BufferedIOBase | Metered


def orientation_in(file: Readable) -> int:
    r"""1 to 8, from tag 274 of a TIFF file, as an EXIF block is one; 1 where it is damaged or does not say.

    Example:
        >>> orientation_in(io.BytesIO(b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0"))
        6
        >>> orientation_in(io.BytesIO(b"damaged"))
        1
    """
    for tag, kind, count, value in first_values(file):
        if tag == 274 and kind[1:] in ("H", "I") and count == 1:
            (found,) = struct.unpack_from(kind, value)
            return int(found) if 1 <= found <= 8 else 1
    return 1


def first_values(file: Readable) -> Iterator[tuple[int, str, int, bytes]]:
    """Of each tag of a TIFF file's first directory: number, form of its values, how many there are, the field that holds them.

    It ends where the file does. The form is that of ``struct``: a byte order, and a letter for whole numbers alone.
    """
    file.seek(0)
    start = len(re.match(rb"(?:Exif\0\0){0,2}", file.read(12))[0])  # type: ignore[index]
    file.seek(start)
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2], "")
    if not order or len(head) < 8:
        return
    big = struct.unpack_from(f"{order}H", head, 2)[0] == 43
    if big and len(head) < 16:
        return
    (offset,) = struct.unpack_from(f"{order}Q", head, 8) if big else struct.unpack_from(f"{order}I", head, 4)
    file.seek(min(start + offset, 1 << 62))
    number = file.read(8 if big else 2)
    if len(number) < (8 if big else 2):
        return
    entry = struct.Struct(f"{order}HHQ8s" if big else f"{order}HHI4s")
    for _ in range(min(65_535, struct.unpack(f"{order}Q" if big else f"{order}H", number)[0])):
        found = file.read(entry.size)
        if len(found) < entry.size:
            return
        tag, kind, count, value = entry.unpack(found)
        yield tag, order + _NUMBERS.get(kind, ""), count, value


def upright(levels: Shaped[np.ndarray, "rows cols"], orientation: int) -> Shaped[np.ndarray, "height width"]:
    """The array, rotated and mirrored to be upright."""
    if orientation >= 5:
        levels = levels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        levels = levels[:, ::-1]
    return levels[::-1] if orientation in (3, 4, 7, 8) else levels


def png_exif(file: Readable) -> bytes:
    """The EXIF block of a PNG file, at any position; empty if there is none."""
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"eXIf":
            return file.read(min(length, _LONGEST))
        file.seek(length + 4, io.SEEK_CUR)
    return b""
