"""Honest comparison of two methods on the same pictures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


def paired_difference(ours: Float[Tensor, " N"], base: Float[Tensor, " N"], resamples: int = 4000, seed: int = 0) -> Interval:
    """The mean of ``ours - base`` over the pictures, with a percentile bootstrap interval (Efron 1979) over pictures."""
    difference = ours.double() - base.double()
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(difference), (resamples, len(difference)), generator=generator)
    means = difference[drawn].mean(1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(float(difference.mean()), low, high)
