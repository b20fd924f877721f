"""REPORT: a page of tables and images as one HTML file, to open from disk, send, read on a phone or print.

page    the content of a page
how     its last section: how the page was made
html    the HTML: it loads nothing from outside, and runs one script of our own that sorts tables
"""

from __future__ import annotations

from concept_cam.page.how import how_made
from concept_cam.page.html import to_html
from concept_cam.page.page import Cell, Page, Section, Table, Thumbnail

__all__ = ["Cell", "Page", "Section", "Table", "Thumbnail", "how_made", "to_html"]
