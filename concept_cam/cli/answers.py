"""What a command answers: lines and tables for people, or with --json an object on each line and nothing else."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from concept_cam.cli.terminal import complain, console, say
from concept_cam.errors import LONGEST, ImageError, NoSpatialGradient, OptionError, one_line

_LONGEST_COMMAND = 4000
"""Letters; a longer one names very many images."""


def answers_of(output: str, *, as_json: bool, show: bool = False) -> Answers:
    """What a command with results in files or in a data set answers.

    Args:
        output: ``files`` or ``parquet``.
        as_json: whether objects are printed.
        show: whether maps are shown in the terminal.

    Raises:
        OptionError: objects or maps of a data set, which is resumed without reading its results; or both at once.
    """
    for option, asked in (("--json", as_json), ("--show", show)):
        if asked and output != "files":
            raise OptionError(f"{option} has no effect with --as {output}, whose data set has all results; leave it out.")
    if as_json and show:
        raise OptionError("--show has no effect with --json, which prints nothing else; leave one of them out.")
    return Answers(as_json)


@dataclass(frozen=True)
class Answers:
    """Prints what a command answers; errors and notes go to the error stream as ever.

    Attributes:
        as_json: print objects and nothing else.
    """

    as_json: bool = False

    def say(self, text: object, limit: int = LONGEST) -> None:
        """Print a line for people."""
        if not self.as_json:
            say(text, limit)

    def show(self, table: Any, width: int | None = None) -> None:
        """Print a table of rich for people; see ``console``."""
        if not self.as_json:
            console(width).print(table)

    def give(self, **about: Any) -> None:
        """Print an object for scripts, in ASCII."""
        if self.as_json:
            typer.echo(json.dumps(about, allow_nan=False))

    def failed(self, path: Path, problem: str) -> None:
        """Tell why an image failed."""
        complain(problem)
        self.give(image=str(path), problem=problem)

    @contextmanager
    def of(self, images: Sequence[Path]) -> Iterator[None]:
        """If the command has one image and it fails, print its problem as an object for scripts, and raise the error."""
        try:
            yield
        except (ImageError, NoSpatialGradient) as error:
            if len(images) == 1:
                self.give(image=str(images[0]), problem=str(error))
            raise

    def next(self, *words: object) -> None:
        """Name the next useful command, if it can be pasted: it is not too long, and has no letter that a terminal changes.

        Args:
            words: of the command, after its name; a path that looks like an option is given as one in this folder.
        """
        here = (f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word) for word in words)
        line = shlex.join(["concept-cam", *here])
        if len(line) <= _LONGEST_COMMAND and line == one_line(line, _LONGEST_COMMAND):
            self.say(f"next: {line}", LONGEST + _LONGEST_COMMAND)
