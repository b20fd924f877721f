"""Kinds of files: the function that makes a case, how many are promised, how many run by default."""

from __future__ import annotations

from fuzz import coco, configs, images, imagetables, layouts, results, runs, stores, tables, tars, vocabularies
from fuzz.harness import Case

KINDS: dict[str, tuple[Case, int, int]] = {
    "coco": (coco.case, 700, 80),
    "configs": (configs.case, 300, 12),
    "findings": (results.case_of_findings, 600, 60),
    "images": (images.case, 5_000, 300),
    "imagetables": (imagetables.case, 2_000, 60),
    "layouts": (layouts.case, 600, 60),
    "results": (results.case, 1_000, 150),
    "runs": (runs.case, 300, 40),
    "stores": (stores.case, 600, 15),
    "tables": (tables.case, 700, 80),
    "tars": (tars.case, 600, 60),
    "yaml": (vocabularies.case, 600, 60),
}
