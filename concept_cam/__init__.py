"""Where in an image is the thing that makes it this concept and not that similar one?

    TEXT                                          IMAGE
    names, templates      prompts                 image
      v                                             v
    ConceptBank (K, E)    concepts                Frame                    images
      v                                             v
    Comparison            comparison  <- scores - Pass                     passes
      v                                             v
    direction (E,)        ----------------------> TokenGradient            gradients
                                                    v
                                                  signed map               methods
                                                    v
                                                  EvidenceMap              evidence
                                                    v
                                                  Localization             result

A method that is linear in the direction has a ConceptField (field): one product of matrices for a map of any text.

``Localizer`` makes these calls in this order. Names load when they are first used: importing the package imports no torch.
"""

from __future__ import annotations

TYPE_CHECKING = False
"""As type checkers know it; to import what is typing's own takes ten times as long as all else here."""

if TYPE_CHECKING:  # "as" tells type checkers that a name is exported
    from concept_cam import checks as checks, drawing as drawing, errors as errors, world as world
    from concept_cam.backbones import Backbone as Backbone, Site as Site, TokenLayout as TokenLayout
    from concept_cam.comparison import Comparison as Comparison, compare as compare
    from concept_cam.concepts import ConceptBank as ConceptBank, embed as embed
    from concept_cam.field import ConceptField as ConceptField
    from concept_cam.gradients import trace as trace
    from concept_cam.loading import load as load, wrap as wrap
    from concept_cam.localizer import Localizer as Localizer
    from concept_cam.methods import grad_cam as grad_cam, hires_cam as hires_cam, layer_cam as layer_cam
    from concept_cam.preprocess import Preprocess as Preprocess
    from concept_cam.prompts import read_templates as read_templates, read_vocabulary as read_vocabulary
    from concept_cam.result import Localization as Localization
    from concept_cam.selectors import against as against, nearest as nearest, rivals as rivals
    from concept_cam.weightings import by_score as by_score, by_similarity as by_similarity, uniform as uniform

_HOMES = {
    "Backbone": "backbones",
    "Comparison": "comparison",
    "ConceptBank": "concepts",
    "ConceptField": "field",
    "Localization": "result",
    "Localizer": "localizer",
    "Preprocess": "preprocess",
    "Site": "backbones",
    "TokenLayout": "backbones",
    "against": "selectors",
    "by_score": "weightings",
    "by_similarity": "weightings",
    "compare": "comparison",
    "embed": "concepts",
    "grad_cam": "methods",
    "hires_cam": "methods",
    "layer_cam": "methods",
    "load": "loading",
    "nearest": "selectors",
    "read_templates": "prompts",
    "read_vocabulary": "prompts",
    "rivals": "selectors",
    "trace": "gradients",
    "uniform": "weightings",
    "wrap": "loading",
}
_MODULES = ("checks", "drawing", "errors", "world")

__all__ = [*_HOMES, *_MODULES]  # noqa: PLE0604  (strings, all of them)


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name in _HOMES:
        return getattr(import_module(f"concept_cam.{_HOMES[name]}"), name)
    if name in _MODULES:
        return import_module(f"concept_cam.{name}")
    raise AttributeError(f"module 'concept_cam' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
