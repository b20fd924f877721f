"""Pictures on a command line: which they are, what their results are called, and where those may go."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import chain, count
from pathlib import Path
from tempfile import TemporaryFile

from concept_cam.errors import OptionError, OutputError, PictureError

PICTURE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def sources(pictures: Sequence[Path], *, deep: bool = False) -> Iterator[Path]:
    """The pictures, and those in folders in the order of their names.

    Args:
        pictures: files, taken at their word, and folders.
        deep: a folder without pictures of its own stands for the folders in it.

    Raises:
        PictureError: there are none in a folder.
    """
    for path in pictures:
        if not os.path.isdir(path):  # noqa: PTH112  (says no, where Path raises on a name that is too long)
            yield path
            continue
        inside = _inside(path)
        if deep and not inside:
            folders = sorted(folder for folder in path.iterdir() if folder.is_dir() and folder.name[0] != ".")
            inside = [file for folder in folders for file in _inside(folder)]
        if not inside:
            raise PictureError(f"{path}: no pictures in this folder; looked for {', '.join(sorted(PICTURE_SUFFIXES))}.")
        yield from inside


def _inside(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.suffix.lower() in PICTURE_SUFFIXES and f.is_file() and f.name[0] != ".")


def names_of(pictures: Iterable[Path]) -> dict[Path, str]:
    """A name for the results of each picture: its stem, with a number where that is taken."""
    names: dict[str, Path] = {}
    for path in dict.fromkeys(pictures):
        names[first_free(path.stem, names)] = path
    return {path: name for name, path in names.items()}


def first_free(name: str, taken: Container[str]) -> str:
    """The name, with a number where it is taken."""
    candidates = chain([name], (f"{name}-{number}" for number in count(2)))
    return next(candidate for candidate in candidates if candidate not in taken)


def size_of(text: str | None) -> int | tuple[int, int] | None:
    """``336`` or ``336x504``, height first.

    Raises:
        OptionError: it is neither.
    """
    sides = [] if text is None else text.lower().split("x")
    if not all(side.isdecimal() for side in sides) or len(sides) > 2:
        raise OptionError(f"--size {text}: expected a side in pixels such as 336, or height x width such as 336x504.")
    return None if text is None else int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


def check_apart(pictures: Iterable[Path], results: Iterable[Path]) -> None:
    """Refuse to write over a picture that is still to be read.

    Raises:
        OutputError: a result would.
    """
    read = {path.resolve() for path in pictures}
    for result in results:
        if result.resolve() in read:
            raise OutputError(f"{result} is one of the pictures and would be overwritten; choose another --out.")


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
