"""What a command line may mean by one word: a pattern, a range of files, a shard, a folder of an object store."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from concept_cam.address import Address, address_of, is_prefix, is_remote
from concept_cam.cli.terminal import complain
from concept_cam.errors import ImageError, OptionError, Unreachable, one_line, reason
from concept_cam.formats import SUFFIXES
from concept_cam.shards import SHARDS, TAR

_RANGE = re.compile(r"\{([0-9]{1,9})\.\.([0-9]{1,9})\}")
_MOST = 1_000_000
"""Files of a range."""

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_FEW = 5


def meant(given: Path) -> list[Path] | None:
    """The images that a word means; None if it is a file, or a folder of this machine.

    Raises:
        ImageError: there are none, or they cannot be read.
        OptionError: a range is too long.
    """
    if os.path.exists(given) and not given.name.lower().endswith((*SHARDS, *_COMPRESSED)):  # noqa: PTH110
        return None
    named = [address_of(one) for one in _ranged(str(address_of(given)))]
    files = [file for one in named for file in _matching(one)]
    if files == [address_of(given)] and not _is_shard(files[0]):
        return _in_folder(files[0])
    return [image for file in files for image in (_in_shard(file) if _is_shard(file) else [file])]


def may_be_saved(given: Path) -> bool:
    """Whether a word may mean a folder that ``save_to_disk`` has written: it is one here, or an address that is no file's."""
    if os.path.isdir(given):  # noqa: PTH112
        return True
    named = address_of(given)
    endings = (*SHARDS, *_COMPRESSED, *SUFFIXES)
    return is_remote(named) and not (glob.has_magic(str(named)) or named.name.lower().endswith(endings))


def _ranged(text: str) -> Iterator[str]:
    """The names that ``{000..010}`` stands for.

    Raises:
        OptionError: they are too many.
    """
    names = [""]
    before = 0
    for found in _RANGE.finditer(text):
        first, last = int(found[1]), int(found[2])
        if not (first <= last and len(names) * (last - first + 1) <= _MOST):
            raise OptionError(f"{one_line(text, 300)}: expected a range such as {{000..010}}, of {_MOST:,} files at most.")
        numbers = [f"{text[before : found.start()]}{k:0{len(found[1])}d}" for k in range(first, last + 1)]
        names = [f"{name}{number}" for name in names for number in numbers]
        before = found.end()
    yield from (f"{name}{text[before:]}" for name in names)


def _matching(path: Path) -> list[Path]:
    """The images and shards that a pattern means, in the order of their names; without a pattern the path itself.

    Raises:
        ImageError: there are none.
    """
    if not glob.has_magic(str(path)) or os.path.exists(path):  # noqa: PTH110
        return [path]
    if isinstance(path, Address) and path.is_remote:
        try:
            found: list[Path] = sorted(path.matching(), key=_order)
        except FileNotFoundError as error:
            raise ImageError(f"{path}: {reason(error)}.") from error
    else:
        found = sorted(map(Path, glob.glob(str(path), recursive=True)), key=_order)  # noqa: PTH207
    good = [one for one in found if one.suffix.lower() in SUFFIXES or _is_shard(one)]
    if not good:
        raise ImageError(f"{one_line(path, 300)}: no images match this pattern ({len(found)} other files do).")
    _tell_skipped(path, [one for one in found if one not in set(good)])
    return good


def _in_shard(path: Path) -> list[Path]:
    """The images in a tar file, or in a table of images.

    Raises:
        ImageError: there are none, or it cannot be read.
    """
    if path.name.lower().endswith(_COMPRESSED):
        raise ImageError(f"{path}: a compressed tar file, in which no image can be found again; unpack it to a plain .tar.")
    file, is_tar = Address(path), path.name.lower().endswith(TAR)
    what = "tar file" if is_tar else "table of images"
    try:
        found = file.within()
        for problem in file.shard().problems[:_FEW]:
            complain(f"{path}: {problem}.")
    except Unreachable:
        raise
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: the {what} cannot be read ({reason(error)}).") from error
    if not is_tar and found:
        return list(found)
    images: list[Path] = [one for one in found if one.suffix.lower() in SUFFIXES and not _is_hidden(one, file)]
    if not images:
        looked = f"; looked for {', '.join(SUFFIXES)}" if is_tar else ""
        raise ImageError(f"{path}: no images in this {what}{looked}.")
    return images


def _in_folder(given: Path) -> list[Path] | None:
    """The images in a folder of an object store, as in one of this machine; None if it is an object.

    Raises:
        ImageError: there is nothing, or there are no images.
    """
    if not isinstance(given, Address) or not given.is_remote or given.suffix.lower() in SUFFIXES:
        return None
    if not given.is_dir():
        if given.exists():
            return None
        raise ImageError(f"{given}: there is no such bucket, folder or object.")
    found = [one for one in given.below() if not _is_hidden(one, given)]
    images: list[Path] = sorted((one for one in found if one.suffix.lower() in SUFFIXES), key=_order)
    own = [one for one in images if one.parent == given]
    if not images:
        raise ImageError(f"{given}: no images in this folder of {len(found)} files; looked for {', '.join(SUFFIXES)}.")
    taken = set(own or images)
    _tell_skipped(given, [one for one in found if one not in taken])
    return own or images


def _tell_skipped(path: Path, skipped: Sequence[Path]) -> None:
    if skipped:
        names = ", ".join(one_line(one.name, 60) for one in skipped[:_FEW])
        more = ", ..." if len(skipped) > _FEW else ""
        complain(
            f"{one_line(path, 300)}: {len(skipped)} files skipped: no images, or in folders beside images ({names}{more})."
        )


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part[0] == "." for part in path.relative_to(folder).parts)


def _is_shard(path: Path) -> bool:
    if not path.name.lower().endswith((*SHARDS, *_COMPRESSED)):
        return False
    remote = isinstance(path, Address) and path.is_remote
    return not (is_prefix(Address(path)) if remote else os.path.isdir(path))  # noqa: PTH112


def _order(path: Path) -> tuple[tuple[int, str], ...]:
    """The order of a folder: its files, then what is in the folders in it."""
    return (*((1, part) for part in path.parts[:-1]), (0, path.name))
