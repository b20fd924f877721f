"""OUTSIDE: object stores, by way of fsspec, which knows a package for each protocol; whatever goes wrong there is one line."""

from __future__ import annotations

import hashlib
import importlib
import io
import mmap
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import IO, Any, final

from concept_cam.errors import Unreachable, missing, reason

_EXTRAS = {"s3": "s3", "s3a": "s3"}
"""The extra for a protocol; for others fsspec says which package it wants."""

_MAPPED = 1 << 26
"""Bytes above which what is sent is not held in memory."""

_AHEAD = 1 << 20
"""Bytes that are asked for at once, at least."""

_FETCHED = 4
"""Whole files that are kept in temporary ones."""


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Whatever a store answers is an ``OSError``: that of a file, or that the store cannot be reached.

    Raises:
        FileNotFoundError, FileExistsError, IsADirectoryError: of the object.
        Unreachable: of the store.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(2, "there is no such object or bucket") from error
    except (FileExistsError, IsADirectoryError, MemoryError, Unreachable):
        raise
    except PermissionError as error:
        raise Unreachable(
            f"{url}: the store refuses it ({reason(error)}); check the credentials and what they allow, then start again."
        ) from error
    except Exception as error:
        raise Unreachable(
            f"{url}: the store cannot be reached ({reason(error)}); check the network, the credentials and the address of the "
            "store, then start the same command again."
        ) from error


def _system(url: str) -> Any:
    """The file system of a protocol: each thread has its own, for not all can be shared."""
    protocol = url.partition("://")[0]
    try:
        return importlib.import_module("fsspec").filesystem(protocol)
    except ImportError as error:
        wanted = _EXTRAS.get(protocol)
        how = missing(wanted, "reach an object store") if wanted else f"{reason(error)}."
        raise Unreachable(f"{url}: {how}") from error
    except ValueError as error:
        raise Unreachable(f"{url}: no protocol of files is called {protocol!r}; expected one such as s3://.") from error


def information(url: str) -> os.stat_result:
    """Kind and size of an object, and in the place of its inode a number that changes with it.

    Raises:
        OSError: see ``reaching``.
    """
    with reaching(url):
        system = _system(url)
        system.invalidate_cache()
        found = system.info(url)
    folder = found.get("type") == "directory"
    known = [str(found.get(key)) for key in ("ETag", "etag", "LastModified", "mtime", "md5Hash", "VersionId", "size")]
    number = int.from_bytes(hashlib.sha256("\n".join(known).encode()).digest()[:7], "big")
    kind = stat.S_IFDIR if folder else stat.S_IFREG
    return os.stat_result((kind, number, 0, 1, 0, 0, int(found.get("size") or 0), 0, 0, 0))


def opened_at(url: str) -> io.BufferedReader:
    """An object to be read, from any place of it.

    Raises:
        OSError: see ``reaching``; or it is a folder.
    """
    found = information(url)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(21, "it is a folder")
    return _stream(url, found.st_size)


def _stream(url: str, size: int) -> io.BufferedReader:
    return io.BufferedReader(Pieces(partial(_piece, url), size), min(_AHEAD, max(1, size)))


@final
class Pieces(io.RawIOBase):
    """A stream of bytes that are asked for piece by piece, from any place.

    Args:
        read: gives bytes: from which place, and how many.
        size: of all.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self._read, self._size, self._place = read, size, 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place; see ``io.RawIOBase``."""
        self._place = max(0, offset + (0, self._place, self._size)[whence])
        return self._place

    def tell(self) -> int:
        """The place of the next byte."""
        return self._place

    def readall(self) -> bytes:
        """All bytes from the place on."""
        # At once, and not in pieces of 8 kB, as Python does.
        return self.read(max(0, self._size - self._place)) or b""

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; how many bytes there were."""
        wanted = max(0, min(len(buffer), self._size - self._place))
        content = self._read(self._place, wanted) if wanted else b""
        buffer[: len(content)] = content
        self._place += len(content)
        return len(content)


def _piece(url: str, place: int, count: int) -> bytes:
    """Some bytes of an object, and no others."""
    with reaching(url):
        content: bytes = _system(url).cat_file(url, start=place, end=place + count)
    if len(content) != count:
        # As where the store is lost: what comes of the same command is known only when it is started again.
        raise Unreachable(
            f"{url}: {len(content):,} bytes came, where {count:,} were asked for; it has changed, or the connection was lost. "
            "Start the same command again."
        )
    return content


@final
class Held:
    """A file that is closed when nobody has it any more.

    Attributes:
        file: open, to be read.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file

    def __del__(self) -> None:
        self.file.close()


def fetched(url: str) -> Held:
    """A file without a name that holds all of an object; the last few are kept until the objects change.

    Raises:
        OSError: see ``reaching``; or there is no room.
    """
    found = information(url)
    return _fetched(url, found.st_size, found.st_ino)


@lru_cache(_FETCHED)
def _fetched(url: str, size: int, _: int) -> Held:
    return fetch(url, size)


def fetch(url: str, size: int) -> Held:
    """A file without a name that holds all of an object.

    Args:
        url: of the object.
        size: its bytes.

    Raises:
        OSError: see ``reaching``; or there is no room.
    """
    held = Held(tempfile.TemporaryFile())  # noqa: SIM115  (``Held`` closes it)
    with _stream(url, size) as stream:
        shutil.copyfileobj(stream, held.file, 1 << 24)
    held.file.flush()
    return held


def send(url: str, stream: IO[bytes]) -> None:
    """Write an object, which is there whole or not at all.

    Args:
        url: of the object.
        stream: a file with its content, from the first byte.

    Raises:
        OSError: see ``reaching``.
    """
    stream.flush()
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    with reaching(url):
        if size <= _MAPPED:
            _system(url).pipe_file(url, stream.read())
            return
        with mmap.mmap(stream.fileno(), size, access=mmap.ACCESS_READ) as content:
            _system(url).pipe_file(url, content)


def create(url: str, content: bytes) -> None:
    """Write an object unless it is there, where the store can tell; elsewhere write it.

    Raises:
        OSError: see ``reaching``.
    """
    try:
        with reaching(url):
            _system(url).pipe_file(url, content, mode="create")
    except FileExistsError:
        return
    except Unreachable:
        # Some stores know no such condition; where it is the store that is lost, this says so.
        if not exists(url):
            send(url, io.BytesIO(content))


def exists(url: str) -> bool:
    """Whether there is an object or a folder.

    Raises:
        Unreachable: the store cannot be reached.
    """
    try:
        information(url)
    except FileNotFoundError:
        return False
    return True


def remove(url: str) -> None:
    """Delete an object.

    Raises:
        OSError: see ``reaching``.
    """
    with reaching(url):
        _system(url).rm_file(url)


def below(url: str) -> list[str]:
    """The addresses of all objects below a folder.

    Raises:
        OSError: see ``reaching``.
    """
    with reaching(url):
        system = _system(url)
        system.invalidate_cache()
        return [_with_protocol(url, name) for name in system.find(url)]


def matching(url: str) -> list[str]:
    """The addresses of all objects that a pattern of ``*``, ``?``, ``[...]`` and ``**`` means.

    Raises:
        OSError: see ``reaching``.
    """
    with reaching(url):
        system = _system(url)
        system.invalidate_cache()
        return [_with_protocol(url, name) for name, about in system.glob(url, detail=True).items() if about["type"] == "file"]


def _with_protocol(url: str, name: str) -> str:
    """A name as a store lists it, as an address: most leave the protocol out."""
    return name if "://" in name else f"{url.partition('://')[0]}://{name.lstrip('/')}"
