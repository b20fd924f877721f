"""Layers taken as the linear maps that they are, or are once the statistics of a norm are held fixed; each is tried first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from concept_cam.backbones.backbone import Backbone
from concept_cam.errors import BackboneError
from concept_cam.gradients.alterations import alterations
from concept_cam.gradients.tolerance import relative_error, tolerance

_STREAM = " Use class_stream."


@final
@dataclass(frozen=True)
class Frozen:
    """A layer norm with its mean and variance held fixed: y = S C x + b. S is diagonal, and C subtracts the mean.

    Attributes:
        scale: S, the weight of the norm over the standard deviation of what entered it, (B, D).
        bias: b, (D,).
    """

    scale: Float[Tensor, "B D"]
    bias: Float[Tensor, " D"]

    @classmethod
    def of(cls, norm: nn.Module, entered: Float[Tensor, "B D"]) -> Frozen:
        """A norm at what entered it; what it gives is compared with what the norm gives.

        Raises:
            BackboneError: it is no layer norm.
        """
        if not isinstance(norm, nn.LayerNorm):
            raise BackboneError(f"direct and shares_of need a LayerNorm, but this model has a {type(norm).__name__}.{_STREAM}")
        exact = entered.to(torch.promote_types(entered.dtype, torch.float32))
        deviation = (exact.var(-1, correction=0, keepdim=True) + norm.eps).rsqrt().to(entered)
        weight = torch.ones_like(entered[0]) if norm.weight is None else norm.weight.detach().to(entered)
        bias = torch.zeros_like(entered[0]) if norm.bias is None else norm.bias.detach().to(entered)
        frozen = cls(deviation * weight, bias)
        off = relative_error(frozen.push(entered[:, None])[:, 0] + bias, norm(entered))
        # Of an image whose numbers are none nothing can be tried; its map has an error of its own.
        if entered.isfinite().all() and not off <= tolerance(entered.dtype).embedding:
            raise BackboneError(
                f"direct and shares_of need a plain LayerNorm, but this {type(norm).__name__} gives something else (relative "
                f"error {off:.1e}).{_STREAM}"
            )
        return frozen

    def push(self, vectors: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """S C x, without the bias."""
        return (vectors - vectors.mean(-1, keepdim=True)) * self.scale[:, None]

    def pull(self, directions: Float[Tensor, "K B D"]) -> Float[Tensor, "K B D"]:
        """C S d."""
        scaled = directions * self.scale
        return scaled - scaled.mean(-1, keepdim=True)


def check_affine(affine: Callable[[Tensor], Tensor], vectors: Float[Tensor, "B W"], backbone: Backbone) -> None:
    """Refuse layers for which f(x) + f(y) is not f(x + y) + f(0), y being x with its channels moved on by one.

    Args:
        affine: layers that are taken to be linear up to a constant.
        vectors: x.
        backbone: whose layers they are.

    Raises:
        BackboneError: they are such.
    """
    moved = vectors.roll(1, -1)
    apart, joint = affine(vectors) + affine(moved), affine(vectors + moved) + affine(torch.zeros_like(vectors))
    if vectors.isfinite().all() and not (apart - joint).norm() <= tolerance(vectors.dtype).embedding * apart.norm():
        raise BackboneError(
            f"direct and shares_of need linear layers after the attention and after the last norm; {backbone.name} has others."
            f"{alterations(backbone) or _STREAM}"
        )
