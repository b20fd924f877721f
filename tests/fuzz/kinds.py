"""Kinds of files: the function that makes a case, how many are promised, how many run by default."""

from __future__ import annotations

from fuzz import configs, results
from fuzz.harness import Case

KINDS: dict[str, tuple[Case, int, int]] = {
    "configs": (configs.case, 300, 12),
    "results": (results.case, 1000, 150),
}
