"""How a store keeps the vectors of a field: in 2 bytes a number, or in 1 byte with a scale for each patch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from concept_cam.errors import OptionError

KEEP: Mapping[str, str] = {"exact": "halves", "compact": "levels"}
"""The ways to keep a field, each with the name of its tensor in a batch."""

_LEVELS = 127


def check_keep(keep: str) -> None:
    """Raise OptionError if there is no such way to keep a field."""
    if keep not in KEEP:
        raise OptionError(f"keep is {keep!r}; expected {' or '.join(KEEP)}.")


def pack(vectors: Float[Tensor, "N E"], keep: str = "exact") -> tuple[Shaped[Tensor, "N E"], Float[Tensor, " scales"]]:
    """The numbers of a field as they are kept, and their scales.

    ``exact`` has float16 numbers and one scale, so that the largest is 1. ``compact`` has 8-bit integers and a scale for each
    patch: patches differ in size by orders of magnitude, and the weak ones decide most of the ranks in a map.

    Args:
        vectors: one for each patch, finite.
        keep: ``exact`` or ``compact``.

    Raises:
        OptionError: there is no such way.

    Example:
        >>> import torch
        >>> vectors = torch.tensor([[1.0, -2.0], [0.001, 0.002]])
        >>> pack(vectors, "compact")[0].tolist()
        [[64, -127], [64, 127]]
        >>> unpack(*pack(vectors)).allclose(vectors, rtol=1e-3)
        True
    """
    check_keep(keep)
    whole = vectors.detach().float().cpu()
    most = whole.abs().amax().reshape(1) if keep == "exact" else whole.abs().amax(1)
    scales = most if keep == "exact" else most / _LEVELS
    scales = torch.where(scales > 0, scales, torch.ones_like(scales))
    numbers = whole / scales[:, None]
    return (numbers.half() if keep == "exact" else numbers.round().to(torch.int8)), scales


def unpack(numbers: Shaped[Tensor, "N E"], scales: Float[Tensor, " scales"]) -> Float[Tensor, "N E"]:
    """The vectors that ``pack`` kept.

    Example:
        >>> import torch
        >>> unpack(torch.tensor([[127, 0]], dtype=torch.int8), torch.tensor([0.5]))
        tensor([[63.5000,  0.0000]])
    """
    return numbers.float() * scales[:, None]
