"""OUTSIDE: what is no file of its own on the disk has an address: an object of a store, or an image within a file of many."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, final

from concept_cam.errors import OptionError
from concept_cam.imagetables import ImageTable
from concept_cam.remote import Held, below, exists, fetched, information, matching, opened_at, remove
from concept_cam.shards import SHARDS, Shard, shard_of

STORES = ("s3:", "s3a:", "gs:", "gcs:", "az:", "abfs:", "abfss:", "https:", "hf:")
"""Protocols of stores of images, with which an address begins whatever the folders of this machine are called."""

_PROTOCOL = re.compile("[a-z][a-z0-9+.-]+:")
_LOCAL = ("file:", "local:")

_FRESH = 60.0
"""Seconds for which a store is not asked again whether a file of many images has changed."""


@final
class Address(type(Path())):  # type: ignore[misc]
    """A path such as ``s3://bucket/a/b.png``, ``shards/000.tar/b.png`` or ``birds/data-00000-of-00001.arrow/image-000012``.

    It is a ``Path``: names, suffixes, parents and ``/`` are as ever, and what asks for the file asks the store or the shard.
    ``address_of`` makes it.

    Example:
        >>> from concept_cam.address import address_of
        >>> image = address_of("s3://bucket/photos/finch.png")
        >>> print(image, image.name, image.parent / "jay.png")
        s3://bucket/photos/finch.png finch.png s3://bucket/photos/jay.png
    """

    __slots__ = ()

    def __str__(self) -> str:
        text: str = super().__str__()
        if not self.is_remote:
            return text
        protocol, _, rest = (text.replace("\\", "/") if os.name == "nt" else text).partition("/")
        return f"{protocol}//{rest}"

    def __fspath__(self) -> str:
        return str(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return Address, tuple(self.parts)

    @property
    def is_remote(self) -> bool:
        """Whether it is in an object store."""
        return _begins_with_protocol(self.parts)

    def _split(self) -> tuple[Address, str]:
        """The file of many images and the name within; the address itself and nothing where there is none."""
        place = _shard_in(self.parts, self.is_remote)
        return (Address(*self.parts[:place]), "/".join(self.parts[place:])) if place else (self, "")

    def shard(self) -> Shard | ImageTable:
        """The file of many images that this is, or is in.

        Raises:
            OSError, ValueError: it cannot be read, or is no such file.
            DatasetError: an extra is not installed.
        """
        file, _ = self._split()
        return _shard(file, _state_of(file))

    def stat(self, **options: Any) -> os.stat_result:
        """As of any path.

        Raises:
            OSError, ValueError: there is nothing.
        """
        file, name = self._split()
        if not name:
            return information(str(self)) if self.is_remote else os.stat(self, **options)  # noqa: PTH116
        found = _state_of(file)
        size, number = _shard(file, found).size(name), found.st_ino ^ hash((found.st_size, found.st_mtime_ns, name))
        return os.stat_result((stat.S_IFREG, number, found.st_dev, 1, 0, 0, size, *found[7:10]))

    def open(self, mode: str = "rb") -> Any:
        """Open it to be read, from any place of it.

        Raises:
            OSError, ValueError: there is nothing.
        """
        if mode != "rb":
            raise ValueError(f"mode is {mode!r}; an address is read as bytes")
        _, name = self._split()
        if name:
            return self.shard().opened(name)
        return opened_at(str(self)) if self.is_remote else open(self, "rb")  # noqa: PTH123

    def exists(self, **_: Any) -> bool:
        """Whether there is anything."""
        if self._split()[1]:
            return self.is_file()
        return exists(str(self)) if self.is_remote else os.path.exists(self)  # noqa: PTH110

    def is_file(self, **_: Any) -> bool:
        """Whether there is an object or a file."""
        return self._is(stat.S_ISREG)

    def is_dir(self, **_: Any) -> bool:
        """Whether there is a folder."""
        return self._is(stat.S_ISDIR)

    def _is(self, kind: Any) -> bool:
        try:
            return bool(kind(self.stat().st_mode))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return False

    def is_symlink(self) -> bool:
        """Stores have none."""
        return False

    def absolute(self) -> Address:
        """What is in a store has no other place; without ``..``."""
        if self.is_remote:
            return Address(os.path.normpath("/".join(self.parts)))
        return Address(os.path.abspath(self))  # noqa: PTH100

    def resolve(self, strict: bool = False) -> Address:
        """As ``absolute``, of a tar file with its links followed; stores have none."""
        return self.absolute() if self.is_remote else Address(os.path.realpath(self))

    def mkdir(self, *args: Any, **options: Any) -> None:
        """A store has no folders that need to be made."""
        if not self.is_remote:
            super().mkdir(*args, **options)

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete an object."""
        remove(str(self))

    def below(self) -> list[Address]:
        """All objects below it."""
        return [Address(one) for one in below(str(self))]

    def matching(self) -> list[Address]:
        """All objects that it means as a pattern."""
        return [Address(one) for one in matching(str(self))]

    def within(self) -> list[Address]:
        """The images in a file of many, in its order; see ``images_within``."""
        return [Address(self, name) for name in self.shard().names()]

    def fetched(self) -> Held:
        """A file without a name that holds all of an object."""
        return fetched(str(self))


def address_of(path: str | os.PathLike[str]) -> Path:
    """A path, as an ``Address`` if it is one.

    A name of a protocol before the first slash makes it one, and so does a file on the way that holds many images, of one of
    ``SHARDS``.

    Raises:
        OptionError: it is the address of a file on this machine.

    Example:
        >>> from concept_cam.address import address_of
        >>> print(address_of(Path("s3://bucket/a.png")), type(address_of("photos/a.png")) is type(Path()))
        s3://bucket/a.png True
    """
    if isinstance(path, Address):
        return path
    path = Path(path)
    if _begins_with_protocol(path.parts):
        if path.parts[0] in _LOCAL:
            raise OptionError(f"{path}: this is a file of this machine; give its path alone.")
        return Address(*path.parts)
    return Address(path) if _shard_in(path.parts, False) else path


def _begins_with_protocol(parts: Sequence[str]) -> bool:
    """Whether a path is in a store, and not in a folder of this machine that is called as a protocol is."""
    if not parts or not _PROTOCOL.fullmatch(parts[0]):
        return False
    return parts[0] in STORES or not os.path.isdir(parts[0])  # noqa: PTH112


def _shard_in(parts: Sequence[str], remote: bool) -> int:
    """How many parts of a path lead to a file of many images that it passes through; 0 if it passes through none."""
    for place, part in enumerate(parts[:-1], 1):
        if part.lower().endswith(SHARDS):
            # A bucket is none, and neither is a folder.
            found = place > 2 and not is_prefix(Address(*parts[:place])) if remote else os.path.isfile(Path(*parts[:place]))  # noqa: PTH113
            if found:
                return place
    return 0


def is_prefix(path: Address) -> bool:
    """Whether an address that is called as a file of many images is a folder of a store; such a folder is asked for once.

    Args:
        path: in a store.
    """
    try:
        return stat.S_ISDIR(_state_of(path).st_mode)
    except FileNotFoundError:
        return False


def _state_of(file: Address) -> os.stat_result:
    """What changes when a file of many images does; a store is asked once for all images that are read at that time."""
    return _asked(str(file), int(time.monotonic() / _FRESH)) if file.is_remote else file.stat()


@lru_cache(64)
def _asked(url: str, _: int) -> os.stat_result:
    return information(url)


def _shard(file: Address, state: os.stat_result) -> Shard | ImageTable:
    return shard_of(str(file), state.st_size, (state.st_ino, state.st_mtime_ns))


def absolute(path: str | os.PathLike[str]) -> Path:
    """A path or an address from the root; links are not followed.

    Args:
        path: of anything.
    """
    found = address_of(path)
    return found.absolute() if isinstance(found, Address) else Path(os.path.abspath(found))  # noqa: PTH100


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path is an address in an object store.

    Args:
        path: of anything.
    """
    found = address_of(path)
    return isinstance(found, Address) and found.is_remote


def seen_from(folder: Path, path: Path) -> str:
    """A path as it is seen from a folder, so that both can be moved together; where they have nothing in common, its own.

    Args:
        folder: from which it is seen.
        path: of anything.
    """
    folder, path = absolute(folder), absolute(path)
    if is_remote(folder) or is_remote(path):
        near = folder.parts[:2] == path.parts[:2]
        return os.path.relpath("/".join(path.parts), "/".join(folder.parts)) if near else str(path)
    try:
        return os.path.relpath(path, folder)
    except ValueError:  # on another drive
        return str(path)


def files_in(folder: Path, ending: str) -> list[Path]:
    """The files of a folder whose names have an ending, in the order of their names.

    Args:
        folder: on the disk, or in an object store.
        ending: such as ``.parquet``.
    """
    found = folder.below() if isinstance(folder, Address) else folder.glob("*")
    return sorted(file for file in found if file.suffix == ending)


def images_within(path: str | os.PathLike[str]) -> list[Address]:
    """The images in a tar file, or in a table of images, in the order of the file.

    Args:
        path: of the file, or its address.

    Raises:
        OSError, ValueError: it cannot be read, or is no such file.
        DatasetError: an extra is not installed.
    """
    _asked.cache_clear()  # it may have changed since it was read last
    return Address(Path(path)).within()
