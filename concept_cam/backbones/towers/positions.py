"""Learned positions on another grid."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def interpolate(
    positions: Float[Tensor, "M D"], prefix: int, old: tuple[int, int], new: tuple[int, int], antialias: bool = True
) -> nn.Parameter:
    """Positions for a (rows, cols) grid from those of another: bicubic, in single precision; the prefix keeps its own."""
    given = positions.detach()
    grid = given[prefix:].unflatten(0, old).permute(2, 0, 1)[None]
    exact = grid.to(torch.promote_types(grid.dtype, torch.float32))
    fitted = F.interpolate(exact, size=new, mode="bicubic", antialias=antialias, align_corners=False)
    patches = fitted[0].permute(1, 2, 0).flatten(0, 1).to(given)
    return nn.Parameter(torch.cat([given[:prefix], patches]), requires_grad=False)
