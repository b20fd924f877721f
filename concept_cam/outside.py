"""OUTSIDE: files that others wrote are small enough, and what JSON they hold is shallow and finite, or they are not read."""

from __future__ import annotations

import json
import os
import stat
from math import isfinite
from typing import Any

DEEPEST = 64
"""Lists and mappings of JSON may be so many levels deep."""


def read_bytes(path: str | os.PathLike[str], most: int) -> bytes:
    """All bytes of a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no regular file, such as a pipe, which might never end; or it has more than ``most`` bytes.
    """
    # A pipe would be waited for as it is opened.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is no regular file")
        if found.st_size > most:
            raise ValueError(f"it has {found.st_size:,} bytes; at most {most:,} are read")
        # A file of /proc says that it has none.
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it has more than {most:,} bytes")
    return content


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
