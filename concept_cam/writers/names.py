"""What the files of each image are called."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from unicodedata import normalize

from concept_cam.address import absolute, address_of, is_remote
from concept_cam.errors import OptionError

_LONGEST_STEM = 200
"""In bytes; names of 255 are the most that disks take, and endings and numbers are still to come."""


def names_of(images: Iterable[Path]) -> dict[Path, str]:
    """A name for the results of each image: its stem, shortened where it is long, with a number where that is taken."""
    taken = {"run": 1, "how": 1}  # NAME.json must not be a file of the run itself.
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
        taken: names as disks without capital letters compare them, and the last number that each got.
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


def held_by(images: Iterable[Path]) -> Path:
    """The folder that holds all images.

    Args:
        images: files, at least one.

    Raises:
        OptionError: they are in several stores, or in one and on the disk.
    """
    # Of an address, as a path from the root: what is above the bucket is none.
    parents = [absolute(path).parent for path in images]
    remote = [bool(is_remote(parent)) for parent in parents]
    if any(remote) and not (all(remote) and len({parent.parts[:2] for parent in parents}) == 1):
        raise OptionError("The images are in several places: give those of one bucket, or those of this machine, in one run.")
    return address_of(os.path.commonpath(["/".join(parent.parts) if any(remote) else parent for parent in parents]))
