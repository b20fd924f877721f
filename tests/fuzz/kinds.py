"""Kinds of files: the function that makes a case, how many are promised, how many run by default."""

from __future__ import annotations

from fuzz import configs, images, results
from fuzz.harness import Case

KINDS: dict[str, tuple[Case, int, int]] = {
    "configs": (configs.case, 300, 12),
    "images": (images.case, 5_000, 300),
    "results": (results.case, 1_000, 150),
}
