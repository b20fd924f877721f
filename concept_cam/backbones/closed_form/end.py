"""Everything after the attention of the last block, where it consists of plain layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from concept_cam.hooks import is_ours


@final
@dataclass(frozen=True)
class End:
    """x = r + W_o o,  y = x + W_2 act(W_1 norm x),  z = P norm' y: from the attention's output to the embedding.

    Attributes:
        project: W_o.
        norm: norm.
        expand: W_1.
        activation: act, elementwise.
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
        """The end that consists of these layers; None if one of them is not plain, such as a layer that an adapter replaced.

        Args:
            project: W_o.
            norm: norm.
            expand: W_1.
            activation: act.
            contract: W_2.
            last_norm: norm'.
            embed: P.
        """
        linear = all(type(layer) in LINEAR and is_plain(layer) for layer in (project, expand, contract))
        # Subclasses of the libraries compute in another precision, no more.
        norms = (norm, last_norm)
        normed = all(isinstance(n, nn.LayerNorm) and n.elementwise_affine and is_plain(n) for n in norms)
        if not linear or not normed or not isinstance(embed, Tensor) or not is_by_number(activation, embed):
            return None
        return cls(project, norm, expand, activation, contract, last_norm, embed)

    def tensors(self) -> Iterator[Tensor]:
        """All tensors that the products of matrices depend on."""
        for layer in (self.project, self.norm, self.expand, self.contract, self.last_norm):
            yield from layer.parameters(recurse=False)
        yield self.embed


LINEAR = (nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear)
"""Classes of layers that compute W x + b and nothing else."""


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer computes what its class says: no method replaced on the instance, no hook that a user set."""
    hooks = (*layer._forward_hooks.values(), *layer._forward_pre_hooks.values())
    return "forward" not in vars(layer) and all(is_ours(hook) for hook in hooks)


def is_by_number(activation: Any, like: Tensor) -> bool:
    """Whether a function is elementwise, as the Jacobian of an end assumes; it is tested on a few numbers."""
    some = torch.linspace(-2, 2, 5, dtype=torch.float32, device=like.device)
    try:
        whole, alone = activation(some), torch.cat([activation(one) for one in some.split(1)])
    except (RuntimeError, TypeError, ValueError):
        return False
    return bool(torch.allclose(whole, alone, rtol=1e-5, atol=1e-6))
