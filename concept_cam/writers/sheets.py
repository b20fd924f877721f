"""A page for each species: what its parts look like on the images of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import final

from PIL import Image

from concept_cam.address import address_of
from concept_cam.errors import OptionError
from concept_cam.files import write_file
from concept_cam.page import to_html
from concept_cam.parts.explored import Explored
from concept_cam.parts.part import PartFinding
from concept_cam.parts.sheet import PartSheet
from concept_cam.provenance import Provenance
from concept_cam.writers.names import first_free, shortened
from concept_cam.writers.writer import Writer


@final
class Sheets(Writer[PartFinding]):
    """Writes ``sheet-SPECIES.html`` for each species, as soon as its last image is there. The images are needed.

    Args:
        folder: for the pages; ``annotated/NAME.png`` is the image that a click shows.
        species: of each image, by its name.
        made: how, for the last section and for ``how.json``.
        explored: makes the explorer of a page, ``explore-SPECIES.html``, from its file; None leaves it out.
    """

    draws = True

    def __init__(
        self,
        folder: str | Path,
        species: Mapping[str, str],
        made: Provenance | None = None,
        explored: Callable[[Path], Explored] | None = None,
    ) -> None:
        self._folder, self._made, self._kept, self._explored = address_of(folder), made, False, explored
        self._species, self._left = species, Counter(species.values())
        self._open: dict[str, PartSheet] = {}
        self._files: dict[str, Path] = {}
        taken: dict[str, int] = {}
        for name in self._left:
            slug = first_free(shortened(re.sub(r"\W+", "-", name.lower()).strip("-"), 80) or "sheet", taken)
            self._files[name] = self._folder / f"sheet-{slug}.html"
        self.written = 0

    def add(self, name: str, result: PartFinding, image: Image.Image | None = None) -> tuple[Path, ...]:
        """Take a finding; see ``Writer``.

        Raises:
            OptionError: the image is not given, or the finding has other parts than those before it.
            ImageError: the image is not of the size that was looked at.
        """
        if image is None:
            raise OptionError(f"{name!r}: give the image that is shown.")
        if self._made is not None and not self._kept:  # with the first finding: a run that finds nothing leaves nothing
            self._made, self._kept = self._made.kept(self._folder), True
        species = self._species[name]
        if species not in self._open:
            page = self._files[species].name.replace("sheet-", "explore-", 1)
            explorer = None if self._explored is None else self._explored(self._folder / page)
            self._open[species] = PartSheet(species, self._made, explorer)
        self._open[species].add(name, image, result)
        return self._one_less(species)

    def skip(self, name: str) -> None:
        """Wait no longer for an image."""
        self._one_less(self._species[name])

    def close(self) -> None:
        """Write the pages that still wait for images."""
        for species in list(self._open):
            self._write(species)

    def _one_less(self, species: str) -> tuple[Path, ...]:
        self._left[species] -= 1
        return (self._write(species),) if self._left[species] == 0 and species in self._open else ()

    def _write(self, species: str) -> Path:
        self.written += 1
        return write_file(self._files[species], to_html(self._open.pop(species).page()).encode())
