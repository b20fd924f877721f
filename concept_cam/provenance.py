"""Where a map comes from, kept with each result."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

from concept_cam.gradients import FactoredTrace, Trace
from concept_cam.methods import AnyMethod, name_of
from concept_cam.preprocess import Preparation


def provenance_of(seen: Trace, method: AnyMethod, preprocess: Preparation, templates: Sequence[str]) -> dict[str, object]:
    """Model, site, form of the gradient, method, input, templates and versions, as JSON knows them.

    Args:
        seen: the pass.
        method: that made the map.
        preprocess: how images were prepared.
        templates: sentences around names.
    """
    backbone = seen.backbone.original
    return {
        "model": backbone.name,
        "site": seen.site.name,
        "gradient": "factored" if isinstance(seen, FactoredTrace) else "dense",
        "method": name_of(method),
        "input": {"fit": preprocess.fit, "size": [int(side) for side in seen.pixels.shape[2:]]},
        "templates": list(templates),
        "versions": {"concept-cam": version("concept-cam"), **backbone.versions},
    }
