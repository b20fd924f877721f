"""Files are written whole or not at all."""

from __future__ import annotations

import io
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, final

from PIL import Image

from concept_cam.address import address_of, is_remote
from concept_cam.errors import OutputError, Unreachable
from concept_cam.remote import create, send

if sys.platform != "win32":
    import fcntl

_TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.concept-cam-tmp")
"""The name of a file that is being written; nothing else has such a name."""

_unfinished: set[Path] = set()


def remove_unfinished() -> None:
    """Remove what is being written, where a signal ends the process at once."""
    for path in list(_unfinished):
        with suppress(OSError):
            path.unlink()


@final
class FileWriter:
    """A file that is written piece by piece: it gets its name when it is closed, whole, or not at all.

    An object of a store is sent when it is closed, and is there whole or not at all.

    Elsewhere it is written under a temporary name beside the path, then renamed: a full disk or an interrupt leaves no half
    file. The content is on the disk before it gets its name, so that a power failure leaves the old file or the new one. As a
    context it is closed at the end, and discarded if an exception ends it.

    Raises:
        OutputError: the folder cannot be made or the file cannot be written; so do the methods.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = address_of(path)
        self._temporary = self.path.parent / f".{secrets.token_hex(8)}.concept-cam-tmp"
        self._stream: IO[bytes]
        with self._refused():
            if is_remote(self.path):
                self._stream = TemporaryFile()  # noqa: SIM115  (closed when it is sent)
                return
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _unfinished.add(self._temporary)
            self._stream = self._temporary.open("xb")
            _lock(self._stream.fileno())

    def write(self, content: bytes) -> int:
        """Write some more of it."""
        with self._refused():
            return self._stream.write(content)

    def close(self) -> Path:
        """Give the file its name."""
        with self._refused():
            if is_remote(self.path):
                with self._stream:
                    send(str(self.path), self._stream)
                return self.path
            with self._stream:
                self._stream.flush()
                os.fsync(self._stream.fileno())
                if sys.platform != "win32":
                    # Renamed while it is locked, or another process might take it for a leftover.
                    self._temporary.replace(self.path)
            if sys.platform == "win32":
                self._temporary.replace(self.path)
            _unfinished.discard(self._temporary)
            _sync_folder(self.path.parent)
        return self.path

    def discard(self) -> None:
        """Delete what is written so far; an older file of that name is as it was."""
        # What is still in the buffer may have no room on the disk either.
        with suppress(OSError, AttributeError):
            self._stream.close()
        if is_remote(self.path):
            return
        with suppress(OSError):
            self._temporary.unlink(missing_ok=True)
        _unfinished.discard(self._temporary)

    def __enter__(self) -> FileWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    @contextmanager
    def _refused(self) -> Iterator[None]:
        """Whatever goes wrong leaves no file, and what the disk refuses is an OutputError."""
        try:
            yield
        except Unreachable:
            self.discard()
            raise
        except OSError as error:
            self.discard()
            raise OutputError(f"{self.path}: cannot be written ({error.strerror or error}).") from error
        except BaseException:
            self.discard()
            raise


def write_file(path: str | os.PathLike[str], content: bytes) -> Path:
    """Write a file whole or not at all; see ``FileWriter``.

    Raises:
        OutputError: the folder cannot be made or the file cannot be written.
    """
    with FileWriter(path) as file:
        file.write(content)
    return file.path


def create_file(path: Path, content: bytes) -> None:
    """Write a file that is not there; in a store that knows such a condition, an object that has come to be there stays.

    Raises:
        OutputError: it cannot be written.
    """
    if not is_remote(path):
        write_file(path, content)
        return
    try:
        create(str(path), content)
    except Unreachable:
        raise
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}).") from error


def write_image(path: str | os.PathLike[str], image: Image.Image) -> Path:
    """Write an image as PNG, as ``write_file`` does."""
    stream = io.BytesIO()
    # A level of 3 takes half of the time of Pillow's own 6; a drawing gets a tenth larger, a photograph does not.
    image.save(stream, "PNG", compress_level=3)
    return write_file(path, stream.getvalue())


def clear_leftovers(folder: Path, *below: str) -> None:
    """Delete what killed processes were writing in a folder, and anywhere below these of its sub-folders.

    A temporary file is locked while it is written. One that is not locked has nobody who will rename it. Where the system or
    the disk has no locks, nothing is deleted.
    """
    if is_remote(folder):
        return
    places = [folder]
    for top in (folder / name for name in below):
        # What is linked may be anything; it is not gone through.
        places += [] if top.is_symlink() else [Path(path) for path, _, _ in os.walk(top)]
    for place in places:
        with suppress(OSError):
            for file in place.iterdir():
                if _TEMPORARY.fullmatch(file.name):
                    _delete_unlocked(file)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made if it is not there, so that no two processes write one run.

    The lock is on the folder itself: nothing is left behind, however the process ends. An object store has no locks; there
    nothing is held.

    Raises:
        OutputError: another process holds it, or it cannot be made.
    """
    if is_remote(folder):
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror or error}).") from error
    if sys.platform == "win32":
        yield
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be read ({error.strerror or error}); choose another folder.") from error
    try:
        if _lock(descriptor) is False:
            raise OutputError(f"{folder}: another process is writing a run there; wait for it, or choose another folder.")
        yield
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Have the new name on the disk, where a folder can be synchronized."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _lock(descriptor: int) -> bool | None:
    """Lock an open file or folder until it is closed: whether it could be; None where there are no locks."""
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _delete_unlocked(path: Path) -> None:
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDWR | _CAREFUL)
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode) and _lock(descriptor):
                path.unlink()
        finally:
            os.close(descriptor)


_CAREFUL = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
"""A pipe is not waited for, a link is not followed."""
