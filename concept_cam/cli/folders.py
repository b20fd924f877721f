"""The images that a command line means: files, and what lies in folders."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from concept_cam.address import Address, absolute, address_of
from concept_cam.cli.addressed import may_be_saved, meant
from concept_cam.cli.terminal import complain
from concept_cam.errors import ImageError, one_line
from concept_cam.formats import SUFFIXES

_LOOKED_FOR = f"looked for {', '.join(sorted(SUFFIXES))}"
_FEW = 5


def sources(images: Sequence[Path], *, but: Path | None = None) -> list[Path]:
    """The images, and those in folders in the order of their names, each once; a line says what is skipped there.

    A folder without images of its own stands for the folders in it, to any depth: one for each species, as a rule. One that
    ``save_to_disk`` has written stands for the rows of all its splits.

    Args:
        images: files, taken at their word, and folders; patterns, tar files, tables of images and addresses.
        but: a folder that is not looked into: that of the results.

    Raises:
        ImageError: there are none in a folder, or it cannot be read; or no file that was given exists.
        DatasetError: of a folder that ``save_to_disk`` has written, likewise.
    """
    from concept_cam.datasets.huggingface import is_saved, saved_images

    found: dict[str, Path] = {}
    for given in images:
        elsewhere = saved_images(address_of(given)) if may_be_saved(given) and is_saved(address_of(given)) else meant(given)
        # os.path says no, where Path raises on a name that is too long
        within = elsewhere or (_within(given, but) if os.path.isdir(given) else [address_of(given)])  # noqa: PTH112
        for path in within:
            found.setdefault(str(absolute(path)), path)
    if found and not any(isinstance(path, Address) or os.path.exists(path) for path in found.values()):  # noqa: PTH110
        # Before a run is begun, whose folder would refuse the right name.
        first, expected = next(iter(found.values())), "an image such as a JPEG or PNG file, or a folder of images"
        raise ImageError(f"{first}: the file does not exist; expected {expected}.")
    return list(found.values())


def _within(folder: Path, but: Path | None) -> list[Path]:
    listing = _Listing()
    inside = listing.read(folder)
    if listing.unreadable:
        raise ImageError(f"{folder}: the folder cannot be read ({listing.unreadable[0]}).")
    # By what they are and not by name, so that links that lead in a circle come to an end.
    seen = {_identity(folder), None if but is None else _identity(but)}
    below = deque(inner for inner in inside if _identity(inner) not in seen)
    if listing.images:
        listing.other += below
    else:
        while below:
            inner = below.popleft()
            if (identity := _identity(inner)) not in seen:
                seen.add(identity)
                below.extendleft(reversed(listing.read(inner)))
    if not listing.images:
        raise ImageError(f"{folder}: no images in this folder; {listing.told() or _LOOKED_FOR}.")
    if told := listing.told():
        complain(f"{folder}: {told}.")
    return listing.images


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(folder)  # noqa: PTH116
    except OSError:
        return None
    return found.st_dev, found.st_ino


@dataclass
class _Listing:
    """What folders hold: images, and what is none."""

    images: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    other: list[Path] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def read(self, folder: Path) -> list[Path]:
        """Take in a folder; returns those in it."""
        below: list[Path] = []
        try:
            names = sorted(os.listdir(folder))  # noqa: PTH208  (without a stat for each)
        except OSError as error:
            self.unreadable.append(f"{folder}: {error.strerror}")
            return below
        for path in (folder / name for name in names if not name.startswith(".")):
            # os.path says no of what cannot be looked at.
            if os.path.isdir(path):  # noqa: PTH112
                below.append(path)
            elif path.suffix.lower() not in SUFFIXES:
                self.skipped.append(path)
            elif os.path.isfile(path):  # noqa: PTH113
                self.images.append(path)
            else:
                self.other.append(path)
        return below

    def told(self) -> str:
        """What is not taken, by count and name."""
        parts = []
        if self.skipped:
            parts.append(f"{_named(self.skipped, 'file')} skipped because of the ending ({_LOOKED_FOR})")
        if self.other:
            parts.append(f"{_named(self.other, 'entry', 'entries')} skipped: folders beside images, or what is no file")
        if self.unreadable:
            parts.append(f"what cannot be read is skipped: {', '.join(self.unreadable[:_FEW])}")
        return "; ".join(parts)


def _named(paths: Sequence[Path], one: str, several: str | None = None) -> str:
    names = ", ".join(one_line(path.name, 60) for path in paths[:_FEW])
    more = ", ..." if len(paths) > _FEW else ""
    return f"{len(paths)} {one if len(paths) == 1 else several or f'{one}s'} ({names}{more})"
