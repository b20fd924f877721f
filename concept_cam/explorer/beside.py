"""An explorer beside a report: it has the images to which the report links it, and the concepts that the report compares."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final
from urllib.parse import urlencode

from PIL import Image

from concept_cam.concepts import ConceptBank
from concept_cam.errors import ConceptCamError, Unreachable
from concept_cam.explorer.html import DATA, spelt, to_html
from concept_cam.explorer.shown import Shown
from concept_cam.explorer.write import facts_of
from concept_cam.field import ConceptField
from concept_cam.files import write_file
from concept_cam.outside import parse_json, read_bytes

_IMAGES, _VALUES = 100, 4_000_000
"""What such a page holds at most: some 10 MB."""

STRONGEST = 2.0
"""The largest strength of the slider."""

CONCEPTS = 300
"""How many concepts such a page should have at most."""

_LARGEST = 1 << 28
"""Bytes of a page that was written before."""


@final
@dataclass(frozen=True)
class _Written:
    """What a page has that was written before.

    Attributes:
        concepts, images: their names.
    """

    concepts: frozenset[str]
    images: frozenset[str]

    def has(self, image: str, concepts: Sequence[str]) -> bool:
        return image in self.images and all(spelt(concept) in self.concepts for concept in concepts)


def _written(page: Path) -> _Written | None:
    """None if there is no page, or it is damaged."""
    try:
        data = parse_json(read_bytes(page, _LARGEST).partition(DATA.encode())[2].partition(b"</script>")[0])
        return _Written(frozenset(data["names"]), frozenset(one["name"] for one in data["images"]))
    except Unreachable:
        raise
    except (OSError, ValueError, LookupError, TypeError):
        return None


@final
class Beside:
    """An explorer that is made of what the links to it show.

    Args:
        page: its file, in the folder of the report.
        bank: the concepts; None if the page was written before, and the model is not at hand: what it has is linked to.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from concept_cam import world
        >>> from concept_cam.explorer import Beside
        >>> localizer, image = world.localizer(), world.draw_species("ember finch", seed=3).image
        >>> look = lambda: (image, localizer.fields([image])[0])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     beside = Beside(Path(folder, "explore.html"), localizer.bank(world.species()))
        ...     beside.link("a.png", look, "ember finch", ["frost finch"], 1.0), beside.write()
        ('explore.html#image=a.png&target=ember+finch&against=frost+finch&strength=1', True)
    """

    def __init__(self, page: Path, bank: ConceptBank | None) -> None:
        self._page, self._bank = page, bank
        self._written = _written(page) if bank is None else None
        self._names: dict[Hashable, str] = {}
        self._taken: dict[str, int] = {}
        self._shown: dict[str, Shown | None] = {}
        self._made: Mapping[str, Any] = {}

    def name(self, name: str, key: Hashable = None) -> str:
        """The name of an image in the page: with a number where one that was named before has it.

        Args:
            name: of the image.
            key: what distinguishes the image from others of that name; by default the name.
        """
        name, key = spelt(name), key if key is not None else name
        if key not in self._names:
            free, number = name, self._taken.get(name, 1)
            while free in self._taken:
                number += 1
                free = f"{name} ({number})"
            self._taken[name] = number
            self._taken.setdefault(free, 1)
            self._names[key] = free
        return self._names[key]

    def has_room(self) -> bool:
        """Whether the page can hold another image."""
        if self._bank is None:
            return False
        grids = [one.grid for one in self._shown.values() if one is not None]
        return len(grids) < _IMAGES and sum(rows * columns for rows, columns in grids) * len(self._bank.names) <= _VALUES

    def link(
        self,
        name: str,
        look: Callable[[], tuple[Image.Image, ConceptField]] | None,
        target: str,
        references: Sequence[str] = (),
        strength: float = 0.6,
        key: Hashable = None,
    ) -> str | None:
        """The link to the page that shows an image and a comparison; the page will hold them.

        Args:
            name: of the image.
            look: gives the image as the model saw it, and its field; None if the page was written before.
            target: a concept of the bank.
            references: likewise.
            strength: of the references.
            key: what distinguishes the image from others of that name; by default the name.

        Returns:
            None if the page has not one of the concepts, or no room for the image, or nothing can be shown of it, or the
            strength is above those of its slider.
        """
        named = self.name(name, key)
        if strength > STRONGEST:
            return None
        if self._bank is None or look is None:
            found = self._written is not None and self._written.has(named, (target, *references))
        else:
            if len(self._bank.names) < 2 or any(concept not in self._bank for concept in (target, *references)):
                return None
            if named not in self._shown:
                self._shown[named] = self._look(named, look, self._bank)
            found = self._shown[named] is not None
        asked = [("image", named), ("target", target), *(("against", one) for one in references or ("",))]
        return f"{self._page.name}#{urlencode([*asked, ('strength', f'{strength:g}')], errors='replace')}" if found else None

    def write(self) -> bool:
        """Write the page, if there is a link to it; one that was there is left as it is. Returns whether there is a page.

        Raises:
            OutputError: it cannot be written.
        """
        shown = [one for one in self._shown.values() if one is not None]
        if self._bank is None or not shown:
            return self._written is not None
        facts = facts_of(self._made, shown[0].grid, len(shown), len(self._bank.names)) if self._made else []
        write_file(self._page, to_html(shown, self._bank, facts).encode())
        return True

    def _look(self, name: str, look: Callable[[], tuple[Image.Image, ConceptField]], bank: ConceptBank) -> Shown | None:
        if not self.has_room():
            return None
        try:
            image, field = look()
            self._made = self._made or field.provenance
            return Shown.of(name, image, field, bank)
        except Unreachable:
            raise
        except ConceptCamError:
            return None
