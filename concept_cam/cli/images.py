"""Images on a command line: what their results are called, where those may go, and whether a file is still the same."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING
from unicodedata import normalize

from concept_cam.errors import ImageError, OptionError, OutputError

if TYPE_CHECKING:
    from PIL import Image

LARGEST_INPUT = 16_384
"""The side of a model's input; attention over more patches than that has would take terabytes."""

_LONGEST_STEM = 200
"""In bytes; names of 255 are the most that disks take, and endings and numbers are still to come."""


def names_of(images: Iterable[Path]) -> dict[Path, str]:
    """A name for the results of each image: its stem, shortened where it is long, with a number where that is taken."""
    taken: dict[str, int] = {}
    names: dict[Path, str] = {}
    for path in dict.fromkeys(images):
        names[path] = first_free(shortened(path.stem), taken)
    return names


def shortened(stem: str, longest: int = _LONGEST_STEM) -> str:
    """The stem, or the beginning of it and a digest of all of it, so that with every ending a disk takes it for a name.

    Args:
        stem: a name that may have been as long as a disk allows.
        longest: in bytes.
    """
    if len(os.fsencode(stem)) <= longest:
        return stem
    digest = hashlib.sha256(os.fsencode(stem)).hexdigest()[:16]
    start = stem[:longest]
    while len(os.fsencode(start)) > longest - len(digest) - 1:
        start = start[:-1]
    return f"{start}-{digest}"


def first_free(name: str, taken: dict[str, int]) -> str:
    """The name, with a number where it is taken; takes it.

    Args:
        name: to be had.
        taken: names, and the last number that each got; as they are alike on disks that know no capital letters.
    """
    alike = _alike(name)
    candidate, number = name, taken.get(alike, 1)
    while _alike(candidate) in taken:
        number += 1
        candidate = f"{name}-{number}"
    taken[alike] = number
    taken.setdefault(_alike(candidate), 1)
    return candidate


def _alike(name: str) -> str:
    return normalize("NFC", name).casefold()


class Watched:
    """Images that are looked at now and drawn on later: one that is another by then is not drawn on.

    Args:
        images: files.
    """

    def __init__(self, images: Iterable[Path]) -> None:
        self._images = images
        self._states: dict[Path, tuple[int, ...] | None] = {}

    def __iter__(self) -> Iterator[Path]:
        """Each of them, as it is about to be looked at."""
        for path in self._images:
            self._states[path] = _state_of(path)
            yield path

    def again(self, path: Path) -> Image.Image:
        """An image that was looked at, once more.

        Raises:
            ImageError: it is another now, or cannot be read.
        """
        from concept_cam.images import read_image

        image = read_image(path)
        if _state_of(path) != self._states.pop(path):
            raise ImageError(f"{path}: the file was changed while it was looked at; run it again.")
        return image


def _state_of(path: Path) -> tuple[int, ...] | None:
    """What changes when a file is written to or replaced; None if it cannot be looked at."""
    try:
        found = os.stat(path)  # noqa: PTH116  (says no, where Path raises on a name that is too long)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


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
    """Refuse to write over an image that is still to be read.

    Raises:
        OutputError: a result would.
    """
    read = {path.resolve() for path in images}
    for result in results:
        if result.resolve() in read:
            raise OutputError(f"{result} is one of the images and would be overwritten; choose another --out.")


def make_folder(folder: Path, *below: str) -> None:
    """Find out before the work whether its results can be kept; delete what a killed process was writing there.

    Args:
        folder: for the results.
        below: those of its sub-folders that have results too.

    Raises:
        OutputError: they cannot.
    """
    from concept_cam.files import clear_leftovers

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
        clear_leftovers(folder, *below)
    except OSError as error:
        reason = error.strerror or "not a folder that can be written to"
        raise OutputError(f"{folder}: cannot write results there ({reason}); choose another --out.") from error
