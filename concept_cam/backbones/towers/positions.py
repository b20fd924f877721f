"""Learned positions on another grid."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from concept_cam.errors import BackboneError
from concept_cam.images import Size


def interpolate(
    positions: Float[Tensor, "M D"],
    prefix: int,
    old: tuple[int, int],
    new: tuple[int, int],
    antialias: bool = True,
    align_corners: bool = False,
) -> nn.Parameter:
    """Interpolate positions to another grid, bicubically, in single precision; those of the prefix stay as they are.

    Args:
        positions: of the prefix, then of the grid row by row.
        prefix: the number of tokens that are no patches.
        old: (rows, cols) of the given grid.
        new: (rows, cols) of the wanted grid.
        antialias: as in ``torch.nn.functional.interpolate``.
        align_corners: as in ``torch.nn.functional.interpolate``.
    """
    given = positions.detach()
    grid = given[prefix:].unflatten(0, old).permute(2, 0, 1)[None]
    exact = grid.to(torch.promote_types(grid.dtype, torch.float32))
    fitted = F.interpolate(exact, size=new, mode="bicubic", antialias=antialias, align_corners=align_corners)
    patches = fitted[0].permute(1, 2, 0).flatten(0, 1).to(given)
    return nn.Parameter(torch.cat([given[:prefix], patches]), requires_grad=False)


def check_multiple(size: Size, patch: Size) -> None:
    """Raise BackboneError unless whole patches fill an input of that size."""
    if size[0] % patch[0] or size[1] % patch[1] or min(size) < 1:
        raise BackboneError(
            f"An input of {size[0]} x {size[1]} pixels is not made of whole patches; its sides must be multiples of "
            f"{patch[0]} and {patch[1]}."
        )
