"""Files of each image: maps drawn on it, the result itself, and what is said of it in JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import final

from PIL import Image

from concept_cam.address import address_of
from concept_cam.drawing import overlay, side_by_side
from concept_cam.errors import OptionError
from concept_cam.files import write_file, write_image
from concept_cam.parts.part import PartFinding
from concept_cam.parts.sheet import annotated
from concept_cam.result import Localization
from concept_cam.writers.regions import Result, boxes_of, peak_of
from concept_cam.writers.writer import Writer


@final
class Overlays(Writer[Result]):
    """Draws each result on its image. The image is needed.

    A localization gives ``NAME-overlay.png``, the heat map on the image with a legend beneath (the upper part is the image
    pixel by pixel), and ``NAME-compared.png``, the image, the base map
    and the contrastive map side by side. A finding of parts gives ``NAME.png``, with a dot and a label for each part.

    Args:
        folder: for the images.
        boxes: also draw the box of each part.
    """

    draws = True
    endings = ("-overlay.png", "-compared.png")
    """Of the files of a localization."""

    def __init__(self, folder: str | Path, *, boxes: bool = False) -> None:
        self._folder, self._boxes = address_of(folder), boxes

    def add(self, name: str, result: Result, image: Image.Image | None = None) -> tuple[Path, ...]:
        """Draw a result; see ``Writer``.

        Raises:
            OptionError: the image is not given.
            ImageError: it is not of the size that was looked at.
        """
        if image is None:
            raise OptionError(f"{name!r}: give the image to draw on.")
        if isinstance(result, PartFinding):
            return (write_image(self._folder / f"{name}.png", annotated(result, image, boxes=self._boxes)),)
        drawn = overlay(result, image, legend=True), side_by_side(result, image)
        return tuple(
            write_image(self._folder / f"{name}{ending}", one) for ending, one in zip(self.endings, drawn, strict=True)
        )


@final
class Saved(Writer[Result]):
    """Saves each result as ``NAME.safetensors``, which ``Localization.load`` or ``PartFinding.load`` reads.

    Args:
        folder: for the files.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = address_of(folder)

    def add(self, name: str, result: Result, image: Image.Image | None = None) -> tuple[Path, ...]:
        """Save a result; see ``Writer``."""
        return (result.save(self.file(name)),)

    def file(self, name: str) -> Path:
        """The file of a result."""
        return self._folder / f"{name}.safetensors"


@final
class Summaries(Writer[Localization]):
    """Writes ``NAME.json`` for each localization: peak, boxes, comparison, scores, provenance.

    Args:
        folder: for the files.
        images: the file of each image by its name; what is not there is called by its name.
    """

    def __init__(self, folder: str | Path, images: Mapping[str, Path]) -> None:
        self._folder, self._images = address_of(folder), images

    def add(self, name: str, result: Localization, image: Image.Image | None = None) -> tuple[Path, ...]:
        """Write what is said of a result; see ``Writer``."""
        about = {"image": str(self._images.get(name, name)), "peak": peak_of(result), "boxes": boxes_of(result)}
        content = json.dumps({**about, **result.summary()}, indent=2) + "\n"
        return (write_file(self._folder / f"{name}.json", content.encode()),)
