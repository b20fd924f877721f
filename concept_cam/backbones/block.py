"""A block of a transformer: an attention, then an MLP, each after a norm of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

from jaxtyping import Float
from torch import Tensor, nn

Rotation = Callable[[Tensor, int], Tensor]
"""Turns queries or keys (B, M, H, d) by the angles of their positions times a sign, 1 or -1."""


@dataclass(frozen=True)
class Projections:
    """The linear layers of query, key and value: weights (H d, D), biases (H d,), and the number of heads H."""

    query: tuple[Tensor, Tensor]
    key: tuple[Tensor, Tensor]
    value: tuple[Tensor, Tensor]
    heads: int

    @classmethod
    def of(cls, attention: Any) -> Projections:
        """The projections of an ``nn.MultiheadAttention``, packed or separate.

        Raises:
            ValueError: it is of another class, or attends to more than the tokens.
        """
        check_kind(attention, nn.MultiheadAttention)
        if attention.bias_k is not None or attention.add_zero_attn:
            raise ValueError("an attention with extra keys")
        if attention.in_proj_weight is not None:
            weights = attention.in_proj_weight.detach().chunk(3)
        else:
            weights = tuple(getattr(attention, f"{name}_proj_weight").detach() for name in "qkv")
        return cls.packed(weights, attention.in_proj_bias, attention.num_heads)

    @classmethod
    def packed(cls, weights: Sequence[Tensor], biases: Tensor | None, heads: int) -> Projections:
        """The projections given by their weights.

        Args:
            weights: of query, key and value.
            biases: of the three in one tensor, or None.
            heads: the number of heads.
        """
        parts = [weight.new_zeros(len(weight)) for weight in weights] if biases is None else biases.detach().chunk(3)
        query, key, value = zip([weight.detach() for weight in weights], parts, strict=True)
        return cls(query, key, value, heads)

    @classmethod
    def of_linears(cls, query: nn.Module, key: nn.Module, value: nn.Module, heads: int) -> Projections:
        """The projections given by three linear layers.

        Args:
            query: a linear layer.
            key: a linear layer.
            value: a linear layer.
            heads: the number of heads.

        Raises:
            ValueError: one is of another class.
        """

        def parts(linear: Any) -> tuple[Tensor, Tensor]:
            check_kind(linear, nn.Linear)
            weight = linear.weight.detach()
            return weight, weight.new_zeros(len(weight)) if linear.bias is None else linear.bias.detach()

        return cls(parts(query), parts(key), parts(value), heads)


def is_of(library: str, *layers: nn.Module) -> bool:
    """Whether all layers are of classes that a library defines: a subclass from elsewhere may compute something else."""
    return all(type(layer).__module__.partition(".")[0] == library and "forward" not in vars(layer) for layer in layers)


def check_kind(layer: nn.Module, kind: type[nn.Module]) -> None:
    """Raise ValueError unless a layer is of exactly that class: a subclass or an adapter may compute something else."""
    if type(layer) is kind and not {"forward", "weight", "in_proj_weight"} & vars(layer).keys():
        return
    name = f"{type(layer).__module__}.{type(layer).__qualname__}"
    if type(layer) is kind:
        raise ValueError(f"the forward of a {name} was replaced, or a hook makes its weights")
    cure = "; merge_and_unload() makes it plain" if hasattr(layer, "lora_A") or hasattr(layer, "base_layer") else ""
    raise ValueError(f"a layer of the kind {name} where {kind.__name__} was expected{cure}")


@final
@dataclass(frozen=True)
class Block:
    """The steps of a block. All functions read the parameters at each call, since they may be replaced.

    Attributes:
        module: the block itself.
        norm: the first norm. Its input is the residual stream, its output is projected to query, key and value.
        second_norm: the norm before the MLP; it acts on each token by itself.
        projections: of the attention.
        outward: from the attention's output (..., W), after the inner norm, to what it adds to the residual (..., D): affine.
        mlp: from the residual stream after the attention to that after the MLP, (..., D).
        rotate: for rotary positions.
        inner: a norm of the attention's output, of those that have one.
        layers: where the block is x = r + W_o o, y = x + W_2 act(W_1 norm x): its W_o, norm, W_1, act and W_2; else None.
    """

    module: nn.Module
    norm: nn.Module
    second_norm: nn.Module
    projections: Callable[[], Projections]
    outward: Callable[[Tensor], Tensor]
    mlp: Callable[[Tensor], Tensor]
    rotate: Rotation | None = None
    inner: nn.Module | None = None
    layers: Callable[[], tuple[Any, Any, Any, Any, Any] | None] = lambda: None

    def project(self, output: Float[Tensor, "... W"]) -> Float[Tensor, "... D"]:
        """From the output of the attention to what it adds to the residual stream."""
        return self.outward(output if self.inner is None else self.inner(output))

    def finish(self, output: Float[Tensor, "... W"], residual: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """From the output of the attention to the residual stream after the block."""
        return self.mlp(residual + self.project(output))
