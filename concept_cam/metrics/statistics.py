"""Honest comparison of two methods on the same pictures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


def mean_interval(values: Float[Tensor, " N"], resamples: int = 2000, seed: int = 0) -> Interval:
    """The mean over the pictures, with a percentile bootstrap interval (Efron 1979) over pictures."""
    values = values.double()
    means = _resampling(len(values), resamples, seed) @ values
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64, device="cpu")).tolist()
    return Interval(float(values.mean()), low, high)


@lru_cache(maxsize=2)
def _resampling(count: int, resamples: int, seed: int) -> Float[Tensor, "R N"]:
    """How much of each picture is in each resample; a table has hundreds of intervals over the same pictures."""
    drawn = torch.randint(
        count, (resamples, count), generator=torch.Generator().manual_seed(seed), dtype=torch.int64, device="cpu"
    )
    share = torch.full((1, 1), 1 / count, dtype=torch.float64, device="cpu").expand(resamples, count)
    return torch.zeros(resamples, count, dtype=torch.float64, device="cpu").scatter_add_(1, drawn, share)


def paired_difference(ours: Float[Tensor, " N"], base: Float[Tensor, " N"], resamples: int = 2000, seed: int = 0) -> Interval:
    """The mean of ``ours - base`` over the same pictures, with its bootstrap interval."""
    return mean_interval(ours.double() - base.double(), resamples, seed)


def effect_size(ours: Float[Tensor, " N"], base: Float[Tensor, " N"]) -> float:
    """Cohen's d of pairs: the mean of ``ours - base`` over its standard deviation; 0 without a difference.

    Says how sure a gain is on a single picture, whatever the number of pictures; 0.2 is small, 0.8 large. Infinite where
    every picture gains the same; not a number of fewer than two pictures.

    Example:
        >>> import torch
        >>> round(effect_size(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 0.0])), 4)
        1.4142
    """
    difference = ours.double() - base.double()
    if len(difference) < 2:
        return float("nan")
    mean = difference.mean()
    return float(mean / difference.std()) if mean != 0 else 0.0
