"""Images of one comparison in several forms: at several strengths, and by reference."""

from __future__ import annotations

from pathlib import Path
from typing import final

from PIL import Image

from concept_cam.address import address_of
from concept_cam.drawing import by_reference, strip
from concept_cam.errors import OptionError
from concept_cam.exploration import Exploration
from concept_cam.files import write_image
from concept_cam.result import Localization
from concept_cam.writers.writer import Writer


@final
class Comparisons(Writer[Exploration]):
    """Draws ``NAME-strengths.png``, maps at several strengths, and ``NAME-references.png``, each place by its reference.

    Args:
        folder: for the images.
    """

    draws = True
    endings = ("-strengths.png", "-references.png")
    """Of the files."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = address_of(folder)

    def add(self, name: str, result: Exploration, image: Image.Image | None = None) -> tuple[Path, ...]:
        """Draw what an exploration has; see ``Writer``.

        Raises:
            OptionError: the image is not given, or there are more references than colours.
        """
        image = image or result.image
        if image is None:
            raise OptionError(f"{name!r}: give the image to draw on.")
        files = [self._folder / f"{name}{ending}" for ending in self.endings]
        drawn = zip(files, (strip, by_reference), (result.sweep, result.by_reference), strict=True)
        return tuple(write_image(file, draw(maps, image)) for file, draw, maps in drawn if maps)


@final
class OfResult(Writer[Exploration]):
    """Gives the result of each exploration to a writer of localizations.

    Args:
        writer: of localizations.
    """

    def __init__(self, writer: Writer[Localization]) -> None:
        self._writer, self.draws = writer, writer.draws

    def add(self, name: str, result: Exploration, image: Image.Image | None = None) -> tuple[Path, ...]:
        """Take a result; see ``Writer``."""
        return self._writer.add(name, result.result, image or result.image)

    def close(self) -> None:
        """Close the other writer."""
        self._writer.close()

    def discard(self) -> None:
        """Delete what the other writer has not finished."""
        self._writer.discard()
