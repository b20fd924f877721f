"""MAP: methods, which make a signed map of the gradient, the attention or the tokens of a model.

    gradient       gradient x activation: functions of the gradient at the patch tokens
    path           gradients along a path from a blank image
    attention      attention weights, and their gradients
    every_block    what the class token gathers on its whole way
    own_streams    the same where patches are pooled
    similarity     patches in embedding space, without a gradient
    perturbation   forward passes on changed images
    composition    any of these, averaged over views, scales or sites

A method is a function; ``METHODS`` has them by name, ``CARDS`` describes them, and ``explain`` calls any of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from inspect import isfunction

from concept_cam.methods.attention import grad_eclip, legrad, raw_attention, relevance, rollout, value_attribution
from concept_cam.methods.composition import at_scales, at_sites, mirrored, smoothed
from concept_cam.methods.every_block import (
    Shares,
    by_block,
    class_stream,
    direct,
    last_blocks,
    shares_of,
)
from concept_cam.methods.gradient import (
    eigen_grad_cam,
    grad_cam,
    grad_cam_elementwise,
    grad_cam_plus_plus,
    hires_cam,
    layer_cam,
    xgrad_cam,
)
from concept_cam.methods.method import (
    METHODS,
    AnyMethod,
    FieldMethod,
    GradientMethod,
    Method,
    TraceMethod,
    as_method,
    depth_of,
    explain,
    field_vectors,
    function_of,
    is_linear,
    method_named,
    name_of,
    sees_score,
)
from concept_cam.methods.own_streams import own_streams
from concept_cam.methods.path import integrated_grad_cam
from concept_cam.methods.perturbation import ablation_cam, gscore_cam, occlusion, rise, score_cam
from concept_cam.methods.similarity import clearclip, clip_surgery, gem, maskclip, naclip, patch_text, sclip
from concept_cam.methods.usual import usual_method

__all__ = [
    "CARDS",
    "METHODS",
    "AnyMethod",
    "Card",
    "FieldMethod",
    "GradientMethod",
    "Method",
    "Shares",
    "TraceMethod",
    "ablation_cam",
    "as_method",
    "at_scales",
    "at_sites",
    "by_block",
    "class_stream",
    "clearclip",
    "clip_surgery",
    "depth_of",
    "direct",
    "eigen_grad_cam",
    "explain",
    "field_vectors",
    "function_of",
    "gem",
    "grad_cam",
    "grad_cam_elementwise",
    "grad_cam_plus_plus",
    "grad_eclip",
    "gscore_cam",
    "hires_cam",
    "integrated_grad_cam",
    "is_linear",
    "last_blocks",
    "layer_cam",
    "legrad",
    "maskclip",
    "method_named",
    "mirrored",
    "naclip",
    "name_of",
    "occlusion",
    "own_streams",
    "patch_text",
    "raw_attention",
    "relevance",
    "rise",
    "rollout",
    "sclip",
    "score_cam",
    "sees_score",
    "shares_of",
    "smoothed",
    "usual_method",
    "value_attribution",
    "xgrad_cam",
]


@dataclass(frozen=True)
class Card:
    """The description of a method: its kind, its cost and what it needs.

    Attributes:
        method: the method itself.
        kind: gradient, attention, similarity or perturbation.
        forwards: forward passes for one image and any number of directions; D is the number of channels, N of patches.
        backwards: backward passes for each direction.
        needs: what the model must have.
    """

    method: Method
    kind: str
    forwards: str
    backwards: str
    needs: str

    @property
    def summary(self) -> str:
        """The first sentence of its docstring."""
        return re.split(r"(?<=[^.])\.\s", f"{function_of(self.method).__doc__} ")[0].replace("\n    ", " ").strip()

    @property
    def compares(self) -> str:
        """How its contrastive map depends on the direction: ``linear``, ``yes`` (not linear) or ``no``."""
        if not sees_score(self.method):
            return "no"
        return "linear" if is_linear(self.method) else "yes"


_HEAD = "0 (closed form) or 1"


def _cards() -> Mapping[str, Card]:
    listed = [
        *(
            Card(method, "gradient", "1", _HEAD, "any site")
            for method in (
                grad_cam,
                hires_cam,
                layer_cam,
                grad_cam_elementwise,
                grad_cam_plus_plus,
                xgrad_cam,
                eigen_grad_cam,
            )
        ),
        *(
            Card(method, "gradient", "1", "0 (closed form)", "a class token in known blocks")
            for method in (class_stream, direct)
        ),
        Card(own_streams, "gradient", "2", "1", "known blocks"),
        Card(integrated_grad_cam, "gradient", "18", "0 (closed form) or E in all", "any site"),
        *(Card(method, "attention", "1", "0", "a query with a closed form") for method in (value_attribution, grad_eclip)),
        *(Card(method, "attention", "2", "0", "known blocks") for method in (raw_attention, rollout)),
        *(Card(method, "attention", "2", "1", "known blocks") for method in (relevance, legrad)),
        *(
            Card(method, "similarity", "2", "0", "known blocks")
            for method in (patch_text, maskclip, sclip, clearclip, naclip, clip_surgery, gem)
        ),
        Card(score_cam, "perturbation", "D + 2", "0", "any site"),
        Card(gscore_cam, "perturbation", "302 at most for each direction", _HEAD, "any site"),
        Card(ablation_cam, "perturbation", "D + 1", "0", "any site"),
        Card(occlusion, "perturbation", "N + 1", "0", "any site"),
        Card(rise, "perturbation", "1,001", "0", "any site"),
    ]
    return {name_of(card.method).strip("_"): card for card in listed}


CARDS = _cards()
"""Descriptions of all methods by name."""

METHODS.update({name: card.method for name, card in CARDS.items()})

__test__ = {
    name: function_of(card.method)
    for name, card in CARDS.items()
    if not isfunction(card.method) and card.kind != "perturbation"  # those take hundreds of passes
}
"""Doctests of methods that are not functions themselves."""
