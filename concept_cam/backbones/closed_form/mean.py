"""A mean over the patches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from concept_cam.backbones.closed_form.head import Head
from concept_cam.backbones.closed_form.state import HeadState, Rest, dot


@final
@dataclass(frozen=True)
class Mean(Head):
    """The mean of the patch tokens that leave the site, then ``rest``: from (..., D) to the embedding (..., E)."""

    rest: Rest

    def read(self, entering: Tensor, tokens: Float[Tensor, "B M D"], prefix: int) -> HeadState:
        """The patch tokens and their mean."""
        patches = tokens[:, prefix:]
        return MeanState(patches, patches.mean(1), self.rest)


@final
@dataclass(frozen=True)
class MeanState(HeadState):
    """What a mean has read: every patch has the same gradient, gamma / N."""

    tokens: Float[Tensor, "B N D"]
    pooled: Float[Tensor, "B D"]
    rest: Rest

    def finish(self, pooled: Float[Tensor, "K B D"]) -> Float[Tensor, "K B E"]:
        """The norm, if it follows the mean, and the projection."""
        return self.rest(pooled)

    def mean(self, gamma: Float[Tensor, "K B D"]) -> Float[Tensor, "K B D"]:
        """Gamma / N."""
        return gamma / self.tokens.shape[1]

    def dot_tokens(self, gamma: Float[Tensor, "K B D"]) -> Float[Tensor, "K B N"]:
        """Gamma . A_n / N."""
        return dot(self.mean(gamma), self.tokens)

    def mean_dot_tokens(self, gamma: Float[Tensor, "K B D"]) -> Float[Tensor, "K B N"]:
        """Gamma . A_n / N: all patches have the same gradient."""
        return self.dot_tokens(gamma)

    def dot_tokens_matrix(self) -> Float[Tensor, "B N D"]:
        """A_n / N."""
        return self.tokens / self.tokens.shape[1]

    def mean_dot_tokens_matrix(self) -> Float[Tensor, "B N D"]:
        """A_n / N."""
        return self.dot_tokens_matrix()

    def dense(self, gamma: Float[Tensor, "K B D"]) -> Iterator[Float[Tensor, "B N D"]]:
        """Gamma / N for every patch."""
        for row in self.mean(gamma):
            yield row[:, None].expand_as(self.tokens)
