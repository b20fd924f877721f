"""The class token on its own way through the last blocks, with all that other tokens hand it held fixed.

Of block l let c be the class token that enters. It attends to the other tokens, whose keys and values are constants here, and
to itself: o = concat_h sum_n a_hn v_hn, c' = m(c + W_O o), m being the MLP with its residual. What one token does costs next
to nothing beside a forward pass, and all patches of a block reach the embedding through o alone. See *Every block* in
docs/definition.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from concept_cam.backbones.backbone import Backbone
from concept_cam.backbones.block import Block
from concept_cam.backbones.pooling import ClassToken
from concept_cam.backbones.site import TokenLayout
from concept_cam.errors import BackboneError
from concept_cam.gradients.alterations import alterations
from concept_cam.gradients.base import Trace, evaluating, for_each
from concept_cam.gradients.factored import FactoredTrace
from concept_cam.gradients.frozen import check_affine
from concept_cam.gradients.inputs import OTHERWISE, last_blocks, with_a_pass
from concept_cam.gradients.jacobian import pull, push
from concept_cam.gradients.tolerance import relative_error, tolerance


@final
@dataclass(frozen=True)
class Step:
    """What the class token does in one block.

    Attributes:
        block: the block.
        others: the other tokens after the first norm: registers, then patches.
        entered: the class token before the block.
        attention: its weights on itself, then on the others; each head sums to one.
        output: o, of the attention.
        left: the class token after the block.
    """

    block: Block
    others: Float[Tensor, "B O D"]
    entered: Float[Tensor, "B D"]
    attention: Float[Tensor, "B M H"]
    output: Float[Tensor, "B W"]
    left: Float[Tensor, "B D"]

    def contributions(self, count: int) -> Float[Tensor, "B N W"]:
        """a_hn v_hn of the last ``count`` tokens, the patches: what each adds to o."""
        own = self.block.projections()
        values = F.linear(self.others[:, -count:], *own.value).unflatten(-1, (own.heads, -1))
        taken: Tensor = self.attention[:, -count:, :, None] * values
        return taken.flatten(-2)

    def scores(self, gamma: Float[Tensor, "K B W"], count: int) -> Float[Tensor, "K B N H"]:
        """gamma_h a_hn v_hn of the last ``count`` tokens."""
        return self.attention[:, -count:] * self._of_values(gamma, self.others[:, -count:])

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
    """

    steps: tuple[Step, ...]
    pooling: ClassToken
    embedding: Float[Tensor, "B E"]
    layout: TokenLayout
    backbone: Backbone

    def pull(self, directions: Float[Tensor, "K _ E"]) -> tuple[Float[Tensor, "K B W"], ...]:
        """Gamma = dS/do of each block, along the stream: one vector-Jacobian product for each direction."""
        at, sizes = self._outputs()

        def finish(outputs: Float[Tensor, "B widths"]) -> Float[Tensor, "B E"]:
            changes = [part - own for part, own in zip(outputs.split(sizes, -1), at, strict=True)]
            return self._run(changes, explicit=False)

        # The weights of each direction on all tokens are held, for each block.
        at_once = max(1, self.layout.patches // 4)
        with evaluating(self.backbone):
            pulled = pull(finish, torch.cat(at, -1), for_each(self.embedding, directions), at_once)
        return tuple(torch.split(pulled, sizes, -1))

    def push(self) -> Float[Tensor, "B N E"]:
        """By how much what each patch adds to all o changes the embedding: one product forwards for each patch."""
        with evaluating(self.backbone):
            tangents = torch.cat([step.contributions(self.layout.patches) for step in self.steps], -1)
            with suppress(RuntimeError):
                # A layer that torch cannot differentiate forwards is one that a user wrote.
                return self._push_forwards(tangents)
            units = torch.eye(self.embedding.shape[-1], device=self.embedding.device, dtype=self.embedding.dtype)
            pulled = torch.cat([torch.cat(self.pull(one[:, None]), -1) for one in units.split(64)])
            return torch.einsum("bnw,ebw->bne", tangents, pulled)

    def check_linear(self) -> None:
        """Refuse a model in which a layer between an attention and the stream, or after the last norm, bends.

        Raises:
            BackboneError: there is one.
        """
        pooling = self.pooling
        with evaluating(self.backbone):
            for step in self.steps:
                check_affine(step.block.outward, step.output, self.backbone)
            check_affine(pooling.project, pooling.norm(self.steps[-1].left), self.backbone)

    def _push_forwards(self, tangents: Float[Tensor, "B N W"]) -> Float[Tensor, "B N E"]:
        at, sizes = self._outputs()

        def finish(outputs: Float[Tensor, "B widths"]) -> Float[Tensor, "B E"]:
            changes = [part - own for part, own in zip(outputs.split(sizes, -1), at, strict=True)]
            return self._run(changes, explicit=True)

        return push(finish, torch.cat(at, -1), tangents, -(-self.layout.patches // 2))

    def _outputs(self) -> tuple[list[Tensor], list[int]]:
        outputs = [step.output for step in self.steps]
        return outputs, [output.shape[-1] for output in outputs]

    def _run(self, changes: Sequence[Float[Tensor, "B W"]], *, explicit: bool) -> Float[Tensor, "B E"]:
        """The embedding when the attention outputs of the blocks change by so much."""
        x = self.steps[0].entered
        for step, change, memory in zip(self.steps, changes, self._memories(explicit), strict=True):
            _, output = attend_from(x, step.block, memory)
            x = step.block.finish(output + change, x)
        return self.backbone.normalize(self.pooling.finish(x))

    def _memories(self, explicit: bool) -> Iterator[Memory]:
        return (Memory.of(step.block, step.others, explicit=explicit) for step in self.steps)


@final
@dataclass(frozen=True)
class Memory:
    """What the other tokens hand the class token in one block.

    Attributes:
        others: after the first norm.
        keys: with rotary positions turned; None where the query is folded into one vector per head instead.
        values: None where the weighted sum of the tokens is projected instead.
    """

    others: Float[Tensor, "B O D"]
    keys: Float[Tensor, "B O H d"] | None
    values: Float[Tensor, "B O H d"] | None

    @classmethod
    def of(cls, block: Block, others: Float[Tensor, "B O D"], *, explicit: bool) -> Memory:
        """Folded for a few directions; explicit for one tangent a patch, or where positions are rotary.

        Args:
            block: the block.
            others: all tokens but the class token, after the first norm.
            explicit: make keys and values.
        """
        own = block.projections()
        keys = values = None
        if explicit or block.rotate is not None:
            keys = F.linear(others, *own.key).unflatten(-1, (own.heads, -1))
            if block.rotate is not None:
                # Positions are those in the sequence: the class token, which is not turned, is the first.
                keys = block.rotate(torch.cat([torch.zeros_like(keys[:, :1]), keys], 1), 1)[:, 1:]
        if explicit:
            values = F.linear(others, *own.value).unflatten(-1, (own.heads, -1))
        return cls(others, keys, values)


def attend_from(
    token: Float[Tensor, "B D"], block: Block, memory: Memory
) -> tuple[Float[Tensor, "B M H"], Float[Tensor, "B W"]]:
    """The attention of the class token to itself and the others, and its output o.

    Args:
        token: the class token that enters the block.
        block: the block.
        memory: of the other tokens.
    """
    own = block.projections()
    by_head = (own.heads, -1)
    normed = block.norm(token)
    query = F.linear(normed, *own.query).unflatten(-1, by_head)
    query = query * query.shape[-1] ** -0.5
    if memory.keys is None:
        # <q, W_k x_n> = <W_k^T q, x_n>. The bias of the keys moves all logits of a head alike, so attention does not see it.
        folded = torch.einsum("bhd,hdc->bhc", query, own.key[0].unflatten(0, by_head))
        to_self, to_others = torch.einsum("bhc,bc->bh", folded, normed), torch.einsum("bhc,bnc->bnh", folded, memory.others)
    else:
        key = F.linear(normed, *own.key).unflatten(-1, by_head)
        to_self, to_others = (query * key).sum(-1), torch.einsum("bhd,bnhd->bnh", query, memory.keys)
    attention = torch.cat([to_self[:, None], to_others], 1).softmax(1).to(normed.dtype)
    of_self, of_others = attention[:, 0], attention[:, 1:]
    if memory.values is None:
        means = of_self[..., None] * normed[:, None] + torch.einsum("bnh,bnc->bhc", of_others, memory.others)
        weight, bias = (part.unflatten(0, by_head) for part in own.value)
        output = torch.einsum("bhc,hdc->bhd", means, weight) + bias
    else:
        value = F.linear(normed, *own.value).unflatten(-1, by_head)
        output = of_self[..., None] * value + torch.einsum("bnh,bnhd->bhd", of_others, memory.values)
    return attention, output.flatten(-2)


def follow_class_token(trace: Trace, depth: int | None = None) -> ClassStream:
    """The stream of the class token through the last blocks; its embedding is compared with the model's own.

    It costs no pass of the model where the trace has kept what entered these blocks (see ``trace``), else one.

    Args:
        trace: of the images.
        depth: the number of blocks; all by default.

    Raises:
        BackboneError: the model has no class token that attends in known blocks, or those are not what they were.

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
    with trace.evaluating(), torch.no_grad():
        kept = trace.kept if isinstance(trace, FactoredTrace) else None
        whole = kept is not None and len(kept.normed) == len(blocks)
        inputs = kept if kept is not None and whole else with_a_pass(backbone, blocks, trace.pixels)
        x, steps = inputs.residual.to(backbone.dtype), []
        for block, normed in zip(blocks, inputs.normed, strict=True):
            others = normed[:, 1:].to(backbone.dtype)
            attention, output = attend_from(x, block, Memory.of(block, others, explicit=False))
            left = block.finish(output, x)
            steps.append(Step(block, others, x, attention, output, left))
            x = left
        embedding = backbone.normalize(pooling.finish(x))
    off = relative_error(embedding, trace.embedding)
    if not off <= tolerance(trace.rounded).embedding:
        raise BackboneError(
            f"The class token of {backbone.name}, run block by block, gives an embedding that is off by {off:.1e}: its blocks "
            f"are not what they were.{alterations(backbone) or OTHERWISE}"
        )
    return ClassStream(tuple(steps), pooling, embedding, trace.layout, backbone)
