"""DATA: images with labels, and where the evidence should lie, in the layouts that people have on disk.

example   one image and what is known of it; a data set of them
layouts   readers by name; those of a table, of COCO's form, of published sets and of huggingface have files of their own
builder   examples as they are read, and what was wrong with others
masks     regions as grey levels, polygons, run lengths, boxes
files     what all layouts have in common: nothing outside the set's folder is opened
extra     further columns of a table, in the rows of a run
"""

from __future__ import annotations

from concept_cam.datasets.example import Dataset, Example, Lazy, Point, Region
from concept_cam.datasets.layouts import LAYOUTS, read_dataset

__all__ = ["LAYOUTS", "Dataset", "Example", "Lazy", "Point", "Region", "read_dataset"]
