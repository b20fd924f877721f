"""Images of one comparison in several forms: at several strengths, and by reference."""

from __future__ import annotations

from pathlib import Path
from typing import final

from PIL import Image

from concept_cam.drawing import by_reference, strip
from concept_cam.errors import OptionError
from concept_cam.files import write_image
from concept_cam.localizer import Localizer
from concept_cam.result import Localization
from concept_cam.targets import References
from concept_cam.writers.writer import Writer


@final
class Comparisons(Writer[Localization]):
    """Draws ``NAME-strengths.png``, maps at several strengths, and ``NAME-references.png``, each place by its reference.

    The images are needed, and looked at again.

    Args:
        folder: for the images.
        localizer: that made the localizations.
        against: as it was asked.
        sweep: whether to draw the maps at several strengths.
        by_reference: the strength at which each reference is compared with; None draws no such image.
    """

    endings = ("-strengths.png", "-references.png")
    """Of the files."""

    def __init__(
        self,
        folder: str | Path,
        localizer: Localizer,
        against: References = None,
        *,
        sweep: bool = True,
        by_reference: float | None = 1.0,
    ) -> None:
        self._folder, self._localizer, self._against = Path(folder), localizer, against
        self._sweep, self._strength = sweep, by_reference

    def add(self, name: str, result: Localization, image: Image.Image | None = None) -> tuple[Path, ...]:
        """Draw the comparison of a localization; see ``Writer``.

        Raises:
            OptionError: the image is not given, or there are more references than colours.
        """
        if image is None:
            raise OptionError(f"{name!r}: give the image to draw on.")
        swept, each = self._maps_of(image, result.comparison.target)
        files = [self._folder / f"{name}{ending}" for ending in self.endings]
        drawn = zip(files, (strip, by_reference), (swept, each), strict=True)
        return tuple(write_image(file, draw(maps, image)) for file, draw, maps in drawn if maps)

    def _maps_of(self, image: Image.Image, target: str) -> tuple[list[Localization], list[Localization]]:
        """The maps at several strengths, and those against each reference alone; none where they are not asked for."""
        swept = self._localizer.sweep(image, target, self._against) if self._sweep else []
        if self._strength is None:
            return swept, []
        return swept, self._localizer.against_each(image, target, self._against, strength=self._strength)
