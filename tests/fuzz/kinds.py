"""Kinds of files: the function that makes a case, how many are promised, how many run by default."""

from __future__ import annotations

from fuzz import coco, images, layouts, tables, vocabularies
from fuzz.harness import Case

KINDS: dict[str, tuple[Case, int, int]] = {
    "images": (images.case, 5_000, 300),
    "tables": (tables.case, 700, 80),
    "coco": (coco.case, 700, 80),
    "yaml": (vocabularies.case, 600, 60),
    "layouts": (layouts.case, 600, 60),
}
