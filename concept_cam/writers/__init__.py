"""WRITERS: results of many images, taken one by one, become files; of localizations and of findings of parts alike.

writer       what every writer does: ``add``, ``close``, whole files or none
comparisons  one comparison at several strengths, and by reference
overlays     files of each image: maps drawn on it, the result itself, a summary in JSON
table        CSV and Parquet
coco, cub    COCO's instances and keypoints; the layout of CUB-200-2011
dataset      a Parquet data set of many results
detections   what ``supervision`` draws
sheets       a page for each species
run          results of many images in one folder, resumable
localized, found  the two jobs that do so: localizations, parts
regions      what a result marks: masks, boxes, keypoints
names        what files are called
"""

from __future__ import annotations

from concept_cam.writers.coco import Coco, to_coco
from concept_cam.writers.comparisons import Comparisons
from concept_cam.writers.cub import Cub, to_cub
from concept_cam.writers.dataset import read_results
from concept_cam.writers.detections import to_supervision
from concept_cam.writers.found import PartsFound, find_parts_of_images
from concept_cam.writers.localized import localize_images
from concept_cam.writers.overlays import Overlays, Saved, Summaries
from concept_cam.writers.sheets import Sheets
from concept_cam.writers.table import Table, to_csv
from concept_cam.writers.writer import Renamed, Writer

__all__ = [
    "Coco",
    "Comparisons",
    "Cub",
    "Overlays",
    "PartsFound",
    "Renamed",
    "Saved",
    "Sheets",
    "Summaries",
    "Table",
    "Writer",
    "find_parts_of_images",
    "localize_images",
    "read_results",
    "to_coco",
    "to_csv",
    "to_cub",
    "to_supervision",
]
