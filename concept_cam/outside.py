"""OUTSIDE: files that others wrote are small enough, and what JSON they hold is shallow and finite, or they are not read."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import SEEK_END, BufferedReader, UnsupportedOperation
from math import isfinite
from typing import Any

from concept_cam.address import Address, address_of

DEEPEST = 64
"""Lists and mappings of JSON may be so many levels deep."""


def read_bytes(path: str | os.PathLike[str], most: int) -> bytes:
    """All bytes of a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no regular file, such as a pipe, which might never end; or it has more than ``most`` bytes.
    """
    with opened(path) as stream:
        size = length_of(stream)
        if size > most:
            raise ValueError(f"it has {size:,} bytes; at most {most:,} are read")
        # A file of /proc says that it has none.
        content = stream.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it has more than {most:,} bytes")
    return content


def length_of(stream: BufferedReader) -> int:
    """How many bytes an open file has; one of /proc says that it has none."""
    with suppress(UnsupportedOperation):
        return os.fstat(stream.fileno()).st_size
    here = stream.tell()
    length = stream.seek(0, SEEK_END)
    stream.seek(here)
    return length


def chunks_of(path: str | os.PathLike[str], size: int = 1 << 23) -> Iterator[bytes]:
    """The bytes of a file of any size, piece by piece.

    Raises:
        OSError, ValueError: it cannot be read, or is no regular file.
    """
    with opened(path) as stream:
        while chunk := stream.read(size):
            yield chunk


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[BufferedReader]:
    """Open a regular file, or what is at an address, to be read; to open a pipe would wait for who writes to it.

    Raises:
        OSError, ValueError: it cannot be opened, or is no regular file.
    """
    if isinstance(found := address_of(path), Address):
        with found.open() as stream:
            yield stream
        return
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise ValueError("it is a folder" if stat.S_ISDIR(mode) else "it is no regular file")
    with os.fdopen(handle, "rb") as stream:
        yield stream


def parse_json(text: str | bytes) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: it is no JSON, it is deeper than ``DEEPEST`` levels, or a number of it is not finite.
    """
    try:
        found = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except RecursionError as error:
        raise ValueError(f"it is more than {DEEPEST} levels deep") from error
    layer = [found]
    for _ in range(DEEPEST + 1):
        layer = [value for one in layer for value in _within(one)]
        if not layer:
            return found
    raise ValueError(f"it is more than {DEEPEST} levels deep")


def _within(value: Any) -> list[Any]:
    """What a list or a mapping holds that may hold more."""
    held = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [one for one in held if isinstance(one, dict | list)]


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number of JSON")


def _finite(digits: str) -> float:
    if not isfinite(number := float(digits)):
        raise ValueError(f"{digits[:20]} is too large a number")
    return number
