"""Pooling heads in closed form: how patch tokens reach the embedding, and the gradient that follows from it.

A head reads the tokens at a site once. What it has read answers three questions for any number of directions, given
gamma = dS/do, the gradient of the score at the pooled vector o (one vector-Jacobian product through ``finish``). The formulas
are those of *Three questions to a gradient* in docs/definition.md.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Reading(ABC):
    """What a head has read of a batch; K directions, B pictures, N patches, D channels.

    Attributes:
        tokens: the patch tokens A.
        pooled: the vector o that pooling made of them.
    """

    tokens: Float[Tensor, "B N D"]
    pooled: Float[Tensor, "B D"]

    @abstractmethod
    def finish(self, pooled: Float[Tensor, "K B D"]) -> Float[Tensor, "K B E"]:
        """All that comes after pooling, up to the embedding before it is normalised."""

    @abstractmethod
    def mean(self, gamma: Float[Tensor, "K B D"]) -> Float[Tensor, "K B D"]:
        """The gradient averaged over the patches."""

    @abstractmethod
    def dot_tokens(self, gamma: Float[Tensor, "K B D"]) -> Float[Tensor, "K B N"]:
        """<G_n, A_n> for every patch."""

    @abstractmethod
    def dense(self, gamma: Float[Tensor, "K B D"]) -> Iterator[Float[Tensor, "B N D"]]:
        """The whole gradient, one direction at a time."""


class Head(ABC):
    """The way from the tokens of a site to the embedding."""

    @abstractmethod
    def read(self, entering: Float[Tensor, "B M D"], tokens: Float[Tensor, "B M D"], prefix: int) -> Reading:
        """Read the site: what entered its module, and the tokens that left it, prefix first."""


@final
@dataclass(frozen=True)
class ClassAttention(Head):
    """The class token's row of the last block: one attention with one query, then that block's MLP and the projection.

    The site is the block's first norm. Only the query row of the block is computed.

    Attributes:
        attention: the block's ``nn.MultiheadAttention`` with packed projections.
        rest: from the attention's output and the residual, both (..., D), to the embedding (..., E).
    """

    attention: nn.MultiheadAttention
    rest: Any

    def read(self, entering: Float[Tensor, "B M D"], tokens: Float[Tensor, "B M D"], prefix: int) -> Reading:
        """Queries of the class token, keys and values of all tokens, and what they attend to."""
        heads = self.attention.num_heads
        weight, given = self.attention.in_proj_weight.detach(), self.attention.in_proj_bias
        bias = weight.new_zeros(len(weight)) if given is None else given.detach()
        entering, tokens = entering.to(weight.dtype), tokens.to(weight.dtype)
        (q_weight, k_weight, v_weight), (q_bias, k_bias, v_bias) = weight.chunk(3), bias.chunk(3)
        query = F.linear(tokens[:, 0], q_weight, q_bias).unflatten(-1, (heads, -1))
        query = query * query.shape[-1] ** -0.5
        key = F.linear(tokens, k_weight, k_bias).unflatten(-1, (heads, -1))
        value = F.linear(tokens, v_weight, v_bias).unflatten(-1, (heads, -1))
        logits = torch.einsum("bhd,bmhd->bmh", query, key)
        attention = logits.softmax(1).to(value.dtype)
        output = torch.einsum("bmh,bmhd->bhd", attention, value)
        key_pull = torch.einsum("bhd,hdc->bhc", query, k_weight.unflatten(0, (heads, -1)))
        return AttentionReading(
            tokens=tokens[:, prefix:],
            pooled=output.flatten(-2),
            residual=entering[:, 0],
            attention=attention[:, prefix:],
            value=value[:, prefix:],
            centred_key=logits[:, prefix:] - torch.einsum("bhd,hd->bh", query, k_bias.unflatten(0, (heads, -1)))[:, None],
            key_pull=key_pull,
            value_weight=v_weight,
            value_bias=v_bias.unflatten(0, (heads, -1)),
            rest=self.rest,
        )


@final
@dataclass(frozen=True)
class AttentionReading(Reading):
    """One attention with one query, read; H heads of width D/H.

    Attributes:
        residual: what the attention's output is added to.
        attention: a_hn, the query's weights on the patches; the rest of each sum to one is on the prefix.
        value: v_hn.
        centred_key: q_h (k_hn - b_k,h) / sqrt(d_h).
        key_pull: W_k,h^T q_h / sqrt(d_h).
        value_weight, value_bias: W_v and b_v.
    """

    tokens: Float[Tensor, "B N D"]
    pooled: Float[Tensor, "B D"]
    residual: Float[Tensor, "B D"]
    attention: Float[Tensor, "B N H"]
    value: Float[Tensor, "B N H d"]
    centred_key: Float[Tensor, "B N H"]
    key_pull: Float[Tensor, "B H D"]
    value_weight: Float[Tensor, "D D"]
    value_bias: Float[Tensor, "H d"]
    rest: Any

    def finish(self, pooled: Float[Tensor, "K B D"]) -> Float[Tensor, "K B E"]:
        """The output projection, the residual, the MLP, the norm and the projection."""
        out: Tensor = self.rest(pooled, self.residual)
        return out

    def mean(self, gamma: Float[Tensor, "K B D"]) -> Float[Tensor, "K B D"]:
        """1/N sum_h [(sum_n a_hn) W_v,h^T gamma_h + (sum_n delta_hn) W_k,h^T q_h / sqrt(d_h)]; no (N, D) object."""
        by_head = self._by_head(gamma)
        mass = self.attention.sum(1)
        moved = torch.einsum("bnh,bnhd->bhd", self.attention, self.value) - mass[..., None] * self._output
        through_values = (by_head * mass[..., None]).flatten(-2) @ self.value_weight
        through_keys = torch.einsum("kbhd,bhd,bhc->kbc", by_head, moved, self.key_pull)
        return (through_values + through_keys) / self.tokens.shape[1]

    def dot_tokens(self, gamma: Float[Tensor, "K B D"]) -> Float[Tensor, "K B N"]:
        """Linear in gamma: gamma . L_n with L_hn = a_hn [v_hn - b_v,h + kappa_hn (v_hn - o_h)]."""
        linear = self.attention[..., None] * (
            self.value - self.value_bias + self.centred_key[..., None] * (self.value - self._output[:, None])
        )
        return torch.einsum("kbd,bnd->kbn", gamma, linear.flatten(-2))

    def dense(self, gamma: Float[Tensor, "K B D"]) -> Iterator[Float[Tensor, "B N D"]]:
        """G_n = sum_h [a_hn W_v,h^T gamma_h + delta_hn W_k,h^T q_h / sqrt(d_h)], of rank 2H over the patches."""
        weight = self.value_weight.unflatten(0, self.value_bias.shape)
        for by_head in self._by_head(gamma):
            value_pull = torch.einsum("bhd,hdc->bhc", by_head, weight)
            delta = self.attention * torch.einsum("bhd,bnhd->bnh", by_head, self.value - self._output[:, None])
            yield torch.cat([self.attention, delta], 2) @ torch.cat([value_pull, self.key_pull], 1)

    @property
    def _output(self) -> Float[Tensor, "B H d"]:
        return self._by_head(self.pooled)

    def _by_head(self, vectors: Tensor) -> Tensor:
        return vectors.reshape(*vectors.shape[:-1], *self.value_bias.shape)


@final
@dataclass(frozen=True)
class MeanPooling(Head):
    """The mean of the patch tokens that leave the site, then ``rest``: from (..., D) to the embedding (..., E)."""

    rest: Any

    def read(self, entering: Float[Tensor, "B M D"], tokens: Float[Tensor, "B M D"], prefix: int) -> Reading:
        """The patch tokens and their mean."""
        patches = tokens[:, prefix:]
        return MeanReading(patches, patches.mean(1), self.rest)


@final
@dataclass(frozen=True)
class MeanReading(Reading):
    """A mean, read: every patch has the same gradient, gamma / N."""

    tokens: Float[Tensor, "B N D"]
    pooled: Float[Tensor, "B D"]
    rest: Any

    def finish(self, pooled: Float[Tensor, "K B D"]) -> Float[Tensor, "K B E"]:
        """The norm, where it follows pooling, and the projection."""
        out: Tensor = self.rest(pooled)
        return out

    def mean(self, gamma: Float[Tensor, "K B D"]) -> Float[Tensor, "K B D"]:
        """Gamma / N."""
        return gamma / self.tokens.shape[1]

    def dot_tokens(self, gamma: Float[Tensor, "K B D"]) -> Float[Tensor, "K B N"]:
        """Gamma . A_n / N."""
        return torch.einsum("kbd,bnd->kbn", self.mean(gamma), self.tokens)

    def dense(self, gamma: Float[Tensor, "K B D"]) -> Iterator[Float[Tensor, "B N D"]]:
        """Gamma / N for every patch."""
        for row in self.mean(gamma):
            yield row[:, None].expand_as(self.tokens)
