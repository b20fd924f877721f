"""How much two computations of the same numbers may differ: rounding is accepted, another formula is not."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Tolerance(NamedTuple):
    """The largest relative errors that count as rounding in one precision.

    Attributes:
        embedding: of the same embedding, computed in two ways.
        gradient: of the same gradient, computed in two ways.
        rerun: of two runs of one model; kernels differ with a graph and with the size of a batch.
    """

    embedding: float
    gradient: float
    rerun: float


_TOLERANCES = {
    torch.float64: Tolerance(embedding=1e-9, gradient=1e-6, rerun=1e-9),
    torch.float32: Tolerance(embedding=1e-4, gradient=1e-2, rerun=1e-3),
    torch.bfloat16: Tolerance(embedding=5e-2, gradient=0.3, rerun=0.1),
    torch.float16: Tolerance(embedding=1e-2, gradient=0.1, rerun=2e-2),
}


def tolerance(dtype: torch.dtype) -> Tolerance:
    """The tolerance in a precision; that of float32 for a precision that is not listed."""
    return _TOLERANCES.get(dtype, _TOLERANCES[torch.float32])


def relative_error(ours: Float[Tensor, "*batch E"], own: Float[Tensor, "*batch E"]) -> float:
    """norm(ours - own) / norm(own); 0 if the two are equal, also where both are 0, and NaN if either holds a NaN."""
    if torch.equal(ours, own):
        return 0.0
    exact = torch.promote_types(own.dtype, torch.float32)
    return float((ours - own).to(exact).norm() / own.to(exact).norm())
