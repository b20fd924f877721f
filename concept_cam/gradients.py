"""BACKPROP: run the model once, then ask for the gradient of any number of scores at the patch tokens.

The only file with ``torch.autograd``. Two implementations answer the same questions: *dense*, by autograd from
a cut at the site, for any site of any model; and *factored*, in closed form, where the site has a head that knows the way from
there to the embedding. Neither leaves a trace on the model.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, final, get_args
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from concept_cam.backbones.backbone import Backbone, Site, TokenLayout
from concept_cam.backbones.heads import Reading
from concept_cam.errors import BackboneError, NoSpatialGradient
from concept_cam.hooks import on_output

Form = Literal["auto", "factored", "dense"]

_CHUNK = 4096
"""Most vectors that go through the end of the model at once; bounds memory whatever the number of directions."""

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


@dataclass(frozen=True)
class TokenGradient(ABC):
    """G = dS/dA of K scores at the patch tokens A of B pictures, answered as far as a method asks.

    Attributes:
        tokens: the patch tokens A.
        layout: how they lie on the picture.
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
    def dense(self) -> Iterator[Float[Tensor, "B N D"]]:
        """The whole of G, one direction at a time, so that no (K, B, N, D) is ever held."""


@dataclass(frozen=True)
class Trace(ABC):
    """One forward pass, kept: ask it for the gradient of any score.

    Attributes:
        tokens: the patch tokens at the site.
        embedding: unit vectors, or what a linear classifier multiplies by its rows.
        site: where the tokens were read.
        layout: how they lie on the picture.
    """

    tokens: Float[Tensor, "B N D"]
    embedding: Float[Tensor, "B E"]
    site: Site
    layout: TokenLayout

    @abstractmethod
    def gradient(self, directions: Float[Tensor, "K _ E"]) -> TokenGradient:
        """The gradient of S = <embedding, direction>, for K directions, each for all pictures or one for each."""


def trace(
    backbone: Backbone,
    pixels: Float[Tensor, "B 3 height width"],
    site: str | None = None,
    form: Form = "auto",
) -> Trace:
    """Run the model once and keep what gradients need.

    Works inside the caller's ``no_grad`` and ``inference_mode`` and with frozen parameters. The model is put into evaluation
    mode for the run and back afterwards: with dropout a map would be noise, and tokens may be missing.

    Args:
        backbone: the model.
        pixels: its input, on its device and in its precision.
        site: the name of one of ``backbone.sites``; the first by default.
        form: ``factored`` (closed form), ``dense`` (autograd), or by default factored where it exists and is exact.

    Raises:
        BackboneError: there is no such site, or no closed form for it.

    Example:
        >>> import torch
        >>> from concept_cam import fieldguide, trace
        >>> seen = trace(fieldguide.localizer().backbone, torch.zeros(1, 3, 96, 96))
        >>> seen.tokens.shape, seen.gradient(torch.ones(5, 1, 192)).mean().shape
        (torch.Size([1, 144, 192]), torch.Size([5, 1, 192]))
    """
    if form not in get_args(Form):
        raise BackboneError(f"No form {form!r} of a gradient; there are {', '.join(get_args(Form))}.")
    chosen = backbone.site(site)
    if form == "factored" and chosen.head is None:
        raise BackboneError(f"{backbone.name} has no closed form at {chosen.name}; use form='dense'.")
    factored = form == "factored" or (form == "auto" and has_exact_head(backbone, chosen))
    with backbone.at_rest():
        pixels = pixels.clone() if pixels.is_inference() else pixels
        return _read_head(backbone, pixels, chosen) if factored else _cut(backbone, pixels, chosen)


def has_exact_head(backbone: Backbone, site: Site) -> bool:
    """Whether the closed form of a site gives the model's own embedding, with a warning if not.

    Libraries change their insides, and users theirs. A closed form that no longer fits must cost speed, never a wrong map.
    It is tried once, and again when a module is replaced or patched; a class that is patched in place goes unnoticed.
    """
    # The structure is that of the model at any size.
    backbone = backbone.original
    site = backbone.site(site.name)
    if site.head is None:
        return False
    verdicts, key = _VERDICTS.setdefault(backbone, {}), (site.name, backbone.structure())
    if key not in verdicts:
        # In the model's own precision: what the caller's autocast rounds off says nothing about the formula.
        with backbone.at_rest(), torch.autocast(backbone.device.type, enabled=False):
            noise = torch.randn((2, 3, *backbone.preprocess.size), generator=torch.Generator().manual_seed(0))
            pixels = noise.to(backbone.device, backbone.dtype)
            own = backbone.normalize(backbone.embed_pixels(pixels))
            try:
                off = _read_head(backbone, pixels, site).embedding - own
                error = (off.norm(dim=-1) / own.norm(dim=-1)).max().item()
            except torch.cuda.OutOfMemoryError:
                raise
            except (RuntimeError, AttributeError, TypeError, ValueError) as failure:
                error, reason = float("inf"), f"it fails ({failure})"
            else:
                reason = f"its embedding is off by {error:.1e}"
        verdicts[key] = error <= _TOLERANCE.get(backbone.dtype, 1e-4)
        if not verdicts[key]:
            warnings.warn(
                f"The closed form for {site.name} of {backbone.name} does not fit the model: {reason}. "
                "Gradients come from autograd instead, which is slower.",
                stacklevel=2,
            )
    return verdicts[key]


_VERDICTS: WeakKeyDictionary[Backbone, dict[Hashable, bool]] = WeakKeyDictionary()


def _first(output: Any) -> Tensor:
    """The tokens of a module that gives more than those."""
    tokens: Tensor = output[0] if isinstance(output, tuple) else output
    return tokens


# ---- dense ------------------------------------------------------------------------------------------------------------


def _cut(backbone: Backbone, pixels: Tensor, site: Site) -> DenseTrace:
    leaves: list[Tensor] = []

    def cut(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        # Gradients are on from here to the end of the run: nothing before the cut is part of a graph.
        torch.set_grad_enabled(True)
        leaves.append(_first(output).detach().requires_grad_())
        return (leaves[-1], *output[1:]) if isinstance(output, tuple) else leaves[-1]

    with torch.no_grad(), on_output(site.module, cut):
        embedding = backbone.normalize(backbone.embed_pixels(pixels))
    if len(leaves) != 1:
        raise BackboneError(f"{site.name} ran {len(leaves)} times in one forward pass; expected once.")
    tokens, layout = site.layout.read(leaves[0].detach())
    others = tuple(other.name for other in backbone.sites if other.name != site.name)
    return DenseTrace(tokens[:, layout.prefix :], embedding.detach(), site, layout, leaves[0], embedding, others)


@final
@dataclass(frozen=True)
class DenseTrace(Trace):
    """A graph from the output of the site to the embedding, and to nothing else."""

    leaf: Float[Tensor, "B ..."]
    graph: Float[Tensor, "B E"]
    other_sites: tuple[str, ...]

    def gradient(self, directions: Float[Tensor, "K _ E"]) -> TokenGradient:
        """One pass backwards for each direction, when it is asked for."""
        return DenseGradient(self.tokens, self.layout, self, _for_each(self.embedding, directions))


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

    def dense(self) -> Iterator[Float[Tensor, "B N D"]]:
        """The whole of G.

        Raises:
            NoSpatialGradient: no patch reaches the embedding from here.
        """
        trace = self.trace
        for direction in self.directions:
            with torch.inference_mode(False), torch.enable_grad():
                (whole,) = torch.autograd.grad(trace.graph, trace.leaf, direction, retain_graph=True, allow_unused=True)
            patches = None if whole is None else trace.site.layout.read(whole)[0][:, self.layout.prefix :]
            if patches is None or (not patches.any() and direction.any()):
                raise NoSpatialGradient(
                    f"No patch token at {trace.site.name} reaches the embedding, so every map would be blank. "
                    f"Other sites of this model: {', '.join(trace.other_sites) or 'none'}."
                )
            yield patches


def _for_each(embedding: Tensor, directions: Tensor) -> Float[Tensor, "K B E"]:
    """Directions for every picture, on the embedding's device and precision, usable by autograd."""
    directions = directions.to(embedding)
    if directions.is_inference():
        with torch.inference_mode(False):
            directions = directions.clone()
    return directions.expand(-1, len(embedding), -1)


# ---- factored ---------------------------------------------------------------------------------------------------------


class _SiteReached(Exception):
    """Ends a forward pass: nothing after the site is needed."""


def _read_head(backbone: Backbone, pixels: Tensor, site: Site) -> FactoredTrace:
    read: list[tuple[Tensor, Tensor]] = []

    def stop(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        read.append((inputs[0], _first(output)))
        raise _SiteReached

    with on_output(site.module, stop), suppress(_SiteReached):
        backbone.embed_pixels(pixels)
    if not read or site.head is None:
        raise BackboneError(f"{site.name} did not run in a forward pass of {backbone.name}.")
    entering, output = read[0]
    tokens, layout = site.layout.read(output)
    # The caller's autocast is for the trunk; the closed form is computed in the precision of its own parameters.
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
        spread = _for_each(self.embedding, directions)
        chunk = max(1, _CHUNK // len(self.embedding))
        device = self.embedding.device.type
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device, enabled=False):
            gamma = torch.cat([self._pull(part) for part in spread.split(chunk)])
        return FactoredGradient(self.tokens, self.layout, self.reading, gamma)

    def _pull(self, directions: Float[Tensor, "K B E"]) -> Float[Tensor, "K B D"]:
        pooled = self.reading.pooled.expand(len(directions), -1, -1).detach().clone().requires_grad_()
        embedding = self.normalize(self.reading.finish(pooled))
        (gamma,) = torch.autograd.grad(embedding, pooled, directions)
        return gamma


@final
@dataclass(frozen=True)
class FactoredGradient(TokenGradient):
    """G in closed form; see ``concept_cam.backbones.heads``."""

    reading: Reading
    gamma: Float[Tensor, "K B D"]

    def mean(self) -> Float[Tensor, "K B D"]:
        """G averaged over the patches."""
        return self.reading.mean(self.gamma)

    def dot_tokens(self) -> Float[Tensor, "K B N"]:
        """<G_n, A_n> for every patch."""
        return self.reading.dot_tokens(self.gamma)

    def dense(self) -> Iterator[Float[Tensor, "B N D"]]:
        """The whole of G."""
        return self.reading.dense(self.gamma)
