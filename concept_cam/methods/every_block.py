"""Every block: what the class token gathers on its whole way, not in the last block alone.

Both methods are linear in the direction, so they have a ``ConceptField``. They are for towers whose class token becomes the
embedding. The blocks are read in the pass that the trace makes anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from concept_cam.errors import OptionError
from concept_cam.gradients import (
    ClassStream,
    Frozen,
    Step,
    Trace,
    follow_class_token,
    linear_part,
    transposed,
)
from concept_cam.gradients.inputs import check_depth
from concept_cam.methods.method import AnyMethod, FieldMethod, as_method, name_of

Kind = Callable[..., Float[Tensor, "B N E"]]
"""The vectors of a method, of a trace and of so many last blocks."""


@final
@dataclass(frozen=True)
class Shares:
    """The terms that add up to a score, for L blocks, K directions, B images, N patches, P other tokens and H heads.

    Attributes:
        patches: what attention adds to the class token from each patch, by block and head.
        prefix: the same from the class token itself and from registers.
        mlps: what the MLP of each block adds.
        biases: what the bias of the attention's output projection adds, by block.
        entered: the term of the class token that enters the first of these blocks.
        constant: the term of the biases of the last norm and of the projection to the embedding.
    """

    patches: Float[Tensor, "L K B N H"]
    prefix: Float[Tensor, "L K B P H"]
    mlps: Float[Tensor, "L K B"]
    biases: Float[Tensor, "L K B"]
    entered: Float[Tensor, "K B"]
    constant: Float[Tensor, "K B"]

    @property
    def score(self) -> Float[Tensor, "K B"]:
        """Their sum, the score itself."""
        inside = self.patches.sum((0, 3, 4)) + self.prefix.sum((0, 3, 4)) + self.mlps.sum(0) + self.biases.sum(0)
        return inside + self.entered + self.constant


def shares_of(trace: Trace, directions: Float[Tensor, "K _ E"], depth: int | None = None) -> Shares:
    """The score of each direction as a sum over blocks, heads and tokens.

    The last norm, and the length of the embedding, are held at what they are for this image: then the score is linear in what
    attention and MLPs add to the class token.

    Source: Gandelsman, Efros, Steinhardt, Interpreting CLIP's Image Representation via Text-Based Decomposition (ICLR 2024,
    arXiv 2310.05916), eq. 3 to 5. Departures: no ablation by the mean over images; biases and MLPs are told apart.

    Args:
        trace: one forward pass of B images.
        directions: (K, 1, E), the same for all images, or (K, B, E), one for each image.
        depth: the number of last blocks; all by default.

    Raises:
        BackboneError: see ``follow_class_token``; or the last norm is no layer norm.

    Example:
        >>> import torch
        >>> from concept_cam import trace, world
        >>> from concept_cam.methods import shares_of
        >>> seen = trace(world.localizer().backbone, torch.zeros(1, 3, 96, 96))
        >>> direction = torch.ones(1, 1, 192)
        >>> shares = shares_of(seen, direction)
        >>> shares.patches.shape, torch.allclose(shares.score, (seen.embedding * direction).sum(-1), atol=1e-5)
        (torch.Size([6, 1, 1, 144, 6]), True)
    """
    with trace.evaluating(), torch.no_grad():
        stream = follow_class_token(trace, depth)
        seen = _Direct.of(stream)
        directions = directions.to(stream.embedding).expand(-1, len(stream.embedding), -1)
        weights, constant = seen.weights(directions)
        patches, prefix, mlps, biases = [], [], [], []
        for step, gamma in zip(stream.steps, seen.gammas(weights), strict=True):
            scores = torch.cat([step.of_self(gamma)[:, :, None], step.scores(gamma, step.tokens.shape[1] - 1)], 2)
            split = stream.layout.prefix
            prefix.append(scores[:, :, :split])
            patches.append(scores[:, :, split:])
            added = step.block.project(step.output)
            mlps.append((weights * (step.left - step.entered - added)).sum(-1))
            still = step.output.new_zeros(step.output.shape[-1]) if step.block.inner is None else seen.inner(step).bias
            biases.append((weights * step.block.outward(still)).sum(-1))
        entered = (weights * stream.steps[0].entered).sum(-1)
    return Shares(torch.stack(patches), torch.stack(prefix), torch.stack(mlps), torch.stack(biases), entered, constant)


@final
@dataclass(frozen=True)
class _Direct:
    """The way from what a block adds to the class token to the score, linear once statistics are held fixed.

    Attributes:
        stream: of the class token.
        last: the last norm.
        scale: by which the embedding was multiplied to have unit length.
    """

    stream: ClassStream
    last: Frozen
    scale: Float[Tensor, "B 1"]

    @classmethod
    def of(cls, stream: ClassStream) -> _Direct:
        pooling, left = stream.pooling, stream.steps[-1].left
        stream.check_linear()
        raw = pooling.finish(left)
        length = raw.square().sum(-1, keepdim=True).clamp(min=torch.finfo(raw.dtype).tiny)
        scale = (stream.embedding * raw).sum(-1, keepdim=True) / length
        return cls(stream, Frozen.of(pooling.norm, left), scale)

    def weights(self, directions: Float[Tensor, "K B E"]) -> tuple[Float[Tensor, "K B D"], Float[Tensor, "K B"]]:
        """W with score = <w, class token> + constant, and the constant."""
        pooling, scaled = self.stream.pooling, directions * self.scale
        width = self.last.bias.shape[-1]
        after = transposed(pooling.project, width, scaled)
        still = pooling.project(self.last.bias[None])[0]
        return self.last.pull(after), (scaled * still).sum(-1)

    def gammas(self, weights: Float[Tensor, "K B D"]) -> list[Float[Tensor, "K B W"]]:
        """Of each block: w through the output projection, and the norm before it, if there is one."""
        found = []
        for step in self.stream.steps:
            gamma = transposed(step.block.outward, step.output.shape[-1], weights)
            found.append(gamma if step.block.inner is None else self.inner(step).pull(gamma))
        return found

    def inner(self, step: Step) -> Frozen:
        """The norm before the output projection of a block that has one."""
        assert step.block.inner is not None
        return Frozen.of(step.block.inner, step.output)

    def vectors(self) -> Float[Tensor, "B N E"]:
        """What the patches add to the class token in all blocks, seen in the space of texts."""
        first = self.stream.steps[0]
        added = first.entered.new_zeros(len(first.entered), self.stream.layout.patches, first.entered.shape[-1])
        for step in self.stream.steps:
            given = step.contributions(self.stream.layout.patches)
            if step.block.inner is not None:
                given = self.inner(step).push(given)
            added += linear_part(step.block.outward, given)
        return linear_part(self.stream.pooling.project, self.last.push(added)) * self.scale[:, None]


def _class_stream(trace: Trace, depth: int | None = None) -> Float[Tensor, "B N E"]:
    """Class stream: what each patch adds to the attention output of the class token, times the gradient there, in all blocks.

    sum_lh a_hn gamma_lh v_hn, gamma_l being the gradient dS/do_l of the score at the attention output of block l. It flows
    through the class token alone: the keys and values of all other tokens are constants. Methods of the last block leave out
    what earlier blocks added to the class token. ``last_blocks`` reads fewer blocks, ``by_block`` gives the map of each.

    Source: ours (docs/definition.md, Every block).

    Example:
        >>> from concept_cam import world
        >>> plate, localizer = world.draw_species("ember finch"), world.localizer(method="class_stream")
        >>> localizer(plate.image, "ember finch", "frost finch").map.shape
        torch.Size([12, 12])
    """
    return follow_class_token(trace, depth).push()


def _direct(trace: Trace, depth: int | None = None) -> Float[Tensor, "B N E"]:
    """Direct shares: what attention takes from each patch in any block and leaves in the class token up to the last norm.

    sum_lh w W_O,h a_hn v_hn over all blocks l, w being the direction behind the last norm, whose statistics are held fixed: a
    summand of the score (see ``shares_of``). What later blocks make of it is not part of it.

    Source: Gandelsman et al. (arXiv 2310.05916), by tokens; see ``shares_of`` for departures.

    Example:
        >>> from concept_cam import world
        >>> plate, localizer = world.draw_species("ember finch"), world.localizer(method="direct")
        >>> localizer(plate.image, "ember finch", "frost finch").map.shape
        torch.Size([12, 12])
    """
    return _Direct.of(follow_class_token(trace, depth)).vectors()


def _gammas(kind: str, stream: ClassStream, directions: Float[Tensor, "K B E"]) -> Iterable[Float[Tensor, "K B W"]]:
    """Of each block, the vectors whose inner products with what patches add to o make the map."""
    if kind == _class_stream.__name__:
        return stream.pull(directions)
    seen = _Direct.of(stream)
    return seen.gammas(seen.weights(directions)[0])


def _maps(kind: Kind, depth: int | None, trace: Trace, directions: Float[Tensor, "K B E"]) -> Float[Tensor, "K B N"]:
    """By one product backwards for each direction, or from the vectors, the fewer products."""
    if len(directions) > trace.layout.patches:
        return torch.einsum("bne,kbe->kbn", kind(trace, depth), directions)
    stream = follow_class_token(trace, depth)
    scores = zip(stream.steps, _gammas(kind.__name__, stream, directions), strict=True)
    return torch.stack([step.scores(gamma, stream.layout.patches).sum(-1) for step, gamma in scores]).sum(0)


def _method(kind: Kind, depth: int | None = None) -> FieldMethod:
    maps = partial(_maps, kind, depth)
    if depth is None:
        return FieldMethod(kind, maps, depth, partial(_method, kind))
    vectors = partial(kind, depth=depth)
    # As ``method_named`` reads it.
    setattr(vectors, "__name__", f"{kind.__name__}:{depth}")  # noqa: B010
    return FieldMethod(vectors, maps, depth)


class_stream = _method(_class_stream)
direct = _method(_direct)


def last_blocks(method: AnyMethod, depth: int) -> FieldMethod:
    """``class_stream`` or ``direct`` through the last blocks alone; by name, ``"class_stream:4"``.

    Args:
        method: one of the two, or its name.
        depth: the number of blocks; more than the model has are all.

    Raises:
        OptionError: it is another method, or depth is not above 0.

    Example:
        >>> from concept_cam.methods import last_blocks, name_of
        >>> name_of(last_blocks("class_stream", 4))
        'class_stream:4'
    """
    check_depth(depth)
    return _method(_kind(method), depth)


def by_block(
    trace: Trace, directions: Float[Tensor, "K _ E"], method: AnyMethod = class_stream, depth: int | None = None
) -> Float[Tensor, "L K B rows cols H"]:
    """The maps of each block and head, whose sum is the map: where in depth is the evidence?

    Args:
        trace: one forward pass of B images.
        directions: (K, 1, E), the same for all images, or (K, B, E), one for each image.
        method: ``class_stream`` or ``direct``, or its name.
        depth: the number of last blocks; all by default.

    Raises:
        OptionError: it is another method, or depth is not above 0.
        BackboneError: see ``follow_class_token``.

    Example:
        >>> import torch
        >>> from concept_cam import trace, world
        >>> from concept_cam.methods import by_block
        >>> seen = trace(world.localizer().backbone, torch.zeros(1, 3, 96, 96))
        >>> by_block(seen, torch.ones(1, 1, 192)).shape
        torch.Size([6, 1, 1, 12, 12, 6])
    """
    kind = _kind(method)
    with trace.evaluating(), torch.no_grad():
        stream = follow_class_token(trace, depth)
        directions = directions.to(stream.embedding).expand(-1, len(stream.embedding), -1)
        gammas = _gammas(kind.__name__, stream, directions)
        scores = [step.scores(gamma, stream.layout.patches) for step, gamma in zip(stream.steps, gammas, strict=True)]
        maps: Tensor = torch.stack(scores).unflatten(3, (stream.layout.rows, stream.layout.cols))
    return maps


def _kind(method: AnyMethod) -> Kind:
    found = as_method(method)
    for one, kind in ((class_stream, _class_stream), (direct, _direct)):
        if found is one:
            return kind
    raise OptionError(f"{name_of(found)} has no maps by block; expected class_stream or direct (fewer blocks: depth=).")
