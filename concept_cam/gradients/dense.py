"""G by autograd, from a cut at the site: for any site of any model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from concept_cam.backbones.backbone import Backbone
from concept_cam.backbones.site import Site
from concept_cam.errors import BackboneError, NoSpatialGradient
from concept_cam.gradients.base import TokenGradient, Trace, for_each, precision_now
from concept_cam.gradients.jacobian import pull_one
from concept_cam.hooks import on_site


def cut_at(backbone: Backbone, pixels: Float[Tensor, "B 3 height width"], site: Site) -> tuple[DenseTrace, Tensor]:
    """Run the model with a graph from the site on; also gives what entered the site.

    Args:
        backbone: the model.
        pixels: its input, on its device and in its precision.
        site: where the graph begins.
    """
    seen: list[tuple[Tensor, Tensor]] = []

    def cut(entering: Any, tensor: Tensor) -> Tensor:
        # Gradients are on from here to the end of the run: nothing before the cut is part of a graph.
        torch.set_grad_enabled(True)
        leaf = tensor.detach().requires_grad_()
        seen.append((entering, leaf))
        # A copy goes on: the model may write into it.
        return leaf.clone()

    with torch.no_grad(), on_site(site, cut):
        embedding = backbone.normalize(backbone.embed_pixels(pixels))
    if len(seen) != 1:
        raise BackboneError(f"{site.name} ran {len(seen)} times in one forward pass; expected once.")
    if not embedding.requires_grad:
        raise BackboneError(
            f"No gradient goes from the embedding of {backbone.name} back to {site.name}: a layer in between has none, as "
            "quantized layers have not; use the model before it was quantized, or another site."
        )
    entering, leaf = seen[0]
    tokens, layout = site.layout.read(leaf.detach())
    others = tuple(other.name for other in backbone.sites if other.name != site.name)
    return DenseTrace(
        tokens[:, layout.prefix :],
        embedding.detach(),
        site,
        layout,
        backbone,
        pixels,
        precision_now(backbone),
        leaf,
        embedding,
        others,
    ), entering


@final
@dataclass(frozen=True)
class DenseTrace(Trace):
    """A graph from the output of the site to the embedding, and to nothing else."""

    form = "dense"

    leaf: Float[Tensor, "B ..."]
    graph: Float[Tensor, "B E"]
    other_sites: tuple[str, ...]

    def gradient(self, directions: Float[Tensor, "K _ E"]) -> TokenGradient:
        """One pass backwards for each direction, when it is asked for."""
        return DenseGradient(self.tokens, self.layout, self, for_each(self.embedding, directions))

    def matrix(self, method: Callable[[TokenGradient], Tensor]) -> Float[Tensor, "B N E"]:
        """By as many passes backwards as the embedding has numbers."""
        units = torch.eye(self.embedding.shape[-1], device=self.embedding.device, dtype=self.embedding.dtype)[:, None]
        return method(self.gradient(units)).flatten(2).permute(1, 2, 0).contiguous()

    def _run(self, backbone: Backbone, pixels: Float[Tensor, "B 3 height width"], site: Site) -> Trace:
        return cut_at(backbone, pixels, site)[0]


@final
@dataclass(frozen=True)
class DenseGradient(TokenGradient):
    """G by autograd."""

    trace: DenseTrace
    directions: Float[Tensor, "K B E"]

    def mean(self) -> Float[Tensor, "K B D"]:
        """G averaged over the patches."""
        return torch.stack([gradient.mean(1) for gradient in self.dense()])

    def dot_tokens(self) -> Float[Tensor, "K B N"]:
        """<G_n, A_n> for every patch."""
        return torch.stack([(gradient * self.tokens).sum(-1) for gradient in self.dense()])

    def mean_dot_tokens(self) -> Float[Tensor, "K B N"]:
        """<mean of G, A_n> for every patch."""
        return torch.einsum("kbd,bnd->kbn", self.mean(), self.tokens)

    def dense(self) -> Iterator[Float[Tensor, "B N D"]]:
        """The whole of G; zero for a direction that nothing here moves, such as a unit of the embedding that is at rest.

        Raises:
            NoSpatialGradient: after the last, if no direction is moved from here.
        """
        some = False
        for direction in self.directions:
            patches = self._pulled(direction)
            some = some or bool(patches.any()) or not direction.any()
            yield patches
        if not some:
            raise NoSpatialGradient(self._why())

    def _pulled(self, direction: Float[Tensor, "B E"]) -> Float[Tensor, "B N D"]:
        trace = self.trace
        if not trace.graph.requires_grad:
            return torch.zeros_like(self.tokens)
        (whole,) = pull_one(trace.graph, [trace.leaf], direction, zeros=True)
        return trace.site.layout.read(whole)[0][:, self.layout.prefix :]

    def _why(self) -> str:
        trace = self.trace
        anything = torch.randn(
            trace.graph.shape, generator=torch.Generator("cpu").manual_seed(0), dtype=torch.float32, device="cpu"
        )
        if self._pulled(anything.to(trace.graph)).any():
            return (
                f"Nothing at {trace.site.name} moves the score that was asked for: the units of the embedding that it reads "
                "are at rest on these images (a ReLU at 0, say), so every map would be blank."
            )
        return (
            f"No patch token at {trace.site.name} reaches the embedding, so every map would be blank. "
            f"Other sites of this model: {', '.join(trace.other_sites) or 'none'}."
        )
