"""A page of tables and images, and the one HTML file that it becomes: opened from disk, sent, read on a phone, printed.

page    what is on it
how     how it was made, as its last section
html    how it is written: nothing is fetched, nothing runs but a script of our own that sorts tables
"""

from __future__ import annotations

from concept_cam.page.how import how_made
from concept_cam.page.html import to_html
from concept_cam.page.page import Cell, Page, Section, Table, Thumbnail

__all__ = ["Cell", "Page", "Section", "Table", "Thumbnail", "how_made", "to_html"]
