"""What is on a page: headline facts, then sections of text, tables and images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, final

from PIL import Image

from concept_cam.errors import OptionError


@final
@dataclass(frozen=True, eq=False)
class Thumbnail:
    """An image of any size, shown small.

    Attributes:
        image: as ``concept_cam.images.read_image`` takes it; the page embeds a copy of at most 224 pixels a side.
        caption: stands below it and tells who cannot see it what it shows.
        link: path of the full image from the page's folder, ``images/gold crest #3.png``: as the file is named, with ``/``
            between folders; the page percent-encodes it.

    Raises:
        OptionError: the link is empty, absolute or begins with a scheme.
    """

    image: Image.Image
    caption: str
    link: str | None = None

    def __post_init__(self) -> None:
        link = self.link
        if link is not None and (not link or link.startswith("/") or "\\" in link or ":" in link.split("/")[0]):
            raise OptionError(
                f"The link {link!r} is no path from the page's folder; expected one such as 'images/finch.png': relative, "
                "with / between folders and no colon in the first name (Path.as_posix() makes one)."
            )


Cell: TypeAlias = str | int | float | Thumbnail | None
"""What a table holds. Floats show 3 decimals and sort by all of them; None and NaN show nothing and sort last. A
thumbnail sorts by its caption; a bool shows as yes or no."""


@final
@dataclass(frozen=True)
class Table:
    """Rows under named columns. A column of numbers stands to the right; the first, if it is not one, names the rows.

    Raises:
        OptionError: a row has more or fewer cells than there are columns.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        for k, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise OptionError(f"Row {k} has {len(row)} cells for {len(self.columns)} columns; None leaves a cell empty.")


@final
@dataclass(frozen=True)
class Section:
    """A heading, and below it text, table and images, as far as they are there. Blank lines part the text's paragraphs."""

    title: str
    text: str = ""
    table: Table | None = None
    images: tuple[Thumbnail, ...] = ()


@final
@dataclass(frozen=True)
class Page:
    """All of it, in the order in which it is read.

    Attributes:
        title: the heading, and the name of the browser's tab.
        lead: what it comes to, in a sentence or two.
        sections: with three or more the page has a table of contents.
        facts: (name, value) pairs in large type above the sections.
    """

    title: str
    lead: str
    sections: tuple[Section, ...]
    facts: tuple[tuple[str, str], ...] = ()
