"""How the tokens that leave the last block become an embedding, with the weights in between laid open."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from concept_cam.backbones.heads.attention import LatentAttention
from concept_cam.backbones.heads.head import Rest


class Pooling(ABC):
    """Weights on the tokens, for each of H heads, and what is made of them."""

    @abstractmethod
    def weights(self, tokens: Float[Tensor, "B M D"]) -> Float[Tensor, "B H M"]:
        """How much of each token each head takes; they sum to one."""

    @abstractmethod
    def values(self, tokens: Float[Tensor, "B M D"]) -> Float[Tensor, "B M W"]:
        """What of each token is taken, W = H d."""

    @abstractmethod
    def finish(self, pooled: Float[Tensor, "*batch W"]) -> Float[Tensor, "*batch E"]:
        """All that comes after, up to the embedding before it is normalised."""

    @final
    def gather(self, tokens: Float[Tensor, "B M D"], weights: Float[Tensor, "B H M"]) -> Float[Tensor, "B W"]:
        """What the heads take."""
        values = self.values(tokens).unflatten(-1, (weights.shape[1], -1))
        return torch.einsum("bhm,bmhd->bhd", weights, values).flatten(1)

    @final
    def alone(self, tokens: Float[Tensor, "B M D"]) -> Float[Tensor, "B M E"]:
        """What the embedding would be if a token were all there is, for each."""
        return self.finish(self.values(tokens))


@final
@dataclass(frozen=True)
class ClassToken(Pooling):
    """The first token.

    Attributes:
        rest: from there to the embedding.
    """

    rest: Rest

    def weights(self, tokens: Float[Tensor, "B M D"]) -> Float[Tensor, "B 1 M"]:
        """One, and zeros."""
        weights = tokens.new_zeros(len(tokens), 1, tokens.shape[1])
        weights[..., 0] = 1
        return weights

    def values(self, tokens: Float[Tensor, "B M D"]) -> Float[Tensor, "B M D"]:
        """The tokens themselves."""
        return tokens

    def finish(self, pooled: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch E"]:
        """The norm and the projection."""
        return self.rest(pooled)


@final
@dataclass(frozen=True)
class PatchMean(Pooling):
    """The mean of the patches.

    Attributes:
        prefix: tokens that are no patches.
        before: what all tokens go through first.
        rest: from the mean to the embedding.
    """

    prefix: int
    before: Callable[[Tensor], Tensor]
    rest: Rest

    def weights(self, tokens: Float[Tensor, "B M D"]) -> Float[Tensor, "B 1 M"]:
        """The same for every patch."""
        weights = tokens.new_zeros(len(tokens), 1, tokens.shape[1])
        weights[..., self.prefix :] = 1 / (tokens.shape[1] - self.prefix)
        return weights

    def values(self, tokens: Float[Tensor, "B M D"]) -> Float[Tensor, "B M D"]:
        """The tokens, behind a norm if it comes before the mean."""
        return self.before(tokens)

    def finish(self, pooled: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch E"]:
        """The norm, if it comes after the mean, and the projection."""
        return self.rest(pooled)


@final
@dataclass(frozen=True)
class LatentPooling(Pooling):
    """An attention with a learned query.

    Attributes:
        head: that attention.
        prefix: tokens that are no patches.
        before: the norm that tokens go through first.
    """

    head: LatentAttention
    prefix: int
    before: Callable[[Tensor], Tensor]

    def weights(self, tokens: Float[Tensor, "B M D"]) -> Float[Tensor, "B H M"]:
        """The attention of the latent."""
        own = self.head.projections()
        query = F.linear(self.head.latent().detach().to(tokens), *own.query).unflatten(-1, (own.heads, -1))
        key = F.linear(self.before(tokens), *own.key).unflatten(-1, (own.heads, -1))
        logits = torch.einsum("hd,bmhd->bhm", query, key) * query.shape[-1] ** -0.5
        if not self.head.asks_prefix:
            logits[..., : self.prefix] = -torch.inf
        weights: Tensor = logits.softmax(-1)
        return weights

    def values(self, tokens: Float[Tensor, "B M D"]) -> Float[Tensor, "B M W"]:
        """Those of the attention."""
        return F.linear(self.before(tokens), *self.head.projections().value)

    def finish(self, pooled: Float[Tensor, "*batch W"]) -> Float[Tensor, "*batch E"]:
        """The output projection, the MLP and what else there is."""
        return self.head.rest(pooled)
