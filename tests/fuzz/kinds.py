"""Kinds of files: the function that makes a case, how many are promised, how many run by default."""

from __future__ import annotations

from fuzz import runs
from fuzz.harness import Case

KINDS: dict[str, tuple[Case, int, int]] = {
    "runs": (runs.case, 300, 40),
}
