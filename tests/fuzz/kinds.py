"""Kinds of files: the function that makes a case, how many are promised, how many run by default."""

from __future__ import annotations

from fuzz import images
from fuzz.harness import Case

KINDS: dict[str, tuple[Case, int, int]] = {
    "images": (images.case, 5_000, 300),
}
