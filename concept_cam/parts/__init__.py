"""PARTS: find the parts of an image by their names, and what each looks like.

finding      each part's phrase against its parent and its siblings, one forward pass for all
part         what is found
explored     the explorer beside a sheet
sheet        findings as images, and a sheet for each species
labels       colours, lines and labels on them
"""

from __future__ import annotations

from concept_cam.part_vocabulary import PartConcept, PartVocabulary, read_parts
from concept_cam.parts.finding import find_parts, stream_parts
from concept_cam.parts.part import AttributeReading, Part, PartFinding
from concept_cam.parts.sheet import PartSheet, annotated, part_sheet, summary

__all__ = [
    "AttributeReading",
    "Part",
    "PartConcept",
    "PartFinding",
    "PartSheet",
    "PartVocabulary",
    "annotated",
    "find_parts",
    "part_sheet",
    "read_parts",
    "stream_parts",
    "summary",
]
