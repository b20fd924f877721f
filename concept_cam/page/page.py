"""The content of a page: headline facts, then sections of text, tables and images."""

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
        image: as ``concept_cam.images.read_image`` accepts it; the page embeds a copy of at most 224 pixels a side.
        caption: text below the image, and its alternative text.
        link: path of the full image relative to the folder of the page, ``images/gold crest #3.png``, with ``/`` between
            folders; the page percent-encodes it.
        explore: the link to the image in the explorer beside the page, as ``explorer.Beside`` gives it: encoded already.

    Raises:
        OptionError: a link is empty, absolute or begins with a scheme.
    """

    image: Image.Image
    caption: str
    link: str | None = None
    explore: str | None = None

    def __post_init__(self) -> None:
        _check_link(self.link)
        _check_link(None if self.explore is None else self.explore.partition("#")[0])


Cell: TypeAlias = str | int | float | Thumbnail | None
"""A cell of a table. Floats are shown with 3 decimals and sorted by their full value; None and NaN are shown empty and sorted
last. A thumbnail is sorted by its caption; a bool is shown as yes or no."""


@final
@dataclass(frozen=True)
class Table:
    """A table with named columns. Columns of numbers are aligned right; a first column of anything else names the rows.

    Attributes:
        columns: titles of the columns.
        rows: of cells, one for each column.

    Raises:
        OptionError: the number of cells of a row is not that of the columns.
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
    """A section of a page.

    Attributes:
        title: its heading.
        text: paragraphs, separated by blank lines.
        table: below the images.
        images: below the text.
    """

    title: str
    text: str = ""
    table: Table | None = None
    images: tuple[Thumbnail, ...] = ()


@final
@dataclass(frozen=True)
class Page:
    """A whole page.

    Attributes:
        title: its heading and the title of the browser tab.
        lead: its conclusion, in one or two sentences.
        sections: in their order; with three or more the page has a table of contents.
        facts: (name, value) pairs, shown in large type above the sections.
    """

    title: str
    lead: str
    sections: tuple[Section, ...]
    facts: tuple[tuple[str, str], ...] = ()


def _check_link(link: str | None) -> None:
    if link is not None and (not link or link.startswith("/") or "\\" in link or ":" in link.split("/")[0]):
        raise OptionError(
            f"The link {link!r} is not a path from the page's folder; expected one such as 'images/finch.png': relative, "
            "with / between folders and no colon in the first name (Path.as_posix() makes one)."
        )
