"""The files of a result, the same that ``localize`` writes."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp

from PIL import Image

from concept_cam.demo.upload import Upload
from concept_cam.result import Localization
from concept_cam.writers import Overlays, Saved, Summaries
from concept_cam.writers.names import names_of

_LEFT = 3600
"""Seconds after which what is empty has no use."""


def tidy(folder: Path, age: float = _LEFT) -> None:
    """Delete the empty files and folders that gradio leaves of uploads and downloads; it deletes those that hold something.

    Args:
        folder: of uploads and downloads.
        age: in seconds, from which on something is old.
    """
    before = time.time() - age
    for left in folder.iterdir() if folder.is_dir() else ():
        with suppress(OSError):  # another request deletes it too, or the folder is not empty
            about = left.lstat()
            if about.st_mtime < before and left.is_dir():
                left.rmdir()
            elif about.st_mtime < before and not about.st_size:
                left.unlink()


def write_downloads(folder: Path, result: Localization, upload: Upload, image: Image.Image) -> list[Path]:
    """Write the overlay, the comparison, the maps and the summary of a result into a new folder that nobody can guess.

    Args:
        folder: in which that folder is made.
        result: what is written.
        upload: the image as it was given.
        image: the same, upright and in RGB.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own, source = Path(mkdtemp(dir=folder)), Path(upload.name)
    name = names_of([source])[source]
    writers = Overlays(own), Saved(own), Summaries(own, {name: source})
    return [path for writer in writers for path in writer.add(name, result, image)]
