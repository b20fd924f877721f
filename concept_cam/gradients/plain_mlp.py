"""The MLP of a plain block, y = x + W_2 act(W_1 norm(x)), differentiated by hand: two products of matrices, and no more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from concept_cam.backbones.block import Block
from concept_cam.backbones.closed_form.end import LINEAR, is_by_number, is_plain
from concept_cam.gradients.jacobian import pull


@final
@dataclass(frozen=True)
class PlainMLP:
    """The layers of an MLP.

    Attributes:
        norm: before it.
        expand: W_1.
        activation: act, elementwise.
        contract: W_2.
    """

    norm: nn.LayerNorm
    expand: nn.Linear
    activation: Callable[[Tensor], Tensor]
    contract: nn.Linear

    @classmethod
    def of(cls, block: Block) -> PlainMLP | None:
        """That of a block; None where its layers are not known, or are not plain ones."""
        layers = block.layers()
        if layers is None:
            return None
        _, norm, expand, activation, contract = layers
        linear = all(type(layer) in LINEAR and is_plain(layer) for layer in (expand, contract))
        normed = isinstance(norm, nn.LayerNorm) and norm.elementwise_affine and is_plain(norm)
        if not linear or not normed or not is_by_number(activation, expand.weight):
            return None
        return cls(norm, expand, activation, contract)

    def along(self, at: Float[Tensor, "B D"], changes: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """By how much changes of x change y.

        Args:
            at: x.
            changes: of x; they are not kept.
        """
        hidden = self.expand(self.norm(at))
        # Number by number, so that the sum of a row of its Jacobian is all that row has.
        (slope,) = pull(self.activation, hidden, torch.ones_like(hidden)[None], 1)
        centred = at - at.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + self.norm.eps).rsqrt()
        unit = centred * scale
        # A norm's own Jacobian is g s (C - x x^T / D), x being normalised and C what subtracts the mean.
        shared = changes @ unit[..., None] / unit.shape[-1]
        moved = torch.baddbmm(changes - changes.mean(-1, keepdim=True), shared, unit[:, None], alpha=-1)
        moved.mul_((scale * self.norm.weight)[:, None].to(moved))
        inner = (moved.flatten(0, 1) @ self.expand.weight.T).view(*moved.shape[:2], -1).mul_(slope[:, None])
        out = torch.addmm(changes.flatten(0, 1), inner.flatten(0, 1), self.contract.weight.T)
        return out.view_as(changes)
