"""What entered the attention of the last blocks in a forward pass, kept for the class token's stream through them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, final

from jaxtyping import Float
from torch import Tensor, nn

from concept_cam.backbones.backbone import Backbone
from concept_cam.backbones.block import Block
from concept_cam.backbones.pooling import ClassToken
from concept_cam.errors import BackboneError, OptionError
from concept_cam.gradients.alterations import alterations, check_projections
from concept_cam.hooks import on_output

OTHERWISE = " Use a method of one block, such as hires_cam; own_streams also takes transformers that pool their patches."


@final
@dataclass(frozen=True)
class BlockInputs:
    """What a forward pass has left of the last blocks.

    Attributes:
        entered: of each block, the class token before it.
        normed: of each block, all tokens after its first norm.
    """

    entered: tuple[Float[Tensor, "B D"], ...]
    normed: tuple[Float[Tensor, "B M D"], ...]

    def last(self, count: int) -> BlockInputs | None:
        """Those of the last blocks alone; None if fewer were kept."""
        return BlockInputs(self.entered[-count:], self.normed[-count:]) if count <= len(self.normed) else None


def last_blocks(backbone: Backbone, depth: int | None) -> tuple[Block, ...]:
    """The last blocks of a tower whose class token becomes the embedding.

    Args:
        backbone: the model.
        depth: the number of blocks; all if None.

    Raises:
        OptionError: depth is not above 0.
        BackboneError: the embedding is not made of a class token, or one of these blocks is not known.
    """
    check_depth(depth)
    blocks = backbone.blocks[-(depth or len(backbone.blocks)) :]
    chosen = tuple(block for block in blocks if block is not None)
    if not isinstance(backbone.pooling, ClassToken) or not chosen or len(chosen) < len(blocks):
        raise BackboneError(
            f"{backbone.name} ({backbone.family}) has no class token that attends to the patches in blocks of a known kind."
            f"{alterations(backbone) or OTHERWISE}"
        )
    check_projections(backbone, chosen, OTHERWISE)
    return chosen


def check_depth(depth: int | None) -> None:
    """Refuse a number of blocks that is not above 0.

    Raises:
        OptionError: it is not.
    """
    if depth is not None and depth < 1:
        raise OptionError(f"depth is {depth}; expected a number of blocks, 1 or more.")


@contextmanager
def keeping(blocks: Sequence[Block]) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """While the model runs, collect the class token that enters each first norm, and all tokens that leave it."""
    kept: list[tuple[Tensor, Tensor]] = []

    def keep(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        # A view would hold all tokens of the residual stream.
        kept.append((inputs[0][:, 0].clone(), output))

    with ExitStack() as stack:
        for block in blocks:
            stack.enter_context(on_output(block.norm, keep))
        yield kept


def with_a_pass(backbone: Backbone, blocks: Sequence[Block], pixels: Float[Tensor, "B 3 height width"]) -> BlockInputs:
    """Run the model as far as the last of some blocks.

    Args:
        backbone: the model.
        blocks: of its last ones.
        pixels: its input.

    Raises:
        BackboneError: their first norms did not run once each.
    """

    def stop(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        raise _AllReached

    with keeping(blocks) as kept, on_output(blocks[-1].norm, stop), suppress(_AllReached):
        backbone.embed_pixels(pixels)
    if len(kept) != len(blocks):
        raise BackboneError(
            f"The first norms of the blocks of {backbone.name} did not run once each in a forward pass; trace the images "
            "anew, or use a method of one block, such as hires_cam."
        )
    return BlockInputs(tuple(entered for entered, _ in kept), tuple(normed for _, normed in kept))


class _AllReached(Exception):
    """Ends a forward pass: what comes after is run elsewhere."""
