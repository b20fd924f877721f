"""G in closed form, where a head knows the way from the site to the embedding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from concept_cam.backbones.backbone import Backbone, Site
from concept_cam.backbones.heads import Reading
from concept_cam.errors import BackboneError
from concept_cam.gradients.base import TokenGradient, Trace, first_output, for_each
from concept_cam.hooks import on_output

_CHUNK = 4096
"""Most vectors that go through the end of the model at once; bounds memory whatever the number of directions."""


class _SiteReached(Exception):
    """Ends a forward pass: nothing after the site is needed."""


def read_head(backbone: Backbone, pixels: Float[Tensor, "B 3 height width"], site: Site) -> FactoredTrace:
    """Run the model as far as the site, and let the head read what is there."""
    read: list[tuple[Tensor, Tensor]] = []

    def stop(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        read.append((inputs[0], first_output(output)))
        raise _SiteReached

    with on_output(site.module, stop), suppress(_SiteReached):
        backbone.embed_pixels(pixels)
    if not read:
        raise BackboneError(f"{site.name} did not run in a forward pass of {backbone.name}.")
    return read_output(backbone, site, *read[0])


def read_output(backbone: Backbone, site: Site, entering: Tensor, output: Tensor) -> FactoredTrace:
    """Let the head read what entered the site and what left it.

    Raises:
        BackboneError: the site has no closed form.
    """
    if site.head is None:
        raise BackboneError(f"{backbone.name} has no closed form at {site.name}; use form='dense'.")
    # The caller's autocast is for the trunk; the closed form is computed in the precision of the model's own parameters.
    tokens, layout = site.layout.read(output.to(backbone.dtype))
    with torch.autocast(backbone.device.type, enabled=False):
        reading = site.head.read(entering, tokens, layout.prefix)
        embedding = backbone.normalize(reading.finish(reading.pooled[None])[0])
    return FactoredTrace(reading.tokens, embedding, site, layout, reading, backbone.normalize)


@final
@dataclass(frozen=True)
class FactoredTrace(Trace):
    """What the head has read; the rest of the model is one vector a picture."""

    reading: Reading
    normalize: Callable[[Tensor], Tensor]

    def gradient(self, directions: Float[Tensor, "K _ E"]) -> TokenGradient:
        """Gamma = dS/do for all directions: one vector a picture, so K of them go through as one batch."""
        spread = for_each(self.embedding, directions)
        chunk = max(1, _CHUNK // len(self.embedding))
        device = self.embedding.device.type
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device, enabled=False):
            gamma = torch.cat([self._pull(part) for part in spread.split(chunk)])
        return FactoredGradient(self.tokens, self.layout, self.reading, gamma)

    def _pull(self, directions: Float[Tensor, "K B E"]) -> Float[Tensor, "K B W"]:
        pooled = self.reading.pooled.expand(len(directions), -1, -1).detach().clone().requires_grad_()
        embedding = self.normalize(self.reading.finish(pooled))
        (gamma,) = torch.autograd.grad(embedding, pooled, directions)
        return gamma


@final
@dataclass(frozen=True)
class FactoredGradient(TokenGradient):
    """G in closed form; see ``concept_cam.backbones.heads``."""

    reading: Reading
    gamma: Float[Tensor, "K B W"]

    def mean(self) -> Float[Tensor, "K B D"]:
        """G averaged over the patches."""
        return self.reading.mean(self.gamma)

    def dot_tokens(self) -> Float[Tensor, "K B N"]:
        """<G_n, A_n> for every patch."""
        return self.reading.dot_tokens(self.gamma)

    def dense(self) -> Iterator[Float[Tensor, "B N D"]]:
        """The whole of G."""
        return self.reading.dense(self.gamma)
