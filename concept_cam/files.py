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

from PIL import Image

from concept_cam.errors import OutputError

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


def write_file(path: str | os.PathLike[str], content: bytes) -> Path:
    """Write to a temporary file beside the path, then rename: a full disk or an interrupt leaves no half file.

    The content is on the disk before it gets its name, so that a power failure leaves the old file or the new one.

    Raises:
        OutputError: the folder cannot be made or the file cannot be written.
    """
    path = Path(path)
    temporary = path.parent / f".{secrets.token_hex(8)}.concept-cam-tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _unfinished.add(temporary)
        try:
            _put(temporary, path, content)
        finally:
            temporary.unlink(missing_ok=True)
            _unfinished.discard(temporary)
        _sync_folder(path.parent)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}).") from error
    return path


def write_image(path: str | os.PathLike[str], image: Image.Image) -> Path:
    """Write an image as PNG, as ``write_file`` does."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return write_file(path, stream.getvalue())


def clear_leftovers(folder: Path, *below: str) -> None:
    """Delete what killed processes were writing in a folder, and anywhere below these of its sub-folders.

    A temporary file is locked while it is written. One that is not locked has nobody who will rename it. Where the system or
    the disk has no locks, nothing is deleted.
    """
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

    The lock is on the folder itself: nothing is left behind, however the process ends.

    Raises:
        OutputError: another process holds it, or it cannot be made.
    """
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


def _put(temporary: Path, path: Path, content: bytes) -> None:
    with temporary.open("xb") as stream:
        _lock(stream.fileno())
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
        if sys.platform != "win32":
            # Renamed while it is locked, or another process might take it for a leftover.
            temporary.replace(path)
            return
    temporary.replace(path)


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
