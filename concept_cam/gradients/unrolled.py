"""Runs the last blocks of a transformer again with explicit attention matrices, keeping the autograd graph."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from concept_cam.backbones.backbone import Backbone
from concept_cam.backbones.block import Block
from concept_cam.backbones.pooling import Pooling
from concept_cam.backbones.site import TokenLayout
from concept_cam.errors import BackboneError
from concept_cam.gradients.alterations import alterations, check_projections
from concept_cam.gradients.base import Trace
from concept_cam.gradients.inputs import check_depth
from concept_cam.gradients.jacobian import pull_one
from concept_cam.gradients.tolerance import relative_error, tolerance
from concept_cam.hooks import on_output

_OTHERWISE = " Use a method that asks for gradients alone, such as hires_cam."


class _BlockReached(Exception):
    """Ends a forward pass: what comes after is run here."""


@final
@dataclass(frozen=True)
class Layer:
    """One block with its intermediate results.

    Attributes:
        block: the block.
        entered: the residual stream before it.
        query, key, value: of each head, after the rotation, if there is one.
        attention: rows sum to one; part of the graph.
        left: the residual stream after it.
    """

    block: Block
    entered: Float[Tensor, "B M D"]
    query: Float[Tensor, "B H M d"]
    key: Float[Tensor, "B H M d"]
    value: Float[Tensor, "B H M d"]
    attention: Float[Tensor, "B H M M"]
    left: Float[Tensor, "B M D"]


@final
@dataclass(frozen=True)
class Unrolled:
    """The last blocks and the pooling with their intermediate results.

    Attributes:
        layers: in the order of the model.
        pooling: what follows them.
        weights: of the pooling; part of the graph.
        embedding: unit vectors, or what a linear classifier multiplies by its rows.
        layout: how tokens lie on the image.
        backbone: the model.
    """

    layers: tuple[Layer, ...]
    pooling: Pooling
    weights: Float[Tensor, "B H M"]
    embedding: Float[Tensor, "B E"]
    layout: TokenLayout
    backbone: Backbone

    def alone(self, tokens: Float[Tensor, "B M D"]) -> Float[Tensor, "B N E"]:
        """Embed each patch as if it were the only token."""
        return self.backbone.normalize(self.pooling.alone(tokens)[:, self.layout.prefix :])

    def pull(
        self, embedding: Float[Tensor, "B E"], direction: Float[Tensor, "B E"], attention: Sequence[Float[Tensor, "B ..."]]
    ) -> tuple[Float[Tensor, "B ..."], ...]:
        """The gradient of the score of a direction with respect to attention weights; zero where it does not depend on them.

        Args:
            embedding: as a function of the attention.
            direction: whose inner product with the embedding is the score.
            attention: weights of blocks or of the pooling.
        """
        return pull_one(embedding, attention, direction, zeros=True)


def unroll(
    trace: Trace, depth: int | None = None, *, graph: bool = True, image: int | None = None, streams: bool = False
) -> Unrolled:
    """Run the model up to the last blocks as it is, and the last blocks with explicit attention.

    It costs one forward pass. The embedding is compared with the model's own.

    Args:
        trace: of the images.
        depth: the number of blocks; all by default.
        graph: keep what gradients need.
        image: the number of one image, which bounds memory; all by default.
        streams: keys and values are leaves of the graph, so that each token follows its own stream.

    Raises:
        OptionError: depth is not above 0.
        BackboneError: the model is no transformer of known blocks, or those are not what they were.

    Example:
        >>> from concept_cam import trace, world
        >>> from concept_cam.gradients import unroll
        >>> seen = trace(world.localizer().backbone, torch.zeros(1, 3, 96, 96))
        >>> unrolled = unroll(seen, depth=2)
        >>> len(unrolled.layers), unrolled.layers[-1].attention.shape
        (2, torch.Size([1, 6, 145, 145]))
    """
    check_depth(depth)
    backbone, blocks, pooling = trace.backbone, trace.backbone.blocks, trace.backbone.pooling
    chosen = tuple(block for block in blocks[-(depth or len(blocks)) :] if block is not None)
    if len(chosen) < min(depth or len(blocks), len(blocks)) or not chosen or pooling is None:
        reason = alterations(backbone) or _OTHERWISE
        raise BackboneError(f"{backbone.name} ({backbone.family}) has no attention that can be laid open.{reason}")
    check_projections(backbone, chosen, _OTHERWISE)
    which = slice(None) if image is None else slice(image, image + 1)
    with backbone.evaluating():
        x = _entering(backbone, chosen[0], trace.pixels[which])
        with torch.autocast(backbone.device.type, enabled=False), torch.set_grad_enabled(graph):
            x = x.to(backbone.dtype).detach().requires_grad_(graph)
            layers = []
            for block in chosen:
                layers.append(_run(block, x, streams))
                x = layers[-1].left
            weights = pooling.weights(x)
            weights = weights if weights.requires_grad or not graph else weights.requires_grad_()
            embedding = backbone.normalize(pooling.finish(pooling.gather(x, weights)))
    own = trace.embedding[which]
    off = relative_error(embedding.detach(), own)
    if not off <= tolerance(trace.rounded).embedding:
        reason = alterations(backbone) or _OTHERWISE
        raise BackboneError(
            f"The blocks of {backbone.name}, run piece by piece, give an embedding that is off by {off:.1e}: they are not "
            f"what they were.{reason}"
        )
    return Unrolled(tuple(layers), pooling, weights, embedding, trace.layout, backbone)


def _entering(backbone: Backbone, block: Block, pixels: Tensor) -> Tensor:
    seen: list[Tensor] = []

    def stop(module: object, inputs: tuple[Tensor, ...], output: object) -> None:
        seen.append(inputs[0])
        raise _BlockReached

    with on_output(block.norm, stop), suppress(_BlockReached):
        backbone.embed_pixels(pixels)
    if not seen:
        raise BackboneError(f"The first norm of a block of {backbone.name} did not run in a forward pass.")
    return seen[0]


def _run(block: Block, entered: Float[Tensor, "B M D"], streams: bool) -> Layer:
    own, normed = block.projections(), block.norm(entered)
    query, key, value = (F.linear(normed, *part).unflatten(-1, (own.heads, -1)) for part in (own.query, own.key, own.value))
    if block.rotate is not None:
        query, key = block.rotate(query, 1), block.rotate(key, 1)
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    if streams:
        key, value = key.detach(), value.detach().requires_grad_(torch.is_grad_enabled())
    attention = attend(query, key)
    return Layer(block, entered, query, key, value, attention, block.finish(joined(attention @ value), entered))


def attend(query: Float[Tensor, "B H M d"], key: Float[Tensor, "B H M d"]) -> Float[Tensor, "B H M M"]:
    """The attention weights of each token on all tokens.

    Example:
        >>> from concept_cam.gradients import attend
        >>> key = torch.tensor([[[[0.0, 1.0], [0.0, -1.0]]]])
        >>> attend(torch.zeros(1, 1, 2, 2), key)
        tensor([[[[0.5000, 0.5000],
                  [0.5000, 0.5000]]]])
    """
    attention: Tensor = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1)
    return attention


def joined(heads: Float[Tensor, "B H M d"]) -> Float[Tensor, "B M W"]:
    """The outputs of the heads, concatenated.

    Example:
        >>> from concept_cam.gradients import joined
        >>> joined(torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]]))
        tensor([[[1., 2., 3., 4.]]])
    """
    return heads.transpose(1, 2).flatten(2)
