"""What a head is asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from concept_cam.backbones.heads.end import End

Rest = Callable[..., Tensor]
"""All that comes after pooling, up to the embedding before it is normalised: any number of vectors in, as many out."""


class HeadState(ABC):
    """What a head has read of a batch; K directions, B images, N patches, D channels, W of them after pooling.

    Attributes:
        tokens: the patch tokens A.
        pooled: the vector o that pooling made of them.
        end: what comes after, and the residual that o is added to, where it is plain.
    """

    tokens: Float[Tensor, "B N D"]
    pooled: Float[Tensor, "B W"]
    end: tuple[End, Float[Tensor, "B D"]] | None = None

    @abstractmethod
    def finish(self, pooled: Float[Tensor, "K B W"]) -> Float[Tensor, "K B E"]:
        """All that comes after pooling, up to the embedding before it is normalised."""

    @abstractmethod
    def mean(self, gamma: Float[Tensor, "K B W"]) -> Float[Tensor, "K B D"]:
        """The gradient averaged over the patches."""

    @abstractmethod
    def dot_tokens(self, gamma: Float[Tensor, "K B W"]) -> Float[Tensor, "K B N"]:
        """<G_n, A_n> for every patch."""

    @abstractmethod
    def mean_dot_tokens(self, gamma: Float[Tensor, "K B W"]) -> Float[Tensor, "K B N"]:
        """<mean of G, A_n> for every patch."""

    @abstractmethod
    def each(self) -> Float[Tensor, "B N W"]:
        """L with <G_n, A_n> = gamma . L_n."""

    @abstractmethod
    def averaged(self) -> Float[Tensor, "B N W"]:
        """L with <mean of G, A_n> = gamma . L_n."""

    @abstractmethod
    def dense(self, gamma: Float[Tensor, "K B W"]) -> Iterator[Float[Tensor, "B N D"]]:
        """The whole gradient, one direction at a time."""


def dot(gamma: Float[Tensor, "K B W"], linear: Float[Tensor, "B N W"]) -> Float[Tensor, "K B N"]:
    """Gamma . L_n for every patch."""
    return torch.einsum("kbw,bnw->kbn", gamma, linear)


class Head(ABC):
    """The way from the tokens of a site to the embedding.

    Attributes:
        around: the block that the site is in, whose input is all that the model holds of the batch; None if the site's own
            output is.
        by_row: a module that makes each token into another by itself, and of which the class token alone is of use.
    """

    around: nn.Module | None = None
    by_row: nn.Module | None = None

    @abstractmethod
    def read(self, entering: Tensor, tokens: Float[Tensor, "B M D"], prefix: int) -> HeadState:
        """Read the site: what entered its module, and the tokens that left it, prefix first."""
