"""EVALUATE: methods, references and strengths on the images of a data set, and what the figures say.

references   which references, by the names that a command line gives them
embeddings   of all images, for what needs to know all of them first
probe        a linear probe in the place of texts
sanity       maps that should be like the one in question, and maps that should not
contrasts    the directions of one image
arrangement  which images are together in a mosaic
columns      what a row holds
grid         one forward pass for each image, one row for each map
mosaics      four images in one, for data without masks
settings     methods, references and strengths, each once
rows         on disk, batch by batch
report       tables with intervals
strips       images with their maps, for the page
page         the figures as plots
evaluation   what was run, with its tables and its page
run          all of it, from options to tables
"""

from __future__ import annotations

from concept_cam.among import Among, classes_among, told_among
from concept_cam.evaluation.columns import GridRow
from concept_cam.evaluation.evaluation import Evaluation
from concept_cam.evaluation.grid import Grid
from concept_cam.evaluation.mosaics import Mosaics, MosaicSettings, write_mosaics
from concept_cam.evaluation.probe import fit_probe
from concept_cam.evaluation.report import means, problems, tables
from concept_cam.evaluation.rows import read_rows, write_rows
from concept_cam.evaluation.run import evaluate
from concept_cam.evaluation.settings import Settings
from concept_cam.probabilities import ClassProbabilities, own_scale

__all__ = [
    "Among",
    "ClassProbabilities",
    "Evaluation",
    "Grid",
    "GridRow",
    "MosaicSettings",
    "Mosaics",
    "Settings",
    "classes_among",
    "evaluate",
    "fit_probe",
    "means",
    "own_scale",
    "problems",
    "read_rows",
    "tables",
    "told_among",
    "write_mosaics",
    "write_rows",
]
