"""ON DISK: a run is a folder with settings, batches and a table of rows; it is resumed, and each file is whole or not there.

digests    one number for anything, the same in another process
identity   what the rows depend on: model, preprocessing, texts, methods, examples, versions
batches    a batch counts only if it is whole and of this run
share      the batches of one of several workers, and what it tells of itself
launcher   what starts workers: spawned, processes of this machine; rays, actors of Ray
crew       workers that make the batches of a run together
settings   all that the rows depend on, in ``run.json``: a folder of another run is refused
run        a folder is one run's
table      rows are dataclasses: columns, types and help are those of their fields
tensors    tensors of a batch, each read when it is asked for
how        how a run is made, so that it can be cited
"""

from __future__ import annotations

from concept_cam.runs.crew import run_together
from concept_cam.runs.identity import identity_of, name_of_example
from concept_cam.runs.run import Run
from concept_cam.runs.settings import read_settings
from concept_cam.runs.table import Column, Row, Skipped, columns, csv_of, read_rows

__all__ = [
    "Column",
    "Row",
    "Run",
    "Skipped",
    "columns",
    "csv_of",
    "identity_of",
    "name_of_example",
    "read_rows",
    "read_settings",
    "run_together",
]
