"""Images on a command line: which input size they get, and where their results may go."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from concept_cam.address import Address, address_of
from concept_cam.errors import ImageError, OptionError, OutputError, Unreachable

if TYPE_CHECKING:
    from concept_cam.writers.dataset import Output

_NAMED = 3

_TRIED = ".concept-cam-tmp"
"""An object that is written and deleted, to find out whether that is allowed."""

LARGEST_INPUT = 16_384
"""The side of a model's input; attention over more patches than that has would take terabytes."""


def size_of(text: str | None) -> int | tuple[int, int] | None:
    """``336`` or ``336x504``, height first.

    Raises:
        OptionError: it is neither, or beyond all models.
    """
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(re.fullmatch("[0-9]{1,6}", side) and 0 < int(side) <= LARGEST_INPUT for side in sides):
        raise OptionError(
            f"--size {text}: expected a side in pixels such as 336, or height x width such as 336x504, "
            f"from 1 to {LARGEST_INPUT} each."
        )
    height, width = int(sides[0]), int(sides[-1])
    return height if len(sides) == 1 else (height, width)


def check_apart(images: Iterable[Path], results: Iterable[Path]) -> None:
    """Refuse to write over an image, or a table of images, that is given.

    Raises:
        OutputError: a result would.
    """
    read = {path.resolve() for path in images}
    for result in results:
        if result.resolve() in read:
            raise OutputError(f"{result} is one of the images, or their list, and would be overwritten; choose another --out.")


def make_folder(folder: Path, *below: str) -> None:
    """Find out before the work whether its results can be kept; delete what a killed process was writing there.

    Args:
        folder: for the results.
        below: those of its sub-folders that have results too.

    Raises:
        OutputError: they cannot.
    """
    from concept_cam.files import clear_leftovers, write_file

    try:
        if isinstance(folder, Address):
            write_file(folder / _TRIED, b"").unlink()
            return
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
        clear_leftovers(folder, *below)
    except Unreachable:
        raise
    except OSError as error:
        reason = (
            error.strerror or (str(error) if isinstance(folder, Address) else None) or "not a folder that can be written to"
        )
        raise OutputError(f"{folder}: cannot write results there ({reason}); choose another --out.") from error


def output_of(name: str, table: Path | None) -> Output:
    """How results are written.

    Args:
        name: that was given.
        table: a further table that was asked for.

    Raises:
        OptionError: there is no such way, or it has no such table.
        DatasetError: the extra that it needs is not there.
    """
    from concept_cam.writers.dataset import OUTPUTS, check_output

    check_output(name, table)
    return next(one for one in OUTPUTS if one == name)


def table_at(table: Path | None) -> Path | None:
    """Where a further table is to be written; what is wrong with it is told before the work.

    Raises:
        OptionError: it has no ending of a table.
        DatasetError: the extra that it needs is not there.
    """
    from concept_cam.writers.table import Table

    if table is not None:
        table = address_of(table)
        Table(table).discard()
    return table


def data_of(out: Path) -> str:
    """Where a data set is, for people."""
    from concept_cam.runs.batches import DATA

    return f"{out / DATA}/*.parquet"


def check_all(count: int, failed: int, out: Path) -> None:
    """Say how many images failed, after the others.

    Args:
        count: of all images.
        failed: of those that failed.
        out: where the results of the others are.

    Raises:
        ImageError: one failed.
    """
    if failed:
        rest = f"the others are in {out}" if failed < count else "none is left"
        raise ImageError(f"{failed} of {count} images failed; {rest}.")


def called(given: Sequence[Path]) -> str:
    """What the images and folders of a command line are called together."""
    return ", ".join(path.name or str(path) for path in given[:_NAMED]) + (", ..." if len(given) > _NAMED else "")
