"""Files of weights: what one holds is read off its own table of contents, before a library opens it."""

from __future__ import annotations

import json
import stat
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import final

from concept_cam.errors import BackboneError, one_line

ENDINGS = (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".tar", ".npz", ".npy")
"""Of the files that open_clip, timm and transformers load as weights."""

MOST_HEADER = 16 * 2**20
"""Bytes of a safetensors file's header; 100,000 tensors have so many."""

MOST_UNPACKED = 4
"""A compressed file may be so many times as large unpacked; numbers of weights hardly shrink."""


@final
@dataclass(frozen=True)
class Stored:
    """What files of weights hold.

    Attributes:
        size: in bytes.
        tensors: how many, at most.
    """

    size: int
    tensors: int


def check_weights(files: Iterable[Path]) -> Stored:
    """What some files hold together.

    Raises:
        BackboneError: one is no regular file, holds code, or declares more than it has.
    """
    found = [_look(file) for file in files]
    return Stored(sum(one.size for one in found), sum(one.tensors for one in found))


def _look(file: Path) -> Stored:
    try:
        about = file.stat()
        if not stat.S_ISREG(about.st_mode):
            raise BackboneError(f"{file}: it is no regular file; expected weights.")
        if file.suffix == ".safetensors":
            return Stored(about.st_size, _count(file, about.st_size))
        with file.open("rb") as opened:
            packed = opened.read(4) == b"PK\x03\x04"
        # A pickle says nowhere how much it holds; a tensor takes it some 40 bytes at least.
        return _unpacked(file, about.st_size) if packed else Stored(about.st_size, about.st_size // 40 + 1)
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, RecursionError) as error:
        raise BackboneError(f"{file}: these weights cannot be read ({one_line(error, 200)}).") from error


def _count(file: Path, size: int) -> int:
    """How many tensors a safetensors file has. That their places fit is checked by its library."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if not 2 <= length <= min(size - 8, MOST_HEADER):
            raise ValueError(f"its header would have {length:,} bytes, of {size:,} in all")
        return len(json.loads(opened.read(length)))


def _unpacked(file: Path, size: int) -> Stored:
    """Of a zip archive, in which torch and numpy write."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    if any(entry.filename.rpartition("/")[2] == "constants.pkl" for entry in entries):
        raise BackboneError(
            f"{file}: a TorchScript archive, which holds code; expected the tensors alone (a state dict), as .safetensors."
        )
    declared = sum(entry.file_size for entry in entries)
    if declared > MOST_UNPACKED * size + 2**20:
        raise ValueError(f"it would unpack {size:,} bytes to {declared:,}")
    return Stored(max(size, declared), len(entries))
