"""BACKPROP: run the model once, then ask for the gradient of any number of scores at the patch tokens.

The only folder with ``torch.autograd``. Two implementations answer the same questions: *dense*, by autograd from a cut at the
site, for any site of any model; and *factored*, in closed form, where the site has a head that knows the way from there to the
embedding. Neither leaves a trace on the model.
"""

from __future__ import annotations

from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor

from concept_cam.backbones.backbone import Backbone
from concept_cam.backbones.site import Site
from concept_cam.errors import OptionError
from concept_cam.gradients.base import TokenGradient, Trace, WholeGradient, ready
from concept_cam.gradients.changed import embed_changed, embed_without_channels
from concept_cam.gradients.dense import DenseTrace, cut_at
from concept_cam.gradients.exactness import has_exact_head, warn_of_autograd
from concept_cam.gradients.factored import FactoredTrace, UnlikeTheModel, read_head, single_query
from concept_cam.gradients.frozen import Frozen
from concept_cam.gradients.inputs import check_depth
from concept_cam.gradients.jacobian import linear_part, transposed
from concept_cam.gradients.pixels import pixel_gradient
from concept_cam.gradients.stream import ClassStream, Step, follow_class_token, has_stream
from concept_cam.gradients.unrolled import Layer, Unrolled, attend, joined, unroll

__all__ = [
    "ClassStream",
    "DenseTrace",
    "FactoredTrace",
    "Form",
    "Frozen",
    "Layer",
    "Step",
    "TokenGradient",
    "Trace",
    "Unrolled",
    "WholeGradient",
    "alterations",
    "at_site",
    "attend",
    "embed_changed",
    "embed_without_channels",
    "follow_class_token",
    "has_exact_head",
    "has_stream",
    "joined",
    "linear_part",
    "pixel_gradient",
    "single_query",
    "trace",
    "transposed",
    "unroll",
]

Form = Literal["auto", "factored", "dense"]


def trace(
    backbone: Backbone,
    pixels: Float[Tensor, "B 3 height width"],
    site: str | None = None,
    form: Form = "auto",
    depth: int | None = 0,
) -> Trace:
    """Run the model once and keep what gradients need.

    Works inside the caller's ``no_grad`` and ``inference_mode`` and with frozen parameters. The model is put into evaluation
    mode for the run and back afterwards: with dropout a map would be noise, and tokens may be missing.

    Args:
        backbone: the model.
        pixels: its input, on its device and in its precision.
        site: the name of one of ``backbone.sites``; the first by default.
        form: ``factored`` (closed form), ``dense`` (autograd), or by default factored where it exists and is exact.
        depth: of how many of the last blocks to keep the tokens, for methods that read them (``FieldMethod.depth``); None is
            all. Without that, such a method makes a pass of its own.

    Raises:
        OptionError: there is no such form, or depth is below 0.
        BackboneError: there is no such site, or no closed form for it.

    Example:
        >>> import torch
        >>> from concept_cam import world, trace
        >>> seen = trace(world.localizer().backbone, torch.zeros(1, 3, 96, 96))
        >>> seen.tokens.shape, seen.gradient(torch.ones(5, 1, 192)).mean().shape
        (torch.Size([1, 144, 192]), torch.Size([5, 1, 192]))
    """
    if form not in get_args(Form):
        raise OptionError(f"No form {form!r} of a gradient; there are {', '.join(get_args(Form))}.")
    check_depth(depth or None)
    with ready(backbone, pixels, site) as prepared:
        return _factored(*prepared, form, depth) or cut_at(*prepared)[0]


def at_site(seen: Trace, site: str) -> Trace:
    """The same images at another site, after a pass of their own.

    Raises:
        BackboneError: the model has no such site.

    Example:
        >>> import torch
        >>> from concept_cam import world, trace
        >>> seen = trace(world.localizer().backbone, torch.zeros(1, 3, 96, 96))
        >>> other = seen.backbone.sites[-1].name
        >>> at_site(seen, other).site.name == other
        True
    """
    if site == seen.site.name:
        return seen
    return trace(seen.backbone, seen.pixels, site, "dense" if seen.form == "dense" else "auto")


def _factored(
    backbone: Backbone, pixels: Float[Tensor, "B 3 height width"], site: Site, form: Form, depth: int | None
) -> FactoredTrace | None:
    """In closed form, if that is what is asked for, or where it exists and is exact."""
    if form == "dense" or (form == "auto" and not has_exact_head(backbone, site)):
        return None
    try:
        return read_head(backbone, pixels, site, depth)
    except UnlikeTheModel as unlike:
        if form == "factored":
            raise
        warn_of_autograd(backbone, site, str(unlike))
        return None
