"""The content of a page: headline facts, then sections of text, images, plots and tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, final

from concept_cam.errors import OptionError
from concept_cam.page.plots import Plot
from concept_cam.page.thumbnail import Thumbnail, check_link

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
@dataclass(frozen=True, eq=False)
class Strip:
    """Images that belong together, in one row where there is space.

    Attributes:
        title: what they are of.
        images: from left to right.
        text: one or two sentences about them.
        link: path of a page about them, relative to the folder of this one; None for no link.

    Raises:
        OptionError: the link is empty, absolute or begins with a scheme.
    """

    title: str
    images: tuple[Thumbnail, ...]
    text: str = ""
    link: str | None = None

    def __post_init__(self) -> None:
        check_link(self.link)


@final
@dataclass(frozen=True)
class Section:
    """A section of a page: what was found first, as text, images and plots; explanations and tables are folded below.

    Attributes:
        title: its heading.
        text: paragraphs, separated by blank lines.
        table: folded, below all else.
        images: below the plots.
        strips: below the text.
        plots: below the strips.
        about: paragraphs that say how to read it; folded.
    """

    title: str
    text: str = ""
    table: Table | None = None
    images: tuple[Thumbnail, ...] = ()
    strips: tuple[Strip, ...] = ()
    plots: tuple[Plot, ...] = ()
    about: str = ""


@final
@dataclass(frozen=True)
class Page:
    """A whole page.

    Attributes:
        title: its heading and the title of the browser tab.
        lead: its conclusion, in one or two sentences.
        sections: in their order; with three or more the page has a table of contents, below the first.
        facts: (name, value) pairs, shown below the lead.
    """

    title: str
    lead: str
    sections: tuple[Section, ...]
    facts: tuple[tuple[str, str], ...] = ()
