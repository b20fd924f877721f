"""How a page was made, as its last section."""

from __future__ import annotations

from concept_cam.page.page import Section, Table
from concept_cam.provenance import Provenance

_FINER_CAM = (
    "Maps that compare follow Zhang et al., Finer-CAM: Spotting the Difference Reveals Finer Details for "
    "Visual Explanation, CVPR 2025, arXiv 2501.11309."
)


def how_made(provenance: Provenance, title: str = "How this was made") -> Section:
    """What was run on what, and a line to cite it."""
    text = (
        f"To cite this: {provenance.cite}\n\n{_FINER_CAM}\n\nThe file how.json beside this page holds the same for machines."
    )
    return Section(title, text, Table(("what", "value"), provenance.facts))
