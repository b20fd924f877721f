"""What the images of a command line show: by a table of them, or by their folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from concept_cam.address import Address, absolute, address_of
from concept_cam.cli.terminal import complain
from concept_cam.errors import Unreachable
from concept_cam.formats import SUFFIXES
from concept_cam.imagetables import ARROW, PARQUET
from concept_cam.shards import SHARDS

TABLES = (".csv", ".parquet", ".tsv")
"""Endings of files that list images and are none."""


def of_tables(given: Sequence[Path]) -> tuple[list[Path], dict[Path, str]]:
    """What is given with the images of tables in their places, and the labels that tables have for them.

    What is wrong with a row is told, and the others are there.

    Raises:
        DatasetError: a table cannot be read.
    """
    from concept_cam.datasets import read_dataset

    found: list[Path] = []
    labels: dict[Path, str] = {}
    for path in map(address_of, given):
        if path.suffix.lower() not in TABLES or _has_images(path):
            found.append(path)
            continue
        data = read_dataset(path, "table")
        for problem in data.problems:
            complain(f"skipped: {problem}")
        for example in data.examples:
            if isinstance(example.image, Path):
                labels.setdefault(example.image, example.label)
                found.append(example.image)
    return list(dict.fromkeys(found)), labels


def species_of(images: Sequence[Path], given: Sequence[Path], parent: str) -> dict[Path, str]:
    """What each shows: the name of its folder, or of the one that it is below in a folder of species, as a data set has it.

    Of the row of a table of images, it is the class label there. If all are of one folder that nobody named, it is the parent.

    Args:
        images: files.
        given: the files and folders that the command line names.
        parent: what all are.
    """
    from concept_cam.datasets.files import words

    roots = [folder for folder in map(absolute, given) if _holds_images(folder)]
    folders = {path: _below(absolute(path).parent, roots) for path in images}
    told = len(set(folders.values())) > 1 or bool(roots)
    # A file of many images names no species; a table of them may have labels.
    named = {path: told and not folder.name.lower().endswith(SHARDS) for path, folder in folders.items()}
    labels = {path: _label_of(path) for path in images}
    return {path: labels[path] or (words(folder.name) if named[path] else "") or parent for path, folder in folders.items()}


def _has_images(table: Path) -> bool:
    """Whether the rows of a table hold images themselves, and not their paths."""
    try:
        return table.suffix.lower() == PARQUET and bool(Address(table).shard().names())
    except Unreachable:
        raise
    except (OSError, ValueError):
        return False


def _label_of(image: Path) -> str | None:
    """The class label of the row of an image, if it is in a table of images that has one which can be read."""
    from concept_cam.datasets.files import words

    if not isinstance(image, Address) or image.parent.suffix.lower() not in (ARROW, PARQUET):
        return None
    try:
        label = image.shard().label(image.name)
    except Unreachable:
        raise
    except (OSError, ValueError):
        return None
    return words(label) if label else None


def _holds_images(given: Path) -> bool:
    """Whether it is a folder, or a file of many images."""
    ending = given.suffix.lower()
    return ending in SHARDS or (ending not in SUFFIXES and given.is_dir())


def _below(folder: Path, roots: Sequence[Path]) -> Path:
    """The folder, or that one around it which lies in one of the roots."""
    around = [root for root in roots if root in folder.parents]
    return max(around) / folder.relative_to(max(around)).parts[0] if around else folder
