"""Attention: what the query of the embedding takes from each patch, and how the score depends on it.

Methods that follow attention through several blocks cost one more forward pass of the model, and one backward pass through
these blocks for each direction.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from concept_cam.gradients import Layer, Trace, Unrolled, single_query, unroll
from concept_cam.methods.method import FieldMethod, TraceMethod

_LEGRAD_DEPTH = 2
"""Blocks that LeGrad's own code looks at by default."""


def _raw_attention(trace: Trace, directions: Float[Tensor, "K B E"]) -> Float[Tensor, "K B N"]:
    """The attention of the token that becomes the embedding, averaged over heads. It does not depend on the score.

    A learned latent has its own attention; of a class token it is the attention in the last block, of a mean the average over
    all patches.
    """
    unrolled = unroll(trace, 1, graph=False)
    row = unrolled.weights.mean(1)
    if not unrolled.pooling.attends:
        row = (row[:, None] @ unrolled.layers[-1].attention.mean(1))[:, 0]
    return _patches(row, unrolled).expand(len(directions), -1, -1)


def _rollout(trace: Trace, directions: Float[Tensor, "K B E"]) -> Float[Tensor, "K B N"]:
    """The product over all blocks of (mean of the heads + identity) / 2, weighted by the pooling. It does not see the score.

    Source: Abnar and Zuidema, Quantifying Attention Flow in Transformers (arXiv 2005.00928), attention rollout.
    """
    unrolled = unroll(trace, graph=False)
    row = unrolled.weights.mean(1, keepdim=True)
    for layer in reversed(unrolled.layers):
        row = (row @ layer.attention.mean(1) + row) / 2
    return _patches(row[:, 0], unrolled).expand(len(directions), -1, -1)


def _relevance(trace: Trace, directions: Float[Tensor, "K B E"]) -> Float[Tensor, "K B N"]:
    """R <- R + mean_h ReLU(dS/dA * A) R over all blocks, weighted by the pooling. Not linear, never negative.

    Source: Chefer et al., Generic Attention-model Explainability (arXiv 2103.15679), its rule for self-attention, through all
    blocks. A learned latent is one more attention; a mean over patches takes the mean of the rows.
    """

    def of_one(unrolled: Unrolled, direction: Tensor) -> Tensor:
        attends = unrolled.pooling.attends
        attention = [layer.attention for layer in unrolled.layers] + [unrolled.weights] * attends
        pulled = unrolled.pull(unrolled.embedding, direction, attention)
        used = [(weights.detach() * pull).clamp(min=0).mean(1) for weights, pull in zip(attention, pulled, strict=True)]
        row = (used.pop() if attends else unrolled.weights.detach().mean(1))[:, None]
        # Rows from the left: a vector goes through each block instead of a matrix.
        for step in reversed(used):
            row = row + row @ step
        return _patches(row[:, 0], unrolled)

    return _one_by_one(trace, directions, None, of_one)


def _legrad(trace: Trace, directions: Float[Tensor, "K B E"]) -> Float[Tensor, "K B N"]:
    """Sum over the last two blocks of mean_hq ReLU(ds/dA_hq), s being the score of that block's tokens. Never negative.

    Source: Bousselham et al., LeGrad (arXiv 2404.03214), and its code: s is that of the mean of all tokens behind the block;
    under a learned latent that of the latent's output, and A is the latent's attention. Departures: two blocks, as
    its code has by default, not all; not scaled to 0..1.
    """

    def of_one(unrolled: Unrolled, direction: Tensor) -> Tensor:
        return torch.stack([_of_layer(unrolled, layer, direction) for layer in unrolled.layers]).sum(0)

    return _one_by_one(trace, directions, _LEGRAD_DEPTH, of_one)


def _of_layer(unrolled: Unrolled, layer: Layer, direction: Tensor) -> Float[Tensor, "B N"]:
    pooling, normalize = unrolled.pooling, unrolled.backbone.normalize
    with torch.enable_grad():
        if pooling.attends:
            attention = pooling.weights(layer.left)
            embedding = normalize(pooling.finish(pooling.gather(layer.left, attention)))
        else:
            attention = layer.attention
            embedding = normalize(pooling.alone(layer.left.mean(1, keepdim=True))[:, 0])
    (pulled,) = unrolled.pull(embedding, direction, [attention])
    return _patches(pulled.clamp(min=0).flatten(1, -2).mean(1), unrolled)


raw_attention = TraceMethod(_raw_attention, sees_score=False)
rollout = TraceMethod(_rollout, sees_score=False)
relevance = TraceMethod(_relevance)
legrad = TraceMethod(_legrad)


@FieldMethod
def value_attribution(trace: Trace) -> Float[Tensor, "B N E"]:
    """sum_h a_hn v_hn gamma_h: the contribution of each patch to the pooled vector, times the gradient of the score there.

    Together with the contribution of the prefix, the map sums to <gamma, o>, the share of the attention in the score.

    Source: Gandelsman et al., Interpreting CLIP's Image Representation (arXiv 2310.05916), its decomposition by heads and
    tokens, for the last attention. Departure: what comes after is linearized by its gradient instead of dropped.
    """
    attention, seen = single_query(trace)
    return seen.through((attention.attention[..., None] * attention.biased_values()).flatten(-2))


@FieldMethod
def grad_eclip(trace: Trace) -> Float[Tensor, "B N E"]:
    """lambda_n sum_k gamma_k v_nk, lambda_n being the cosine of query and key, scaled to 0..1 over the patches.

    Source: Zhao et al., Grad-ECLIP (arXiv 2502.18816), and its code, without the final ReLU: query and key go through the
    output projection first. Departure: under a learned latent they do not.
    """
    attention, seen = single_query(trace)
    query, key = attention.query.flatten(-2), F.linear(attention.entered, *attention.projections.key)
    if (project := attention.project) is not None:
        query, key = (project(part) - project(torch.zeros_like(part)) for part in (query, key))
    cosine = F.cosine_similarity(query, key, dim=-1)
    least, most = cosine.amin(1, keepdim=True), cosine.amax(1, keepdim=True)
    weights = (cosine - least) / (most - least).clamp(min=torch.finfo(cosine.dtype).tiny)
    return seen.through(weights[..., None] * attention.biased_values().flatten(-2))


def _patches(row: Float[Tensor, "B M"], unrolled: Unrolled) -> Float[Tensor, "B N"]:
    return row[:, unrolled.layout.prefix :].detach()


def _one_by_one(
    trace: Trace, directions: Float[Tensor, "K B E"], depth: int | None, of_one: Callable[[Unrolled, Tensor], Tensor]
) -> Float[Tensor, "K B N"]:
    """One image at a time: the graph of one is held, not that of all."""
    maps = []
    for image in range(len(trace.pixels)):
        unrolled = unroll(trace, depth, image=image)
        maps.append(torch.cat([of_one(unrolled, direction[image : image + 1]) for direction in directions]))
    return torch.stack(maps, 1)
