"""An attention with a learned query becomes the embedding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from concept_cam.backbones.block import Block, Projections
from concept_cam.backbones.closed_form import Head, LatentAttention, Rest
from concept_cam.backbones.pooling.pooling import Pooling
from concept_cam.backbones.site import Site


@final
@dataclass(frozen=True)
class LatentPooling(Pooling):
    """An attention with a learned query over the tokens at a site. The closed form is at that site.

    Attributes:
        site: the norm whose output the attention reads.
        projections: of the attention.
        latent: the query before its projection, (D,).
        rest: from the attention's output (..., D) to the embedding (..., E).
        reads_prefix: the latent attends to the prefix as well as to the patches.
    """

    site: Site
    projections: Callable[[], Projections]
    latent: Callable[[], Tensor]
    rest: Rest
    reads_prefix: bool = True

    attends: ClassVar[bool] = True

    def weights(self, tokens: Float[Tensor, "B M D"]) -> Float[Tensor, "B H M"]:
        """The attention of the latent."""
        own = self.projections()
        query = F.linear(self.latent().detach().to(tokens), *own.query).unflatten(-1, (own.heads, -1))
        key = F.linear(self.site.module(tokens), *own.key).unflatten(-1, (own.heads, -1))
        logits = torch.einsum("hd,bmhd->bhm", query, key) * query.shape[-1] ** -0.5
        if not self.reads_prefix:
            logits[..., : self.site.prefix] = -torch.inf
        weights: Tensor = logits.softmax(-1)
        return weights

    def values(self, tokens: Float[Tensor, "B M D"]) -> Float[Tensor, "B M W"]:
        """The values of the attention."""
        return F.linear(self.site.module(tokens), *self.projections().value)

    def finish(self, pooled: Float[Tensor, "*batch W"]) -> Float[Tensor, "*batch E"]:
        """The output projection, the MLP and the rest."""
        return self.rest(pooled)

    def closed_form(self, blocks: Sequence[Block | None], sites: Sequence[Site]) -> tuple[Site, Head]:
        """At the norm before the attention."""
        return self.site, LatentAttention(self.projections, self.latent, self.rest, self.reads_prefix)
