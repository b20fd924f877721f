"""IMAGE IN: silences the warnings of decoders, whose exceptions say enough."""

from __future__ import annotations

import ctypes
import logging
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from PIL import _imaging

# What it logs as an error goes to those who listen, and to standard error only if nobody does.
logging.getLogger("PIL").addHandler(logging.NullHandler())

_QUIET = threading.Lock()
_quiet_count = 0
_SILENT = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Suppress Pillow's warnings in all threads; ``catch_warnings`` is not thread-safe."""
    global _quiet_count  # noqa: PLW0603
    with _QUIET:
        _quiet_count += 1
        if _SILENT not in warnings.filters:
            warnings.filters.insert(0, _SILENT)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        with _QUIET:
            _quiet_count -= 1
            if _quiet_count == 0 and _SILENT in warnings.filters:
                warnings.filters.remove(_SILENT)  # type: ignore[attr-defined]


@cache
def quiet_libtiff() -> None:
    """Silence libtiff, which writes to the standard error of the process what is raised too.

    This holds for the whole process, but for the copy of libtiff alone that Pillow uses, and no thread can come between. To
    redirect standard error would swallow what other threads write to it. Where Pillow does not show libtiff's functions, as on
    Windows, libtiff writes as before.
    """
    try:
        library = ctypes.CDLL(_imaging.__file__)
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            handler = getattr(library, name)
            handler.argtypes, handler.restype = [ctypes.c_void_p], ctypes.c_void_p
            handler(None)
    except (AttributeError, OSError):
        return
