"""Similarity: methods that project patch tokens into embedding space and compare them with the direction, without a gradient.

Each gives a unit vector for each patch (B, N, E). Its inner product with the direction is the map, so all are linear. A token
is projected as if the pooling attended to it alone (``Pooling.alone``): with a class token through the last norm and the
projection, with a learned latent through its value and the layers after it. All cost one forward pass beside the trace.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from concept_cam.gradients import Layer, Trace, Unrolled, attend, joined, unroll
from concept_cam.methods.method import FieldMethod

_DUAL_DEPTH = 6
"""Number of blocks in the second path of CLIP Surgery and GEM."""

_GAUSSIAN = 5.0
"""NACLIP's standard deviation, in patches."""


@FieldMethod
def patch_text(trace: Trace) -> Float[Tensor, "B N E"]:
    """Plain similarity: the patch tokens that leave the last block.

    In a model with a class token, training gives these tokens no objective, so the map is close to chance there.

    Example:
        >>> from concept_cam import world
        >>> plate, localizer = world.draw_species("ember finch"), world.localizer(method="patch_text")
        >>> localizer(plate.image, "ember finch", "frost finch").map.shape
        torch.Size([12, 12])
    """
    unrolled = unroll(trace, 1, graph=False)
    return unrolled.alone(unrolled.layers[-1].left)


@FieldMethod
def maskclip(trace: Trace) -> Float[Tensor, "B N E"]:
    """MaskCLIP: the values of the last block after its output projection; no residual, no MLP.

    Source: Zhou et al., MaskCLIP (arXiv 2112.01071). Departures: none of the paper's prompts, no key smoothing.

    Example:
        >>> from concept_cam import world
        >>> plate, localizer = world.draw_species("ember finch"), world.localizer(method="maskclip")
        >>> localizer(plate.image, "ember finch", "frost finch").map.shape
        torch.Size([12, 12])
    """
    unrolled = unroll(trace, 1, graph=False)
    layer = unrolled.layers[-1]
    return unrolled.alone(layer.block.project(joined(layer.value)))


@FieldMethod
def sclip(trace: Trace) -> Float[Tensor, "B N E"]:
    """SCLIP: the last block with softmax(q q / sqrt d) + softmax(k k / sqrt d) as its attention.

    Source: Wang et al., SCLIP (arXiv 2312.01597), correlative self-attention.

    Example:
        >>> from concept_cam import world
        >>> plate, localizer = world.draw_species("ember finch"), world.localizer(method="sclip")
        >>> localizer(plate.image, "ember finch", "frost finch").map.shape
        torch.Size([12, 12])
    """
    unrolled = unroll(trace, 1, graph=False)
    layer = unrolled.layers[-1]
    attention = attend(layer.query, layer.query) + attend(layer.key, layer.key)
    return unrolled.alone(layer.block.finish(joined(attention @ layer.value), layer.entered))


@FieldMethod
def clearclip(trace: Trace) -> Float[Tensor, "B N E"]:
    """ClearCLIP: the last block with softmax(q q / sqrt d) as its attention; no residual, no MLP.

    Source: Lan et al., ClearCLIP (arXiv 2407.12442).

    Example:
        >>> from concept_cam import world
        >>> plate, localizer = world.draw_species("ember finch"), world.localizer(method="clearclip")
        >>> localizer(plate.image, "ember finch", "frost finch").map.shape
        torch.Size([12, 12])
    """
    unrolled = unroll(trace, 1, graph=False)
    layer = unrolled.layers[-1]
    return unrolled.alone(layer.block.project(joined(attend(layer.query, layer.query) @ layer.value)))


@FieldMethod
def naclip(trace: Trace) -> Float[Tensor, "B N E"]:
    """NACLIP: the last block with softmax(k k / sqrt d + a Gaussian around each patch) as its attention; no residual, no MLP.

    Source: Hajimiri et al., NACLIP (arXiv 2404.08181); the Gaussian has a standard deviation of 5 patches and a
    peak of 1. Prefix tokens have no neighbours.

    Example:
        >>> from concept_cam import world
        >>> plate, localizer = world.draw_species("ember finch"), world.localizer(method="naclip")
        >>> localizer(plate.image, "ember finch", "frost finch").map.shape
        torch.Size([12, 12])
    """
    unrolled = unroll(trace, 1, graph=False)
    layer = unrolled.layers[-1]
    logits = layer.key @ layer.key.transpose(-1, -2) * layer.key.shape[-1] ** -0.5
    attention = (logits + _neighbourhood(unrolled).to(logits)).softmax(-1)
    return unrolled.alone(layer.block.project(joined(attention @ layer.value)))


@FieldMethod
def clip_surgery(trace: Trace) -> Float[Tensor, "B N E"]:
    """CLIP Surgery: a second path through the last six blocks that adds softmax(v v / sqrt d) v and skips their MLPs.

    Source: Li et al., CLIP Surgery (arXiv 2304.05653), its architecture surgery. Its feature surgery, which subtracts the
    mean over all labels from each map, is a comparison with all of them at strength 1: set the references instead.

    Example:
        >>> from concept_cam import world
        >>> plate, localizer = world.draw_species("ember finch"), world.localizer(method="clip_surgery")
        >>> localizer(plate.image, "ember finch", "frost finch").map.shape
        torch.Size([12, 12])
    """
    return _second_path(trace, lambda layer, _: attend(layer.value, layer.value) @ layer.value)


@FieldMethod
def gem(trace: Trace) -> Float[Tensor, "B N E"]:
    """GEM: a second path through the last six blocks that adds the mean self-self attention of q, k, v and skips their MLPs.

    Source: Bousselham et al., Grounding Everything (arXiv 2312.00878), with unit projections, one iteration and the
    temperature of its code: the mean norm of the tokens over sqrt d.

    Example:
        >>> from concept_cam import world
        >>> plate, localizer = world.draw_species("ember finch"), world.localizer(method="gem")
        >>> localizer(plate.image, "ember finch", "frost finch").map.shape
        torch.Size([12, 12])
    """

    def self_self(layer: Layer, normed: Tensor) -> Tensor:
        temperature = normed.norm(dim=-1).mean((1,))[:, None, None, None] * layer.value.shape[-1] ** -0.5
        units = [F.normalize(part, dim=-1) for part in (layer.query, layer.key, layer.value)]
        attention = [(unit @ unit.transpose(-1, -2) * temperature).softmax(-1) for unit in units]
        return torch.stack(attention).mean(0) @ layer.value

    return _second_path(trace, self_self)


def _second_path(trace: Trace, attended: Callable[[Layer, Tensor], Tensor]) -> Float[Tensor, "B N E"]:
    """A residual stream that adds another kind of attention, computed on the tokens of the model's own path."""
    unrolled = unroll(trace, _DUAL_DEPTH, graph=False)
    path = unrolled.layers[0].entered
    for layer in unrolled.layers:
        path = path + layer.block.project(joined(attended(layer, layer.block.norm(layer.entered))))
    return unrolled.alone(path)


def _neighbourhood(unrolled: Unrolled) -> Float[Tensor, "M M"]:
    """A Gaussian of the distance between two patches."""
    layout = unrolled.layout
    rows, cols = torch.meshgrid(
        torch.arange(layout.rows, dtype=torch.int64, device="cpu"),
        torch.arange(layout.cols, dtype=torch.int64, device="cpu"),
        indexing="ij",
    )
    places = torch.stack([rows, cols], -1).flatten(0, 1).double()
    near = torch.exp(-torch.cdist(places, places).square() / (2 * _GAUSSIAN**2))
    return F.pad(near, (layout.prefix, 0, layout.prefix, 0))
