"""An attention whose query is the mean of the cells becomes the embedding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from concept_cam.backbones.block import Block, Projections
from concept_cam.backbones.closed_form import Head, MeanQueryAttention, Rest
from concept_cam.backbones.pooling.pooling import Pooling
from concept_cam.backbones.site import Site


@final
@dataclass(frozen=True)
class MeanQuery(Pooling):
    """The pooling of CLIP's ResNets: the query is the mean of the cells, keys and values are of the mean and the cells.

    Attributes:
        site: whose cells are pooled.
        projections: of the attention.
        positions: added to the mean and to the cells, (1 + N, D).
        rest: from the attention's output (..., D) to the embedding (..., E).
    """

    site: Site
    projections: Callable[[], Projections]
    positions: Callable[[], Tensor]
    rest: Rest

    attends: ClassVar[bool] = True

    def weights(self, tokens: Float[Tensor, "B M D"]) -> Float[Tensor, "B H M"]:
        """The attention to each cell plus its share, 1/N, of the attention to the mean."""
        state = self._head().read(tokens, tokens, 0)
        return (state.cells.attention + state.mean_query.attention / tokens.shape[1]).transpose(1, 2)

    def values(self, tokens: Float[Tensor, "B M D"]) -> Float[Tensor, "B M W"]:
        """The values of the cells without positions, plus what positions add to the pooled vector, the same for all."""
        state, weights = self._head().read(tokens, tokens, 0), self.weights(tokens)
        values = F.linear(tokens, *self.projections().value)
        by_head = values.unflatten(-1, (weights.shape[1], -1))
        pooled = torch.einsum("bhm,bmhd->bhd", weights, by_head).flatten(1)
        return values + (state.pooled - pooled)[:, None]

    def finish(self, pooled: Float[Tensor, "*batch W"]) -> Float[Tensor, "*batch E"]:
        """The output projection."""
        return self.rest(pooled)

    def closed_form(self, blocks: Sequence[Block | None], sites: Sequence[Site]) -> tuple[Site, Head]:
        """At the map that is pooled."""
        return self.site, self._head()

    def _head(self) -> MeanQueryAttention:
        return MeanQueryAttention(self.projections, self.positions, self.rest)
