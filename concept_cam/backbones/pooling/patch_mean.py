"""The mean of the patches, or of the cells of a map, becomes the embedding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from concept_cam.backbones.block import Block
from concept_cam.backbones.closed_form import Head, Mean, Rest
from concept_cam.backbones.pooling.pooling import Pooling
from concept_cam.backbones.site import Site


@final
@dataclass(frozen=True)
class PatchMean(Pooling):
    """The mean of the tokens at a site, without the prefix. The closed form is at that site.

    Attributes:
        site: whose tokens are averaged.
        rest: from the mean to the embedding.
        before: from the output of the last block to the tokens that are averaged: a norm, or the identity.
    """

    site: Site
    rest: Rest
    before: Callable[[Tensor], Tensor] = lambda tokens: tokens

    def weights(self, tokens: Float[Tensor, "B M D"]) -> Float[Tensor, "B 1 M"]:
        """The same for every patch."""
        prefix = self.site.prefix
        weights = tokens.new_zeros(len(tokens), 1, tokens.shape[1])
        weights[..., prefix:] = 1 / (tokens.shape[1] - prefix)
        return weights

    def values(self, tokens: Float[Tensor, "B M D"]) -> Float[Tensor, "B M D"]:
        """The tokens, after the norm if it comes before the mean."""
        return self.before(tokens)

    def finish(self, pooled: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch E"]:
        """The norm, if it follows the mean, and the projection."""
        return self.rest(pooled)

    def closed_form(self, blocks: Sequence[Block | None], sites: Sequence[Site]) -> tuple[Site, Head]:
        """At the site whose tokens are averaged."""
        return self.site, Mean(self.rest)
