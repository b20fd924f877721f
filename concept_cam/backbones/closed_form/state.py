"""What a closed form has read of a batch, and the four questions it answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from concept_cam.backbones.closed_form.end import End

Rest = Callable[..., Tensor]
"""From pooled vectors to embeddings before they are normalised, any number of vectors at once."""


class HeadState(ABC):
    """What a head has read of a batch; K directions, B images, N patches, D channels, W of them after pooling.

    Gamma (K, B, W) is dS/do, the gradient of K scores at the pooled vectors. G (K, B, N, D) is that at the patch tokens.

    Attributes:
        tokens: the patch tokens A.
        pooled: the vector o that pooling made of them.
        end: the layers after pooling and the residual that o is added to, if these layers are plain.
    """

    tokens: Float[Tensor, "B N D"]
    pooled: Float[Tensor, "B W"]
    end: tuple[End, Float[Tensor, "B D"]] | None = None

    @abstractmethod
    def finish(self, pooled: Float[Tensor, "K B W"]) -> Float[Tensor, "K B E"]:
        """From pooled vectors to embeddings before they are normalised."""

    @abstractmethod
    def mean(self, gamma: Float[Tensor, "K B W"]) -> Float[Tensor, "K B D"]:
        """The gradient averaged over the patches."""

    def dot_tokens(self, gamma: Float[Tensor, "K B W"]) -> Float[Tensor, "K B N"]:
        """<G_n, A_n> for every patch."""
        return dot(gamma, self.dot_tokens_matrix())

    def mean_dot_tokens(self, gamma: Float[Tensor, "K B W"]) -> Float[Tensor, "K B N"]:
        """<mean of G, A_n> for every patch."""
        return dot(gamma, self.mean_dot_tokens_matrix())

    @abstractmethod
    def dot_tokens_matrix(self) -> Float[Tensor, "B N W"]:
        """The matrix L with <G_n, A_n> = gamma . L_n, whatever gamma is."""

    @abstractmethod
    def mean_dot_tokens_matrix(self) -> Float[Tensor, "B N W"]:
        """The matrix L with <mean of G, A_n> = gamma . L_n, whatever gamma is."""

    @abstractmethod
    def dense(self, gamma: Float[Tensor, "K B W"]) -> Iterator[Float[Tensor, "B N D"]]:
        """The whole gradient, one direction at a time."""


def dot(gamma: Float[Tensor, "K B W"], linear: Float[Tensor, "B N W"]) -> Float[Tensor, "K B N"]:
    """Gamma . L_n for every patch."""
    return torch.einsum("kbw,bnw->kbn", gamma, linear)
