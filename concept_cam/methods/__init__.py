"""How a map is made of a gradient. A method is a function; this table is only for names that come from outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from concept_cam.backbones.backbone import TokenLayout
from concept_cam.gradients import TokenGradient, WholeGradient
from concept_cam.methods.gradient import grad_cam, hires_cam, layer_cam

__all__ = ["METHODS", "Method", "grad_cam", "hires_cam", "is_linear", "layer_cam"]

Method = Callable[[TokenGradient], Float[Tensor, "K B rows cols"]]


@cache
def is_linear(method: Method) -> bool:
    """Whether a method is linear in the gradient, and so in the direction; tried on numbers of no meaning."""
    generator = torch.Generator().manual_seed(0)
    tokens, first, second = (torch.randn(1, 1, 6, 5, generator=generator, dtype=torch.float64) for _ in range(3))
    one, other, both = (
        method(WholeGradient(tokens[0], TokenLayout(0, 2, 3), whole)) for whole in (first, second, first - 2 * second)
    )
    return torch.allclose(both, one - 2 * other, rtol=1e-9, atol=1e-12)


METHODS: Mapping[str, Method] = {method.__name__: method for method in (grad_cam, hires_cam, layer_cam)}
