"""DATA: images with labels and true regions, read from the layouts in which data sets are published.

example   one image with its label, region, boxes and points; a data set of such examples
layouts   readers by name; tables, COCO, published sets and Hugging Face's ``datasets`` have files of their own
builder   collects examples and problems while a data set is read
masks     regions from grey levels, polygons, run lengths and boxes
files     what all readers share; no file outside the folder of the data set is opened
extra     further columns of a table, in the rows of a run
"""

from __future__ import annotations

from concept_cam.datasets.example import Dataset, Example, Lazy, Point, Region
from concept_cam.datasets.huggingface import saved_images
from concept_cam.datasets.layouts import LAYOUTS, Layout, read_dataset

__all__ = ["LAYOUTS", "Dataset", "Example", "Layout", "Lazy", "Point", "Region", "read_dataset", "saved_images"]
