"""The command line as it was given, for the record."""

from __future__ import annotations

import shlex
import sys


def command_line() -> str:
    """The command in one line, without ``--out``: where results go is no part of how they are made.

    Example:
        >>> import sys
        >>> given, sys.argv = sys.argv, ["concept-cam", "audit", "my photos.csv", "--out", "there"]
        >>> command_line()
        "concept-cam audit 'my photos.csv'"
        >>> sys.argv = given
    """
    words = iter(sys.argv[1:])
    kept = []
    for word in words:
        if word == "--out":
            next(words, None)
        elif not word.startswith("--out="):
            kept.append(word)
    return shlex.join(["concept-cam", *kept])
