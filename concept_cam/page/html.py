"""Render a page as one self-contained HTML file."""

from __future__ import annotations

import base64
import hashlib
import io
import math
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from PIL import Image

from concept_cam.images import read_image
from concept_cam.page import svg
from concept_cam.page.page import Cell, Page, Table
from concept_cam.page.plots import Chart, Intervals, Matrix
from concept_cam.page.thumbnail import Thumbnail


def to_html(page: Page) -> str:
    """Render the page as HTML, to be written in UTF-8.

    Images are embedded, plots are SVG. A content security policy forbids the browser to load anything and to run any script
    except ``page.js``. Without scripts the page is complete, but tables cannot be sorted, searched and saved.

    Raises:
        ImageError: the image of a thumbnail is damaged or too large.

    Example:
        >>> from PIL import Image
        >>> from concept_cam.page import Page, Section, Table, Thumbnail, to_html
        >>> finch = Thumbnail(Image.new("RGB", (640, 480), "tomato"), "ember finch", link="images/ember finch.png")
        >>> table = Table(("species", "accuracy"), ((finch, 0.9412), ("frost finch", None)))
        >>> html = to_html(Page("Finches & co.", "Two species.", (Section("Species", table=table),)))
        >>> "<h1>Finches &amp; co.</h1>" in html, 'href="images/ember%20finch.png"' in html, ">0.941</td>" in html
        (True, True, True)
    """
    html: str = _template().render(
        page=page, style=_asset("page.css"), script=_asset("page.js"), script_hash=_base64(_sha256(_asset("page.js")))
    )
    # File names that are not UTF-8 reach Python as lone surrogates, which UTF-8 cannot encode.
    return html.encode(errors="replace").decode()


@cache
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415  (most commands write no page)

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "axis": svg.axis,
        "chart": svg.chart,
        "embedded": _embedded,
        "encoded": _encoded,
        "heat": _heat,
        "is_chart": lambda plot: isinstance(plot, Chart),
        "is_intervals": lambda plot: isinstance(plot, Intervals),
        "is_number": _is_number,
        "is_thumbnail": lambda cell: isinstance(cell, Thumbnail),
        "numeric": _numeric,
        "paragraphs": lambda text: [paragraph for paragraph in text.split("\n\n") if paragraph.strip()],
        "shown": _shown,
        "sort_value": _sort_value,
        "svg_key": svg.key,
        "svg_shown": svg.shown,
        "track": svg.track,
    }
    return environment.from_string(_asset("page.html.jinja"))


@cache
def _asset(name: str) -> str:
    return files("concept_cam.page").joinpath(name).read_text("utf-8")


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _embedded(thumbnail: Thumbnail) -> dict[str, str | int]:
    """The attributes of an ``img`` with the thumbnail, never enlarged."""
    small = read_image(thumbnail.image)
    small.thumbnail((thumbnail.side, thumbnail.side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=75, optimize=True)
    return {"src": f"data:image/jpeg;base64,{_base64(stream.getvalue())}", "width": small.width, "height": small.height}


def _encoded(link: str) -> str:
    return quote(link, safe="/", errors="surrogateescape")


def _heat(matrix: Matrix, row: int, column: int) -> str:
    """The classes of a cell of a matrix: how much of its row is in it, and whether it is on the diagonal."""
    share = matrix.counts[row][column] / max(1, sum(matrix.counts[row]))
    return f"heat-{math.ceil(5 * share)}{' right' if row == column else ''}"


def _is_number(cell: Cell) -> bool:
    return isinstance(cell, int | float) and not isinstance(cell, bool)


def _is_empty(cell: Cell) -> bool:
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def _numeric(table: Table) -> list[bool]:
    """Whether each column holds numbers only."""
    columns = [[row[k] for row in table.rows] for k in range(len(table.columns))]
    return [any(map(_is_number, column)) and all(_is_number(c) or c is None for c in column) for column in columns]


def _shown(cell: Cell) -> str:
    if _is_empty(cell):
        return ""
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return svg.shown(cell) if isinstance(cell, float) else str(cell)


def _sort_value(number: float) -> str:
    """The number as JavaScript reads it."""
    if isinstance(number, float) and not math.isfinite(number):
        return "" if math.isnan(number) else f"{'-' * (number < 0)}Infinity"
    return repr(float(number) if isinstance(number, float) else int(number))
