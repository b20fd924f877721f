"""Files are written whole or not at all."""

from __future__ import annotations

import io
import os
from contextlib import suppress
from pathlib import Path

from PIL import Image

from concept_cam.errors import OutputError

_unfinished: set[Path] = set()


def remove_unfinished() -> None:
    """Remove what is being written, where a signal ends the process at once."""
    for path in list(_unfinished):
        with suppress(OSError):
            path.unlink()


def write_file(path: str | os.PathLike[str], content: bytes) -> Path:
    """Write to a temporary name beside the path, then rename: a full disk or an interrupt leaves no half file.

    Raises:
        OutputError: the folder cannot be made or the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _unfinished.add(temporary)
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
            _unfinished.discard(temporary)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}).") from error
    return path


def write_picture(path: str | os.PathLike[str], picture: Image.Image) -> Path:
    """Write a picture as PNG, as ``write_file`` does."""
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return write_file(path, stream.getvalue())
