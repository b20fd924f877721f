"""All that comes after the attention of a last block, where it is built plainly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

from jaxtyping import Float
from torch import Tensor, nn


@final
@dataclass(frozen=True)
class End:
    """x = r + W_o o,  y = x + W_2 act(W_1 norm x),  z = P norm' y: from the attention's output to the embedding.

    Attributes:
        project: W_o.
        norm: norm.
        expand: W_1.
        activation: act, number by number.
        contract: W_2.
        last_norm: norm'.
        embed: P, (E, D).
    """

    project: nn.Linear
    norm: nn.LayerNorm
    expand: nn.Linear
    activation: Callable[[Tensor], Tensor]
    contract: nn.Linear
    last_norm: nn.LayerNorm
    embed: Float[Tensor, "E D"]

    @classmethod
    def of(
        cls, project: Any, norm: Any, expand: Any, activation: Any, contract: Any, last_norm: Any, embed: Any
    ) -> End | None:
        """The end made of these, if they are plain; a library may have put a layer of its own in their place."""
        linear = all(type(layer) in _LINEAR for layer in (project, expand, contract))
        normed = all(isinstance(layer, nn.LayerNorm) and layer.elementwise_affine for layer in (norm, last_norm))
        if not linear or not normed or not isinstance(embed, Tensor):
            return None
        return cls(project, norm, expand, activation, contract, last_norm, embed)


_LINEAR = (nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear)
