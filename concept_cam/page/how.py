"""The last section of a page: how it was made."""

from __future__ import annotations

from concept_cam.page.page import Section, Table
from concept_cam.provenance import Provenance

_FINER_CAM = (
    "Maps that compare follow Zhang et al., Finer-CAM: Spotting the Difference Reveals Finer Details for "
    "Visual Explanation, CVPR 2025, arXiv 2501.11309."
)


def how_made(provenance: Provenance, title: str = "How this was made") -> Section:
    """The section that lists version, command, model, data and settings, with a line to cite.

    Args:
        provenance: of the results.
        title: of the section.

    Example:
        >>> from concept_cam.page import how_made
        >>> from concept_cam.provenance import Provenance
        >>> made = Provenance(
        ...     "audit", "birds", 100, "0" * 64, "ViT-B-16", "1" * 64, ("hires_cam",), "resblocks.11.ln_1", "factored",
        ...     "crop, 224 x 224", (1.0,), ("a photo of a {}.",), None, {}, {"concept-cam": "0.1.0"}
        ... )
        >>> how_made(made).title, how_made(made).table.columns
        ('How this was made', ('what', 'value'))
    """
    text = f"To cite this: {provenance.cite}\n\n{_FINER_CAM}\n\nThe file how.json beside this page holds the same as data."
    return Section(title, text, Table(("what", "value"), provenance.facts))
