"""An attention whose query is the mean of the cells that it attends to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from concept_cam.backbones.block import Projections
from concept_cam.backbones.closed_form.attention import AttentionState, attend
from concept_cam.backbones.closed_form.head import Head
from concept_cam.backbones.closed_form.state import HeadState, Rest, dot


@final
@dataclass(frozen=True)
class MeanQueryAttention(Head):
    """The pooling of CLIP's ResNets: an attention whose query is the mean of the cells, over the mean and the cells.

    Attributes:
        projections: of the pooling attention.
        positions: added to the mean and to the cells, (1 + N, D).
        rest: from the attention's output (..., D) to the embedding (..., E).
    """

    projections: Callable[[], Projections]
    positions: Callable[[], Tensor]
    rest: Rest

    def read(self, entering: Tensor, tokens: Float[Tensor, "B M D"], prefix: int) -> MeanQueryState:
        """Attend from the mean to the mean and all cells."""
        own = self.projections()
        tokens = tokens.to(own.key[0].dtype)
        placed = torch.cat([tokens.mean(1, keepdim=True), tokens], 1) + self.positions().detach().to(tokens)
        whole = attend(F.linear(placed[:, :1], *own.query), placed, own, 0, self.rest)
        key_weight = own.key[0].unflatten(0, whole.query.shape[2:])
        cells = replace(
            whole,
            # Without what positions add: they are no part of the tokens.
            tokens=tokens,
            entered=placed[:, 1:],
            attention=whole.attention[:, 1:],
            centred_key=tokens @ torch.einsum("bhd,hdc->bch", whole.query[:, 0], key_weight),
        )
        keys = torch.einsum("bnc,hdc->bnhd", placed, key_weight) * key_weight.shape[1] ** -0.5
        query_outer = torch.einsum("bnhd,bnhe->bhde", whole.value_shift, keys)
        by_token = ("tokens", "entered", "attention", "centred_key")
        mean_query = replace(whole, **{name: getattr(whole, name)[:, :1] for name in by_token})
        return MeanQueryState(tokens, whole.pooled, cells, mean_query, query_outer, own.query[0])


@final
@dataclass(frozen=True)
class MeanQueryState(HeadState):
    """What the pooling of a CLIP ResNet has read. The query is the mean of the cells, so each cell gets 1/N of its gradient.

    Attributes:
        cells: the attention restricted to the cells.
        mean_query: the attention restricted to the mean, which is a key and a value too.
        query_outer: sum_n a_hn (v_hn - o_h) (x) k_hn / sqrt(d_h), from which the gradient of the query follows.
        query_weight: W_q.
    """

    tokens: Float[Tensor, "B N D"]
    pooled: Float[Tensor, "B W"]
    cells: AttentionState
    mean_query: AttentionState
    query_outer: Float[Tensor, "B H d d"]
    query_weight: Float[Tensor, "W D"]

    def finish(self, pooled: Float[Tensor, "K B W"]) -> Float[Tensor, "K B E"]:
        """The output projection."""
        return self.cells.finish(pooled)

    def mean(self, gamma: Float[Tensor, "K B W"]) -> Float[Tensor, "K B D"]:
        """What reaches the cells themselves, and their share in the mean."""
        return self.cells.mean(gamma) + self._share(gamma)

    def dot_tokens(self, gamma: Float[Tensor, "K B W"]) -> Float[Tensor, "K B N"]:
        """<G_n, A_n> for every cell."""
        return self.cells.dot_tokens(gamma) + dot(self._share(gamma), self.tokens)

    def mean_dot_tokens(self, gamma: Float[Tensor, "K B W"]) -> Float[Tensor, "K B N"]:
        """<mean of G, A_n> for every cell."""
        return dot(self.mean(gamma), self.tokens)

    def dot_tokens_matrix(self) -> Float[Tensor, "B N W"]:
        """What reaches the cells themselves, and their share in the mean."""
        return self.cells.dot_tokens_matrix() + self._share_in_tokens()

    def mean_dot_tokens_matrix(self) -> Float[Tensor, "B N W"]:
        """The same, the first averaged over the cells."""
        return self.cells.mean_dot_tokens_matrix() + self._share_in_tokens()

    def dense(self, gamma: Float[Tensor, "K B W"]) -> Iterator[Float[Tensor, "B N D"]]:
        """The whole gradient, one direction at a time."""
        for own, share in zip(self.cells.dense(gamma), self._share(gamma), strict=True):
            yield own + share[:, None]

    def _share_in_tokens(self) -> Float[Tensor, "B N W"]:
        """L with <share, A_n> = gamma . L_n."""
        query = F.linear(self.tokens, self.query_weight).unflatten(-1, self.query_outer.shape[1:3])
        through_query = torch.einsum("bhde,bnhe->bnhd", self.query_outer, query).flatten(-2)
        through_mean = self.mean_query.mean_matrix_over(self.cells.values(self.tokens), self.cells.centred_key)
        return (through_mean + through_query) / self.tokens.shape[1]

    def _share(self, gamma: Float[Tensor, "K B W"]) -> Float[Tensor, "K B D"]:
        """1/N of the gradient at the mean."""
        by_head = gamma.unflatten(-1, self.query_outer.shape[1:3])
        through_query = torch.einsum("kbhd,bhde->kbhe", by_head, self.query_outer).flatten(-2) @ self.query_weight
        return (self.mean_query.mean(gamma) + through_query) / self.tokens.shape[1]
