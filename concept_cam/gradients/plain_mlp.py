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
from concept_cam.gradients.folded import exact, standardized
from concept_cam.gradients.jacobian import pull
from concept_cam.gradients.tolerance import relative_error, tolerance


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
    def of(cls, block: Block, at: Float[Tensor, "B D"]) -> PlainMLP | None:
        """The MLP of a block; None if its layers are not known, not plain, or do not give what the block gives.

        Args:
            block: the block; no hook of a user's may be on it or in it.
            at: x, at which both are compared.
        """
        layers = block.layers()
        if layers is None or not all(is_plain(module) for module in block.module.modules()):
            return None
        _, norm, expand, activation, contract = layers
        linear = all(type(layer) in LINEAR for layer in (expand, contract))
        normed = isinstance(norm, nn.LayerNorm) and norm.elementwise_affine
        if not linear or not normed or not is_by_number(activation, expand.weight):
            return None
        found = cls(norm, expand, activation, contract)
        ours, own = at + contract(activation(expand(found.normed(at)))), block.mlp(at)
        return found if relative_error(ours, own) <= tolerance(own.dtype).embedding or not own.isfinite().all() else None

    def normed(self, at: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """What a layer norm makes of x, by its formula: a norm of a user's may compute something else."""
        unit, _ = standardized(exact(at), self.norm.eps)
        bias = 0 if self.norm.bias is None else exact(self.norm.bias)
        return (unit * exact(self.norm.weight) + bias).to(at)

    def along(self, at: Float[Tensor, "B D"], changes: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """The change of y for each change of x: the product with the Jacobian of the MLP at x.

        Args:
            at: x.
            changes: N changes of x for each image.
        """
        hidden = self.expand(self.normed(at))
        # The activation is elementwise, so its Jacobian is diagonal, and its product with ones is the diagonal.
        (slope,) = pull(self.activation, hidden, torch.ones_like(hidden)[None], 1)
        # In single precision at least: the square of a large channel is more than float16 holds.
        unit, scale = standardized(exact(at), self.norm.eps)
        # A norm's own Jacobian is g s (C - x x^T / D), x being normalised and C what subtracts the mean.
        shared = changes @ (unit / unit.shape[-1]).to(changes)[..., None]
        moved = torch.baddbmm(changes - changes.mean(-1, keepdim=True), shared, unit.to(changes)[:, None], alpha=-1)
        moved.mul_((scale * exact(self.norm.weight)).to(moved)[:, None])
        inner = (moved.flatten(0, 1) @ self.expand.weight.T).view(*moved.shape[:2], -1).mul_(slope[:, None])
        out = torch.addmm(changes.flatten(0, 1), inner.flatten(0, 1), self.contract.weight.T)
        return out.view_as(changes)
