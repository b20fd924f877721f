"""G in closed form, where a head knows the way from the site to the embedding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from concept_cam.backbones.backbone import Backbone
from concept_cam.backbones.block import Block
from concept_cam.backbones.closed_form import AttentionState, Head, HeadState
from concept_cam.backbones.site import Site
from concept_cam.errors import BackboneError
from concept_cam.gradients.alterations import alterations
from concept_cam.gradients.base import TokenGradient, Trace, first_output, for_each, precision_now
from concept_cam.gradients.folded import fold
from concept_cam.gradients.inputs import BlockInputs, keeping, last_blocks
from concept_cam.gradients.jacobian import NotForwards, pull, push
from concept_cam.gradients.tolerance import relative_error, tolerance
from concept_cam.hooks import on_input, on_site

_NOT_DENSE = " Leave out form='dense', or use hires_cam."


class UnlikeTheModel(BackboneError):
    """The closed form is not that of the model."""


class _SiteReached(Exception):
    """Ends a forward pass: nothing after the site is needed."""


class _Read(NamedTuple):
    """What a pass has left at a site, the model's own embedding of its first image, (1, E), and what blocks were to keep."""

    entering: Tensor
    output: Tensor
    own: Tensor
    kept: BlockInputs | None = None


def read_head(
    backbone: Backbone, pixels: Float[Tensor, "B 3 height width"], site: Site, depth: int | None = 0
) -> FactoredTrace:
    """Run the model as far as the site, and let the head read what is there.

    From there on the first image goes through the model alone, so that the embedding of the closed form is
    compared with the model's own in every pass.

    Args:
        backbone: the model.
        pixels: its input, on its device and in its precision.
        site: one that has a head.
        depth: of how many of the last blocks to keep the tokens, where the site is in the last; all if None.

    Raises:
        BackboneError: the site has no closed form, or did not run.
        UnlikeTheModel: the head gives another embedding than the model.
    """
    if site.head is None:
        raise BackboneError(f"{backbone.name} has no closed form at {site.name}; use form='dense'.")
    known, name = backbone.original.guard.verdicts, f"{site.name}: the first image goes on alone"
    read = _with_first_image(backbone, pixels, site, site.head, depth) if known.get(name, True) else None
    known[name] = read is not None
    read = read or _with_a_second_pass(backbone, pixels, site)
    seen = replace(read_output(backbone, pixels, site, read.entering, read.output), kept=read.kept)
    off = relative_error(seen.embedding[:1], read.own.to(seen.embedding))
    # Numbers that are none have an error of their own, whatever made the map.
    if not off <= tolerance(seen.rounded).embedding and read.own.isfinite().all():
        raise UnlikeTheModel(f"its embedding is off by {off:.1e}")
    return seen


def _with_first_image(backbone: Backbone, pixels: Tensor, site: Site, head: Head, depth: int | None) -> _Read | None:
    """Cut the batch down where one tensor holds all of it: at the site, or at the block around it."""
    entered: list[Tensor] = []
    read: list[tuple[Tensor, Tensor]] = []
    around = head.around

    def keep_first(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        entered.append(inputs[0])
        return (inputs[0][:1], *inputs[1:])

    def at_site(entering: Tensor, tensor: Tensor) -> Tensor | None:
        read.append((entering, tensor))
        return tensor[:1] if around is None else None

    def class_row(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        # The other rows are read by nobody after this.
        return (inputs[0][:, :1], *inputs[1:])

    blocks = () if depth == 0 or head.by_row is None else _blocks_to_keep(backbone, depth)
    with ExitStack() as stack:
        kept = stack.enter_context(keeping(blocks[:-1]))
        if around is not None:
            stack.enter_context(on_input(around, keep_first))
        if head.by_row is not None:
            stack.enter_context(on_input(head.by_row, class_row))
        stack.enter_context(on_site(site, at_site))
        try:
            own = backbone.normalize(backbone.embed_pixels(pixels))
        except torch.cuda.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError):
            return None
    if len(read) != 1 or own.ndim != 2 or len(own) != 1:
        return None
    if around is None:
        return _Read(*read[0], own)
    if len(entered) != 1 or len(entered[0]) != len(pixels) or not torch.equal(entered[0][:1], read[0][0]):
        return None
    output = first_output(site.module(entered[0]))
    if len(kept) + 1 != len(blocks):
        return _Read(entered[0], output, own)
    kept.append((entered[0][:, 0].clone(), output))
    tokens, normed = zip(*kept, strict=True)
    return _Read(entered[0], output, own, BlockInputs(tokens, normed))


def _blocks_to_keep(backbone: Backbone, depth: int | None) -> tuple[Block, ...]:
    try:
        return last_blocks(backbone, depth)
    except BackboneError:
        return ()  # The method that asks for them says why not.


def _with_a_second_pass(backbone: Backbone, pixels: Tensor, site: Site) -> _Read:
    """For a model that keeps more of the batch than its tokens: the first image once more, from the beginning."""
    read: list[tuple[Tensor, Tensor]] = []

    def stop(entering: Tensor, tensor: Tensor) -> None:
        read.append((entering, tensor))
        raise _SiteReached

    with on_site(site, stop), suppress(_SiteReached):
        backbone.embed_pixels(pixels)
    if not read:
        raise BackboneError(f"{site.name} did not run in a forward pass of {backbone.name}.")
    return _Read(*read[0], backbone.normalize(backbone.embed_pixels(pixels[:1])))


def read_output(backbone: Backbone, pixels: Tensor, site: Site, entering: Tensor, output: Tensor) -> FactoredTrace:
    """Let the head read what entered the site and what left it.

    Args:
        backbone: the model.
        pixels: its input, (B, 3, height, width).
        site: one that has a head.
        entering: what entered the module of the site.
        output: what left it.

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
    return FactoredTrace(reading.tokens, embedding, site, layout, backbone, pixels, precision_now(backbone), reading)


@final
@dataclass(frozen=True)
class FactoredTrace(Trace):
    """What the head has read; the rest of the model is one vector an image.

    Attributes:
        reading: of the head.
        kept: what entered the last blocks, if it was to be kept.
    """

    form = "factored"

    reading: HeadState
    kept: BlockInputs | None = None

    def gradient(self, directions: Float[Tensor, "K _ E"]) -> TokenGradient:
        """Gamma = dS/do for all directions: one vector an image, so K of them go backwards as one batch."""
        return FactoredGradient(self.tokens, self.layout, self.reading, self._pull(for_each(self.embedding, directions)))

    def matrix(self, method: Callable[[TokenGradient], Tensor]) -> Float[Tensor, "B N E"]:
        """L J^T, J being the way from the pooled vector to the embedding: by products forwards or backwards, the fewer."""
        with self.evaluating():
            return self.through(method(EveryGradient(self.tokens, self.layout, self.reading)).flatten(2).permute(1, 2, 0))

    def through(self, linear: Float[Tensor, "B N W"]) -> Float[Tensor, "B N E"]:
        """L J^T: vectors in the space of the pooled vector, seen in that of texts."""
        with self.evaluating():
            if self.layout.patches <= self.embedding.shape[-1]:
                if (moved := self._push_folded(linear)) is not None:
                    return moved
                with suppress(NotForwards):
                    # Half as many at once: differentiating forwards holds each layer's vectors twice.
                    return push(self._finish, self.reading.pooled, linear, -(-self.layout.patches // 2))
            units = torch.eye(self.embedding.shape[-1], device=self.embedding.device, dtype=torch.float32)[:, None]
            return torch.einsum("bnw,ebw->bne", linear, self._pull(for_each(self.embedding, units)))

    def _push_folded(self, linear: Float[Tensor, "B N W"]) -> Float[Tensor, "B N E"] | None:
        if self.reading.end is None:
            return None
        end, residual = self.reading.end
        embedding, moved = fold(self.backbone, end).push(self.reading.pooled, residual, linear)
        fits = relative_error(embedding, self.embedding) <= tolerance(linear.dtype).embedding
        return moved if fits else None

    def _pull(self, directions: Float[Tensor, "K B E"]) -> Float[Tensor, "K B W"]:
        with self.evaluating():
            off = relative_error(self._finish(self.reading.pooled), self.embedding)
            if not off <= tolerance(self.embedding.dtype).embedding and self.embedding.isfinite().all():
                raise BackboneError(
                    f"{self.backbone.name} has changed since this trace was made (its embedding is off by {off:.1e}); "
                    "trace the images anew."
                )
            # As many vectors at once as the trunk had tokens: a pass through the end needs no more memory than it did.
            return pull(self._finish, self.reading.pooled, directions, self.layout.patches)

    def _finish(self, pooled: Float[Tensor, "B W"]) -> Float[Tensor, "B E"]:
        return self.backbone.normalize(self.reading.finish(pooled[None])[0])

    def _run(self, backbone: Backbone, pixels: Float[Tensor, "B 3 height width"], site: Site) -> Trace:
        return read_head(backbone, pixels, site, len(self.kept.normed) if self.kept else 0)


def single_query(trace: Trace) -> tuple[AttentionState, FactoredTrace]:
    """The attention of the one query that makes the embedding, and the trace that has read it.

    Raises:
        BackboneError: the site has none, or the gradient is dense.

    Example:
        >>> from concept_cam import trace, world
        >>> from concept_cam.gradients import single_query
        >>> attention, seen = single_query(trace(world.localizer().backbone, torch.zeros(1, 3, 96, 96)))
        >>> attention.query.shape, seen.site.name == seen.backbone.sites[0].name
        (torch.Size([1, 1, 6, 32]), True)
    """
    if isinstance(trace, FactoredTrace) and isinstance(trace.reading, AttentionState):
        return trace.reading, trace
    backbone, site = trace.backbone, trace.site
    if site.head is not None and site.head.has_single_query and not isinstance(trace, FactoredTrace):
        raise BackboneError(
            f"This method reads the closed form at {site.name} of {backbone.name}, but the gradient is dense."
            f"{alterations(backbone) or _NOT_DENSE}"
        )
    raise BackboneError(
        f"{site.name} of {backbone.name} has no single query that makes the embedding, whose values could be told apart."
        f"{alterations(backbone) or ' Use hires_cam.'}"
    )


@final
@dataclass(frozen=True)
class FactoredGradient(TokenGradient):
    """G in closed form; see ``concept_cam.backbones.closed_form``."""

    reading: HeadState
    gamma: Float[Tensor, "K B W"]

    def mean(self) -> Float[Tensor, "K B D"]:
        """G averaged over the patches."""
        return self.reading.mean(self.gamma)

    def dot_tokens(self) -> Float[Tensor, "K B N"]:
        """<G_n, A_n> for every patch."""
        return self.reading.dot_tokens(self.gamma)

    def mean_dot_tokens(self) -> Float[Tensor, "K B N"]:
        """<mean of G, A_n> for every patch."""
        return self.reading.mean_dot_tokens(self.gamma)

    def dense(self) -> Iterator[Float[Tensor, "B N D"]]:
        """The whole of G."""
        return self.reading.dense(self.gamma)


@final
@dataclass(frozen=True)
class EveryGradient(TokenGradient):
    """G for every unit vector of gamma at once, K = W: what a method linear in the direction makes of it is its matrix L."""

    reading: HeadState

    def mean(self) -> Float[Tensor, "W B D"]:
        """G averaged over the patches."""
        return self.reading.mean(self._units())

    def dot_tokens(self) -> Float[Tensor, "W B N"]:
        """<G_n, A_n> for every patch."""
        return self.reading.dot_tokens_matrix().permute(2, 0, 1)

    def mean_dot_tokens(self) -> Float[Tensor, "W B N"]:
        """<mean of G, A_n> for every patch."""
        return self.reading.mean_dot_tokens_matrix().permute(2, 0, 1)

    def dense(self) -> Iterator[Float[Tensor, "B N D"]]:
        """The whole of G."""
        return self.reading.dense(self._units())

    def _units(self) -> Float[Tensor, "W B W"]:
        pooled = self.reading.pooled
        units = torch.eye(pooled.shape[-1], device=pooled.device, dtype=pooled.dtype)
        return units[:, None].expand(-1, len(pooled), -1)
