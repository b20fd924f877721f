"""The maps of many concepts for one image in little more than a byte a value.

    maps = sum_j scale_j · coefficient_j ⊗ basis_j + scale · rest        (16 bits, 16 bits; 8 bits with a scale for each map)

A contrastive map is the small difference of two large base maps, of which it must not have the rounding errors. So what the
maps share, their first singular vectors, is kept apart with 16 bits, and 8 bits are enough for the rest of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Float32, Int8, Int16
from torch import Tensor

_SHARED = 16
"""How many singular vectors are kept apart."""

FINE, _COARSE = 32767, 127


@final
@dataclass(frozen=True, eq=False)
class PackedMaps:
    """The base maps of K concepts over N cells.

    Attributes:
        basis: what the maps share.
        coefficients: how much each map has of it.
        shared: the scale of each row of the basis.
        rest: of each map.
        scales: of the rest of each map; no value is further than half of it from the true one.

    Example:
        >>> import torch
        >>> from concept_cam.explorer import PackedMaps
        >>> maps = torch.randn(40, 36, generator=torch.Generator().manual_seed(0))
        >>> packed = PackedMaps.of(maps)
        >>> bool(((packed.unpacked() - maps).abs() <= 0.501 * packed.scales[:, None]).all())
        True
    """

    basis: Int16[Tensor, "R N"]
    coefficients: Int16[Tensor, "K R"]
    shared: Float32[Tensor, " R"]
    rest: Int8[Tensor, "K N"]
    scales: Float32[Tensor, " K"]

    @classmethod
    def of(cls, maps: Float[Tensor, "K N"]) -> PackedMaps:
        """Pack maps; where cells are missing from the sum of the others, the rest has them."""
        exact = maps.detach().cpu().double()
        left, values, right = torch.linalg.svd(exact, full_matrices=False)
        count = min(_SHARED, len(values))
        coefficients, wide = whole(left[:, :count] * values[:count], 0, FINE)
        basis, high = whole(right[:count], 1, FINE)
        shared = (wide[0] * high[:, 0]).float()
        low = (coefficients.double() * shared.double()) @ basis.double()
        rest, scales = whole(exact - low, 1, _COARSE)
        return cls(basis.short(), coefficients.short(), shared, rest.to(torch.int8), scales[:, 0].float())

    def unpacked(self) -> Float[Tensor, "K N"]:
        """The maps as the page has them."""
        low = (self.coefficients.double() * self.shared.double()) @ self.basis.double()
        return (low + self.scales.double()[:, None] * self.rest.double()).float()


def whole(numbers: Float[Tensor, "A B"], axis: int, most: int) -> tuple[Tensor, Tensor]:
    """Whole numbers up to ``most``, with the scale of each row (axis 1) or column (axis 0).

    Args:
        numbers: to be rounded.
        axis: along which numbers share a scale.
        most: the largest whole number.
    """
    scale = numbers.abs().amax(axis, keepdim=True) / most
    # Of a row without any value other than 0 the scale is 0, and so are its whole numbers.
    return (numbers / torch.where(scale > 0, scale, 1)).round(), scale
