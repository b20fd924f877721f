"""What is printed: one line at a time, with nothing in it that a terminal would obey."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import typer

from concept_cam.errors import LONGEST, one_line

if TYPE_CHECKING:
    from rich.console import Console

_CELL = 200


def say(text: object, limit: int = LONGEST) -> None:
    """Print a line of so many letters at most, whatever names stand in it."""
    typer.echo(one_line(text, limit))


def complain(text: object) -> None:
    """Print a line on the error stream."""
    typer.echo(f"concept-cam: {one_line(text)}", err=True)


def cell(text: object) -> str:
    """A text for a table."""
    return one_line(text, _CELL)


def console(width: int | None = None) -> Console:
    """What prints tables: brackets and colons in names mean nothing.

    Args:
        width: where nobody looks on: in a pipe there is no width to keep to.
    """
    from rich.console import Console

    class _Pipe(Console):
        def on_broken_pipe(self) -> None:
            raise  # noqa: PLE0704  (rich calls this where it has caught one, and would end the program itself)

    found = _Pipe(markup=False, emoji=False)
    return found if found.is_terminal or width is None else _Pipe(markup=False, emoji=False, width=width)


def finish() -> None:
    """Hand out what is still held back.

    Raises:
        OSError: nobody takes it.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


def give_up() -> None:
    """Let nothing more be written to the standard streams that cannot be: Python tries once more as it ends, and complains."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def number(count: int, noun: str) -> str:
    """``1 image``, ``2 images``."""
    return f"{count} {noun}{'s' * (count != 1)}"
