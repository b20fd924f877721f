"""OUTSIDE: files that hold many images: tar files, which are read here, and tables of images.

The index of a file is read once; nothing of it is written to the disk under its own name.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, final

from concept_cam.errors import one_line, reason
from concept_cam.imagetables import ARROW, PARQUET, ImageTable, image_table
from concept_cam.remote import Held, Pieces, fetch

TAR = ".tar"
SHARDS = (TAR, ARROW, PARQUET)
"""Endings of files that hold many images."""

_BLOCK = 512
_LONGEST = 1 << 16
"""Bytes of what a header says of the next one."""

_REGULAR, _NOTES = "\x000", "LxgK"
"""Kinds of members: files, and what is said of the next or of all."""

_MOST = 5_000_000
"""Members of a file."""

_KEPT = 8
"""Files that are open, with their indices."""

_INDEXING = threading.Lock()

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}


@final
@dataclass(frozen=True, eq=False)
class Shard:
    """An open tar file; see ``ImageTable`` for the other files of many images.

    Attributes:
        file: open as long as a member is read.
        members: where each regular file begins, and how many bytes it has.
        problems: one line for each member that is skipped, or why the file ends early.
    """

    file: Held
    members: Mapping[str, tuple[int, int]]
    problems: tuple[str, ...]
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def names(self) -> Iterator[str]:
        """Of all members, in the order of the file."""
        return iter(self.members)

    def size(self, name: str) -> int:
        """How many bytes a member has.

        Raises:
            FileNotFoundError: there is none of that name.
        """
        return self._member(name)[1]

    def label(self, name: str) -> str | None:
        """None: a tar file has no labels."""

    def opened(self, name: str) -> io.BufferedReader:
        """A member to be read.

        Raises:
            FileNotFoundError: there is none of that name.
        """
        start, size = self._member(name)
        return io.BufferedReader(Pieces(lambda place, count: self.read(start + place, count), size))

    def _member(self, name: str) -> tuple[int, int]:
        if name not in self.members:
            raise FileNotFoundError(2, "the tar file has no such image")
        return self.members[name]

    def read(self, place: int, count: int) -> bytes:
        """Some bytes of the file, for any thread.

        Args:
            place: of the first.
            count: how many.
        """
        with self._lock:
            self.file.file.seek(place)
            return self.file.file.read(count)


def shard_of(file: str, size: int, state: object) -> Shard | ImageTable:
    """The file of many images at a path or an address; the last few are kept open until they change.

    Args:
        file: path or address.
        size: its bytes.
        state: what changes when the file does.

    Raises:
        OSError, ValueError: it cannot be read, or is no such file.
        DatasetError: an extra is not installed.
    """
    with _INDEXING:  # else several threads would each fetch and index a file that is new
        return _shard_of(file, size, state)


@lru_cache(_KEPT)
def _shard_of(file: str, size: int, _: object) -> Shard | ImageTable:
    ending = next((one for one in SHARDS if file.lower().endswith(one)), None)
    if ending is None:
        raise ValueError(f"its name ends in none of {', '.join(SHARDS)}")
    held = fetch(file, size) if "://" in file else Held(open(file, "rb"))  # noqa: PTH123, SIM115  (``Held`` closes it)
    return _indexed(held) if ending == TAR else image_table(held, ending)


def _indexed(held: Held) -> Shard:
    """The members of a tar file, up to where it is damaged.

    Raises:
        ValueError: it is no tar file.
    """
    stream = held.file
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    start = stream.read(2)
    if kind := _COMPRESSED.get(start):
        raise ValueError(f"it is compressed with {kind}, and images within could not be found again; unpack it to a plain tar")
    members: dict[str, tuple[int, int]] = {}
    problems: list[str] = []
    place, told = 0, dict[str, str]()
    while place + _BLOCK <= size:
        stream.seek(place)
        head = stream.read(_BLOCK)
        if not head.strip(b"\0"):
            break
        try:
            kind, name, length = _header(head)
            length = int(told["size"]) if kind in _REGULAR and "size" in told else length
            if not 0 <= length <= (rest := size - place - _BLOCK):
                raise ValueError(f"the next has {length:,} bytes, of which {rest:,} are there")
        except ValueError as error:
            if not members:
                raise ValueError(f"it is no tar file, or is damaged ({reason(error)})") from error
            problems.append(f"damaged after {len(members):,} files ({reason(error)}); what comes later is not read")
            break
        if kind in _NOTES:
            told = {**told, **_notes(stream.read(min(length, _LONGEST)), kind)}
        else:
            _take(members, problems, kind, told.get("path", name), told, (place + _BLOCK, length))
            told = {}
        if len(members) > _MOST:
            raise ValueError(f"more than {_MOST:,} files")
        place += _BLOCK + -(-length // _BLOCK) * _BLOCK
    else:
        if not members:
            raise ValueError("it is no tar file")
        problems.append(f"it has no end after {len(members):,} files; some may be missing")
    return Shard(held, members, tuple(problems))


def _header(head: bytes) -> tuple[str, str, int]:
    """Kind, name and size of a member.

    Raises:
        ValueError: it is no header.
    """
    try:
        checksum = int(head[148:156].strip(b" \0") or b"-1", 8)
    except ValueError as error:
        raise ValueError("a header is damaged") from error
    if checksum != sum(head[:148]) + 8 * 32 + sum(head[156:]):
        raise ValueError("a header is damaged")
    digits = head[124:136]
    size = int.from_bytes(digits[1:], "big") if digits[0] == 0x80 else int(digits.strip(b" \0") or b"0", 8)
    name, prefix = (part.split(b"\0", 1)[0] for part in (head[:100], head[345:500]))
    # Of the GNU format, other things are where the prefix would be.
    whole = prefix + b"/" + name if prefix and head[257:263] == b"ustar\0" else name
    return chr(head[156]), os.fsdecode(whole), size


def _notes(content: bytes, kind: str) -> dict[str, str]:
    """What is said of the next member: its name, and in the format of POSIX more."""
    if kind == "L":
        return {"path": os.fsdecode(content.split(b"\0", 1)[0])}
    found: dict[str, str] = {}
    while kind == "x" and content.strip(b"\0"):
        length, _, rest = content.partition(b" ")
        # A damaged note says nothing: the name and size of the header count.
        if not length.isdigit() or len(length) > 6 or not len(length) + 3 <= int(length) <= len(content):
            break
        key, _, value = rest[: int(length) - len(length) - 2].partition(b"=")
        found[os.fsdecode(key)] = os.fsdecode(value)
        content = content[int(length) :]
    return found


def _take(
    members: dict[str, tuple[int, int]],
    problems: list[str],
    kind: str,
    name: str,
    told: Mapping[str, str],
    where: tuple[int, int],
) -> None:
    """Take a member, if it is a regular file within the tar file."""
    path = PurePosixPath(name)
    if kind == "5":
        return
    if kind not in _REGULAR or any(key.startswith("GNU.sparse") for key in told):
        problems.append(f"{one_line(name, 120)}: a link, or no regular file; it is not read")
    elif path.is_absolute() or ".." in path.parts or not path.name:
        problems.append(f"{one_line(name, 120)}: its name leads out of the tar file; it is not read")
    else:
        members[path.as_posix()] = where
