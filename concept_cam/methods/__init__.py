"""How a map is made of a gradient. A method is a function; this table is only for names that come from outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from jaxtyping import Float
from torch import Tensor

from concept_cam.gradients import TokenGradient
from concept_cam.methods.gradient import grad_cam, hires_cam, layer_cam

__all__ = ["METHODS", "Method", "grad_cam", "hires_cam", "layer_cam"]

Method = Callable[[TokenGradient], Float[Tensor, "K B rows cols"]]

METHODS: Mapping[str, Method] = {method.__name__: method for method in (grad_cam, hires_cam, layer_cam)}
