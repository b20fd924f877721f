"""The class token on its own way through the last blocks, with all that other tokens hand it held fixed.

Of block l let c be the class token that enters. It attends to the other tokens, whose keys and values are constants here, and
to itself: o = concat_h sum_n a_hn v_hn, c' = m(c + W_O o + b_O), m being the MLP with its residual. One token costs little
beside a forward pass, and all patches of a block reach the embedding through o alone. See *Every block* in docs/definition.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from concept_cam.backbones.backbone import Backbone, noise
from concept_cam.backbones.block import Block
from concept_cam.backbones.pooling import ClassToken
from concept_cam.backbones.site import TokenLayout
from concept_cam.errors import BackboneError, reason
from concept_cam.gradients.alterations import alterations
from concept_cam.gradients.base import Trace, evaluating, for_each
from concept_cam.gradients.exactness import has_exact_head
from concept_cam.gradients.factored import FactoredTrace, read_head
from concept_cam.gradients.frozen import check_affine
from concept_cam.gradients.inputs import OTHERWISE, BlockInputs, last_blocks, with_a_pass
from concept_cam.gradients.jacobian import NotForwards, pull_through, push
from concept_cam.gradients.plain_mlp import PlainMLP
from concept_cam.gradients.tolerance import relative_error, tolerance


@final
@dataclass(frozen=True)
class Step:
    """What the class token does in one block.

    Attributes:
        block: the block.
        tokens: all tokens after the first norm: class token, registers, patches.
        entered: the class token before the block.
        attention: its weights on itself, then on the others; each head sums to one.
        output: o, of the attention.
        left: the class token after the block.
    """

    block: Block
    tokens: Float[Tensor, "B M D"]
    entered: Float[Tensor, "B D"]
    attention: Float[Tensor, "B M H"]
    output: Float[Tensor, "B W"]
    left: Float[Tensor, "B D"]

    def contributions(self, count: int) -> Float[Tensor, "B N W"]:
        """a_hn v_hn of the last ``count`` tokens, the patches: what each adds to o."""
        return self._taken().flatten(-2)[:, -count:]

    def scores(self, gamma: Float[Tensor, "K B W"], count: int) -> Float[Tensor, "K B N H"]:
        """gamma_h a_hn v_hn of the last ``count`` tokens."""
        return self.attention[:, -count:] * self._of_values(gamma, self.tokens[:, -count:])

    def of_self(self, gamma: Float[Tensor, "K B W"]) -> Float[Tensor, "K B H"]:
        """gamma_h a_hn v_hn of the class token itself."""
        return self.attention[:, 0] * self._of_values(gamma, self.block.norm(self.entered)[:, None])[:, :, 0]

    def _of_values(self, gamma: Float[Tensor, "K B W"], tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "K B N H"]:
        """gamma_h v_hn. Values are folded into the direction and never made."""
        own = self.block.projections()
        by_head = gamma.unflatten(-1, (own.heads, -1))
        weight, bias = (part.unflatten(0, (own.heads, -1)) for part in own.value)
        folded = torch.einsum("kbhd,hdc->kbhc", by_head, weight)
        return torch.einsum("kbhc,bnc->kbnh", folded, tokens) + torch.einsum("kbhd,hd->kbh", by_head, bias)[:, :, None]

    def pushed(self, count: int, entered: Float[Tensor, "B N D"] | None) -> Float[Tensor, "B N D"]:
        """The change of the class token after this block that follows from what each patch adds to o, up to here.

        Args:
            count: the number of patches, which are the last tokens.
            entered: the change of the class token before this block; None in the first block that is read.
        """
        block, taken = self.block, self._taken()
        given = taken.flatten(-2)[:, -count:]
        if entered is not None:
            jacobian = self._attended(taken)
            given.baddbmm_(along(block.norm, self.entered, entered), jacobian.mT)
        added = along(block.project, self.output, given)
        changes = added if entered is None else added.add_(entered)
        between = self.entered + block.project(self.output)
        plain = PlainMLP.of(block, between)
        return along(block.mlp, between, changes) if plain is None else plain.along(between, changes)

    def _taken(self) -> Float[Tensor, "B M H d"]:
        """a_hn v_hn of all tokens."""
        own = self.block.projections()
        values: Tensor = F.linear(self.tokens, *own.value).unflatten(-1, (own.heads, -1))
        return values.mul_(self.attention[..., None])

    def _attended(self, taken: Float[Tensor, "B M H d"]) -> Float[Tensor, "B W D"]:
        """The Jacobian of o in the class token after the first norm.

        With k_n and v_n constant for all tokens n but the class token, 0, and s = d^-1/2:
        do_h = a_h0 W_v,h + s (sum_n a_hn (v_hn - o_h) k_hn^T) W_q,h + s a_h0 (v_h0 - o_h) q_h^T W_k,h.

        Args:
            taken: a_hn v_hn of all tokens.
        """
        own = self.block.projections()
        by_head = (own.heads, -1)
        keys = F.linear(self.tokens, *own.key).unflatten(-1, by_head)
        keys = keys if self.block.rotate is None else self.block.rotate(keys, 1)
        excess = torch.addcmul(taken, self.attention[..., None], self.output.unflatten(-1, by_head)[:, None], value=-1)
        of_query, of_key, of_value = (part.unflatten(0, by_head) for part, _ in (own.query, own.key, own.value))
        query = F.linear(self.tokens[:, 0], *own.query).unflatten(-1, by_head)
        scale = query.shape[-1] ** -0.5
        moments = torch.einsum("bmhv,bmhk->bhvk", excess, keys) * scale
        jacobian = torch.einsum("bhvk,hkc->bhvc", moments, of_query)
        jacobian.addcmul_(self.attention[:, 0, :, None, None], of_value)
        jacobian.addcmul_(excess[:, 0, ..., None], torch.einsum("bhk,hkc->bhc", query * scale, of_key)[:, :, None])
        return jacobian.flatten(1, 2)


@final
@dataclass(frozen=True)
class ClassStream:
    """The class token through the last blocks.

    Attributes:
        steps: one for each block, in the order of the model.
        pooling: what follows the last.
        embedding: unit vectors, or what a linear classifier multiplies by its rows.
        layout: how tokens lie on the image.
        backbone: the model.
        graph: the embedding and o of each block, from which gradients go back along the stream.
    """

    steps: tuple[Step, ...]
    pooling: ClassToken
    embedding: Float[Tensor, "B E"]
    layout: TokenLayout
    backbone: Backbone
    graph: tuple[Float[Tensor, "B E"], tuple[Float[Tensor, "B W"], ...]]

    def pull(self, directions: Float[Tensor, "K _ E"]) -> tuple[Float[Tensor, "K B W"], ...]:
        """Gamma = dS/do of each block, along the stream: one vector-Jacobian product for each direction."""
        embedding, outputs = self.graph
        # The weights of each direction on all tokens are held, for each block.
        at_once = max(1, self.layout.patches // 4)
        with evaluating(self.backbone):
            return pull_through(embedding, outputs, for_each(embedding.detach(), directions), at_once)

    def push(self) -> Float[Tensor, "B N E"]:
        """By how much what each patch adds to all o changes the embedding: one product forwards for each patch."""
        count = self.layout.patches
        with evaluating(self.backbone):
            with suppress(NotForwards):
                changes: Tensor | None = None
                for step in self.steps:
                    changes = step.pushed(count, changes)
                assert changes is not None
                return along(self._embed, self.steps[-1].left, changes)
            units = torch.eye(self.embedding.shape[-1], device=self.embedding.device, dtype=self.embedding.dtype)
            pairs = zip(self.steps, self.pull(units[:, None]), strict=True)
            given = [torch.einsum("bnw,ebw->bne", step.contributions(count), gamma) for step, gamma in pairs]
            return torch.stack(given).sum(0)

    def check_linear(self) -> None:
        """Refuse a model in which a layer between an attention and the stream, or after the last norm, is not linear.

        Raises:
            BackboneError: there is one.
        """
        with evaluating(self.backbone):
            for step in self.steps:
                check_affine(step.block.outward, step.output, self.backbone)
            check_affine(self.pooling.project, self.pooling.norm(self.steps[-1].left), self.backbone)

    def _embed(self, left: Float[Tensor, "B D"]) -> Float[Tensor, "B E"]:
        return self.backbone.normalize(self.pooling.finish(left))


def along(
    function: Callable[[Tensor], Tensor], at: Float[Tensor, "B V"], changes: Float[Tensor, "B N V"]
) -> Float[Tensor, "B N W"]:
    """By how much changes of what enters a function change what leaves it.

    Args:
        function: of one vector an image.
        at: what enters it.
        changes: of that; half of them go forwards at once, which bounds memory.
    """
    return push(function, at, changes, -(-changes.shape[1] // 2))


def attend_from(
    token: Float[Tensor, "B D"], block: Block, tokens: Float[Tensor, "B M D"]
) -> tuple[Float[Tensor, "B M H"], Float[Tensor, "B W"]]:
    """The attention of the class token to itself and the others, and its output o.

    Keys and values are folded into one vector for each head, and never made; keys with rotary positions are.

    Args:
        token: the class token that enters the block.
        block: the block.
        tokens: all tokens after the first norm; the first of them is not read.
    """
    own = block.projections()
    by_head = (own.heads, -1)
    normed, others = block.norm(token), tokens[:, 1:]
    query = F.linear(normed, *own.query).unflatten(-1, by_head)
    query = query * query.shape[-1] ** -0.5
    if block.rotate is None:
        # <q, W_k x_n> = <W_k^T q, x_n>. The bias of the keys moves all logits of a head alike, so attention does not see it.
        folded = torch.einsum("bhd,hdc->bhc", query, own.key[0].unflatten(0, by_head))
        to_self, to_others = torch.einsum("bhc,bc->bh", folded, normed), torch.einsum("bhc,bnc->bnh", folded, others)
    else:
        key = F.linear(normed, *own.key).unflatten(-1, by_head)
        # Positions are those in the sequence; the class token, its first, is not turned.
        keys = block.rotate(F.linear(tokens, *own.key).unflatten(-1, by_head), 1)[:, 1:]
        to_self, to_others = (query * key).sum(-1), torch.einsum("bhd,bnhd->bnh", query, keys)
    attention = torch.cat([to_self[:, None], to_others], 1).softmax(1).to(normed.dtype)
    means = attention[:, 0, :, None] * normed[:, None] + torch.einsum("bnh,bnc->bhc", attention[:, 1:], others)
    weight, bias = (part.unflatten(0, by_head) for part in own.value)
    return attention, (torch.einsum("bhc,hdc->bhd", means, weight) + bias).flatten(-2)


def follow_class_token(trace: Trace, depth: int | None = None) -> ClassStream:
    """Run the class token alone through the last blocks; the keys and values of the other tokens are constants.

    If the trace kept the inputs of these blocks (``depth`` of ``trace``), this takes no forward pass, otherwise one. The
    resulting embedding is compared with the model's own.

    Args:
        trace: one forward pass of B images.
        depth: the number of last blocks; all by default.

    Raises:
        OptionError: depth is not above 0.
        BackboneError: the embedding is not made of a class token, a block is not known, or the embedding is not the model's.

    Example:
        >>> from concept_cam import trace, world
        >>> from concept_cam.gradients import follow_class_token
        >>> stream = follow_class_token(trace(world.localizer().backbone, torch.zeros(1, 3, 96, 96)), depth=2)
        >>> len(stream.steps), stream.steps[-1].attention.shape
        (2, torch.Size([1, 145, 6]))
    """
    backbone = trace.backbone
    blocks = last_blocks(backbone, depth)
    pooling = backbone.pooling
    assert isinstance(pooling, ClassToken)
    with trace.evaluating():
        kept = trace.kept.last(len(blocks)) if isinstance(trace, FactoredTrace) and trace.kept else None
        inputs = kept or with_a_pass(backbone, blocks, trace.pixels)
        try:
            steps, outputs, embedding = _follow(blocks, inputs, backbone)
        except (torch.cuda.OutOfMemoryError, BackboneError):
            raise
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError) as error:
            raise BackboneError(
                f"The class token of {backbone.name} cannot run through the blocks alone ({reason(error)})."
                f"{alterations(backbone) or OTHERWISE}"
            ) from error
    off = relative_error(embedding.detach(), trace.embedding)
    # Numbers that are none have an error of their own, whatever made the map.
    if not off <= tolerance(trace.rounded).embedding and trace.embedding.isfinite().all():
        raise BackboneError(
            f"The class token of {backbone.name}, run block by block, does not give the model's own embedding (relative error "
            f"{off:.1e}): a block computes something else than expected.{alterations(backbone) or OTHERWISE}"
        )
    return ClassStream(tuple(steps), pooling, embedding.detach(), trace.layout, backbone, (embedding, tuple(outputs)))


def _follow(
    blocks: Sequence[Block], inputs: BlockInputs, backbone: Backbone
) -> tuple[list[Step], list[Tensor], Float[Tensor, "B E"]]:
    """The steps; and o of each block, and the embedding, with their graph."""
    steps: list[Step] = []
    outputs: list[Tensor] = []
    assert isinstance(backbone.pooling, ClassToken)
    with torch.enable_grad():
        x = inputs.entered[0].detach().to(backbone.dtype)
        for block, normed in zip(blocks, inputs.normed, strict=True):
            tokens = normed.detach().to(backbone.dtype)
            attention, output = attend_from(x, block, tokens)
            if not outputs:
                # What comes before has no part in the stream.
                output = output.detach().requires_grad_()
            left = block.finish(output, x)
            steps.append(Step(block, tokens, x.detach(), attention.detach(), output.detach(), left.detach()))
            outputs.append(output)
            x = left
        return steps, outputs, backbone.normalize(backbone.pooling.finish(x))


def has_stream(backbone: Backbone) -> bool:
    """Whether a class token attends in known blocks, whose stream gives the model's own embedding.

    It is tried on one image of noise when it is first asked for, and when the structure of the model has changed.

    Example:
        >>> from concept_cam import world
        >>> from concept_cam.gradients import has_stream
        >>> has_stream(world.localizer().backbone)
        True
    """
    backbone = backbone.original
    site, verdicts = backbone.site(), backbone.guard.verdicts
    if not isinstance(backbone.pooling, ClassToken) or not has_exact_head(backbone, site):
        return False
    if _TRIED not in verdicts:
        try:
            # In the model's own precision: what the caller's autocast rounds off says nothing about the blocks.
            with evaluating(backbone):
                follow_class_token(read_head(backbone, noise(backbone), site))
            verdicts[_TRIED] = True
        except BackboneError:
            verdicts[_TRIED] = False
    return verdicts[_TRIED]


_TRIED = "the stream of the class token"
