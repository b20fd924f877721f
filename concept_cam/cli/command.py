"""The command line as it was given, for the record."""

from __future__ import annotations

import shlex
import sys

_NO_PART = ("--out", "--processes", "--engine")


def command_line() -> str:
    """The command in one line, without where results go and who makes them, which changes no result.

    Example:
        >>> import sys
        >>> given, sys.argv = sys.argv, ["concept-cam", "audit", "my photos.csv", "--engine", "ray", "--out", "there"]
        >>> command_line()
        "concept-cam audit 'my photos.csv'"
        >>> sys.argv = given
    """
    words = iter(sys.argv[1:])
    kept = []
    for word in words:
        if word in _NO_PART:
            next(words, None)
        elif not word.startswith(tuple(f"{name}=" for name in _NO_PART)):
            kept.append(word)
    return shlex.join(["concept-cam", *kept])
