"""What a method asks of a gradient, and what one forward pass keeps for it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from concept_cam.backbones.backbone import Backbone
from concept_cam.backbones.site import FeatureMap, Site, TokenLayout


@dataclass(frozen=True)
class TokenGradient(ABC):
    """G = dS/dA of K scores at the patch tokens A of B images, answered as far as a method asks.

    Attributes:
        tokens: the patch tokens A.
        layout: how they lie on the image.
    """

    tokens: Float[Tensor, "B N D"]
    layout: TokenLayout

    @abstractmethod
    def mean(self) -> Float[Tensor, "K B D"]:
        """G averaged over the patches."""

    @abstractmethod
    def dot_tokens(self) -> Float[Tensor, "K B N"]:
        """<G_n, A_n> for every patch."""

    @abstractmethod
    def mean_dot_tokens(self) -> Float[Tensor, "K B N"]:
        """<mean of G, A_n> for every patch."""

    @abstractmethod
    def dense(self) -> Iterator[Float[Tensor, "B N D"]]:
        """The whole of G, one direction at a time, so that no (K, B, N, D) is ever held."""


@final
@dataclass(frozen=True)
class WholeGradient(TokenGradient):
    """A gradient given as one dense (K, B, N, D) tensor."""

    whole: Float[Tensor, "K B N D"]

    def mean(self) -> Float[Tensor, "K B D"]:
        """G averaged over the patches."""
        return self.whole.mean(2)

    def dot_tokens(self) -> Float[Tensor, "K B N"]:
        """<G_n, A_n> for every patch."""
        return (self.whole * self.tokens).sum(-1)

    def mean_dot_tokens(self) -> Float[Tensor, "K B N"]:
        """<mean of G, A_n> for every patch."""
        return torch.einsum("kbd,bnd->kbn", self.mean(), self.tokens)

    def dense(self) -> Iterator[Float[Tensor, "B N D"]]:
        """The whole of G."""
        return iter(self.whole)


@dataclass(frozen=True)
class Trace(ABC):
    """One forward pass, kept: ask it for the gradient of any score.

    Attributes:
        form: of the gradient: ``factored`` (closed form) or ``dense`` (autograd).
        tokens: the patch tokens at the site.
        embedding: unit vectors, or what a linear classifier multiplies by its rows.
        site: where the tokens were read.
        layout: how they lie on the image.
        backbone: the model.
        pixels: its input.
        rounded: the precision it ran in: that of the caller's autocast, or its own.
    """

    form: ClassVar[Literal["factored", "dense"]]

    tokens: Float[Tensor, "B N D"]
    embedding: Float[Tensor, "B E"]
    site: Site
    layout: TokenLayout
    backbone: Backbone
    pixels: Float[Tensor, "B 3 height width"]
    rounded: torch.dtype

    @abstractmethod
    def gradient(self, directions: Float[Tensor, "K _ E"]) -> TokenGradient:
        """The gradient of S = <embedding, direction>, for K directions, each for all images or one for each."""

    @abstractmethod
    def matrix(self, method: Callable[[TokenGradient], Tensor]) -> Float[Tensor, "B N E"]:
        """F of a method that is linear in the direction: the map of any direction d is F d."""

    @final
    def again(self, pixels: Float[Tensor, "B 3 height2 width2"]) -> Trace:
        """The same site in the same form, after a forward pass of other pixels.

        Raises:
            BackboneError: the model cannot take pixels of that size, or the closed form does not hold for these.
        """
        size = int(pixels.shape[2]), int(pixels.shape[3])
        with ready(self.backbone.original.at_size(size), pixels, self.site.name) as prepared:
            return self._run(*prepared)

    @abstractmethod
    def _run(self, backbone: Backbone, pixels: Float[Tensor, "B 3 height width"], site: Site) -> Trace:
        """A trace of this form; see ``again``."""

    @final
    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Run pieces of the model as the whole of it ran: in evaluation mode, and in none of the caller's modes."""
        with evaluating(self.backbone):
            yield


@contextmanager
def evaluating(backbone: Backbone) -> Iterator[None]:
    """Run pieces of a model in evaluation mode, and in none of the caller's modes."""
    with backbone.evaluating(), torch.autocast(backbone.device.type, enabled=False):
        yield


def precision_now(backbone: Backbone) -> torch.dtype:
    """The precision in which a model would run: that of the caller's autocast, or its own."""
    kind = backbone.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else backbone.dtype


@contextmanager
def ready(
    backbone: Backbone, pixels: Float[Tensor, "B 3 height width"], site: str | None
) -> Iterator[tuple[Backbone, Float[Tensor, "B 3 height width"], Site]]:
    """The model as it is now, pixels that a graph can hold, and the site, for one forward pass in evaluation mode.

    Args:
        backbone: the model.
        pixels: its input.
        site: by name; the first by default.

    Raises:
        BackboneError: there is no such site.
    """
    with backbone.evaluating():
        backbone, size = backbone.current(), (pixels.shape[2], pixels.shape[3])
        if size != backbone.preprocess.size and isinstance(backbone.site(site).layout, FeatureMap):
            # A map of any size can be read, but where its cells look is another matter.
            backbone = backbone.original.at_size(size)
        yield backbone, pixels.clone() if pixels.is_inference() else pixels, backbone.site(site)
        backbone.original.settle()


def for_each(embedding: Tensor, directions: Tensor) -> Float[Tensor, "K B E"]:
    """Directions for every image, on the embedding's device and precision, usable by autograd."""
    directions = directions.to(embedding)
    if directions.is_inference():
        with torch.inference_mode(False):
            directions = directions.clone()
    return directions.expand(-1, len(embedding), -1)


def first_output(output: Any) -> Tensor:
    """The tokens of a module that gives more than those."""
    tokens: Tensor = output[0] if isinstance(output, tuple) else output
    return tokens
