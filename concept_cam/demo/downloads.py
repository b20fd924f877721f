"""The files of a result, the same that ``localize`` writes."""

from __future__ import annotations

from pathlib import Path
from tempfile import mkdtemp

from PIL import Image

from concept_cam.demo.upload import Upload
from concept_cam.result import Localization
from concept_cam.writers import Overlays, Saved, Summaries
from concept_cam.writers.names import names_of


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
