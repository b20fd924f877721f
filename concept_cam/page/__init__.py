"""REPORT: a page of images, plots and tables as one HTML file, to open from disk, send, read on a phone or print.

thumbnail   an image as a page shows it
plots       what a plot shows: intervals, lines or points, a matrix
page        the content of a page
how         its last section: how the page was made
svg         plots, drawn
html        the HTML: it loads nothing from outside, and runs one script of our own that sorts, searches and saves tables
"""

from __future__ import annotations

from concept_cam.page.how import how_made
from concept_cam.page.html import to_html
from concept_cam.page.page import Cell, Page, Section, Strip, Table
from concept_cam.page.plots import Chart, Intervals, Line, Mark, Matrix, Plot, Point
from concept_cam.page.thumbnail import Thumbnail

__all__ = [
    "Cell",
    "Chart",
    "Intervals",
    "Line",
    "Mark",
    "Matrix",
    "Page",
    "Plot",
    "Point",
    "Section",
    "Strip",
    "Table",
    "Thumbnail",
    "how_made",
    "to_html",
]
