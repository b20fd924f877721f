"""How the tokens that leave the last block become an embedding, with explicit weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from concept_cam.backbones.block import Block
from concept_cam.backbones.closed_form import Head
from concept_cam.backbones.site import Site


class Pooling(ABC):
    """Weights on M tokens, for each of H heads, and what becomes of the weighted sum: B embeddings of E numbers."""

    attends: ClassVar[bool] = False
    """The weights are an attention of its own, computed from the tokens; else they are the same whatever the tokens hold."""

    @abstractmethod
    def weights(self, tokens: Float[Tensor, "B M D"]) -> Float[Tensor, "B H M"]:
        """How much of each token each head takes; they sum to one."""

    @abstractmethod
    def values(self, tokens: Float[Tensor, "B M D"]) -> Float[Tensor, "B M W"]:
        """What of each token is taken, W = H d."""

    @abstractmethod
    def finish(self, pooled: Float[Tensor, "*batch W"]) -> Float[Tensor, "*batch E"]:
        """From the pooled vectors to the embedding before it is normalised."""

    @abstractmethod
    def closed_form(self, blocks: Sequence[Block | None], sites: Sequence[Site]) -> tuple[Site, Head] | None:
        """The site at which the gradient has a closed form, and that closed form; None if there is none.

        Args:
            blocks: of the tower; None for a block that is not known.
            sites: of the tower.
        """

    @final
    def gather(self, tokens: Float[Tensor, "B M D"], weights: Float[Tensor, "B H M"]) -> Float[Tensor, "B W"]:
        """The weighted sum of the values, head by head."""
        values = self.values(tokens).unflatten(-1, (weights.shape[1], -1))
        return torch.einsum("bhm,bmhd->bhd", weights, values).flatten(1)

    @final
    def alone(self, tokens: Float[Tensor, "B M D"]) -> Float[Tensor, "B M E"]:
        """Embed each token as if it were the only one."""
        return self.finish(self.values(tokens))
