"""Honest comparison of two methods on the same images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from concept_cam.errors import OptionError


@dataclass(frozen=True)
class Interval:
    """A mean with an interval; as text ``0.420 [0.310, 0.530]``, the mean alone where the ends are not known (NaN)."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f}" if math.isnan(self.low) else f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mean_interval(values: Float[Tensor, " N"], resamples: int = 2000, seed: int = 0) -> Interval:
    """The mean over the images, with a 95 % percentile bootstrap interval (Efron 1979) over images.

    The ends are NaN for fewer than two images: resamples of one image are that image, which says nothing of others. For
    fewer than about ten the interval is too narrow; ``bounded_interval`` is not.
    """
    values = values.double()
    if len(values) < 2:
        return Interval(float(values.mean()), math.nan, math.nan)
    means = _resampling(len(values), resamples, seed) @ values
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64, device="cpu")).tolist()
    return Interval(float(values.mean()), low, high)


def bounded_interval(values: Sequence[float], error: float = 0.05) -> Interval:
    """The mean of shares between 0 and 1, with an interval that also holds for few images.

    Each end misses the true mean with a probability of at most ``error / 2``, whatever the distribution and from one image
    on: the interval of a single share x at an error of 5 % is [0.025 x, 1 - 0.025 (1 - x)]. Of values that are 0 or 1 it is
    the interval of Clopper and Pearson.

    Source: Gaffke's bound (N. Gaffke, Mathematical Methods of Statistics 14, 2005) in the form of Learned-Miller and Thomas
    (arXiv 1905.06208), who conjecture its coverage and find no exception. The lower end is the ``error / 2`` quantile of the
    mean of the values and one more at 0 under random weights (a Bayesian bootstrap); the upper end is the same from above.

    Args:
        values: one or more, from 0 to 1.
        error: the share of intervals that may miss, of both ends together; divided by their number, all of several
            intervals hold at once (Bonferroni).

    Raises:
        OptionError: there are no values, or one is outside.

    Example:
        >>> from concept_cam.metrics import bounded_interval
        >>> str(bounded_interval([0.95])), str(bounded_interval([0.9, 0.95, 1.0, 0.95]))
        ('0.950 [0.024, 0.999]', '0.950 [0.377, 0.988]')
    """
    if not values or not all(-1e-6 <= value <= 1 + 1e-6 for value in values):
        raise OptionError("An interval of shares needs one or more values, each from 0 to 1.")
    shares = [min(max(value, 0.0), 1.0) for value in values]
    low, high = _least_mean(shares, error / 2), 1 - _least_mean([1 - share for share in shares], error / 2)
    return Interval(sum(shares) / len(shares), low, high)


def fewest_images(limit: float, error: float = 0.05) -> int:
    """How many images it takes at least until the lower end of ``bounded_interval`` can be above a limit.

    Of n images whose shares are all 1, the lower end is ``(error / 2) ** (1 / n)``.

    Example:
        >>> from concept_cam.metrics import bounded_interval, fewest_images
        >>> fewest_images(0.3), bounded_interval([1.0] * 4).low > 0.3, bounded_interval([1.0] * 3).low > 0.3
        (4, True, False)
    """
    return math.floor(math.log(error / 2) / math.log(limit)) + 1


def _least_mean(shares: Sequence[float], error: float) -> float:
    low, high = 0.0, sum(shares) / len(shares)
    for _ in range(24):
        middle = (low + high) / 2
        if _chance_below([*shares, 0.0], middle) <= error:
            low = middle
        else:
            high = middle
    return low


def _chance_below(values: Sequence[float], limit: float) -> float:
    """The probability that the mean of the values under random weights, uniform on the simplex, is at most a limit.

    Such weights are exponential variables over their sum, so that the excesses of the values above the limit, each times its
    variable, have to be less than the lacks of those below. Either sum is a waiting time in phases, and which of two phases
    ends first depends on their rates alone: ``chances[k]`` is the probability once k phases of the excesses have ended.
    """
    above, below = [v - limit for v in values if v > limit], [limit - v for v in values if v < limit]
    chances = [0.0] * len(above) + [1.0]
    for lack in reversed(below):
        for k in reversed(range(len(above))):
            chances[k] = (lack * chances[k + 1] + above[k] * chances[k]) / (above[k] + lack)
    return chances[0]


@lru_cache(maxsize=2)
def _resampling(count: int, resamples: int, seed: int) -> Float[Tensor, "R N"]:
    """How much of each image is in each resample; a table has hundreds of intervals over the same images."""
    drawn = torch.randint(
        count, (resamples, count), generator=torch.Generator().manual_seed(seed), dtype=torch.int64, device="cpu"
    )
    share = torch.full((1, 1), 1 / count, dtype=torch.float64, device="cpu").expand(resamples, count)
    return torch.zeros(resamples, count, dtype=torch.float64, device="cpu").scatter_add_(1, drawn, share)


def paired_difference(ours: Float[Tensor, " N"], base: Float[Tensor, " N"], resamples: int = 2000, seed: int = 0) -> Interval:
    """The mean of ``ours - base`` over the same images, with its bootstrap interval."""
    return mean_interval(ours.double() - base.double(), resamples, seed)


def effect_size(ours: Float[Tensor, " N"], base: Float[Tensor, " N"]) -> float:
    """Cohen's d of pairs: the mean of ``ours - base`` over its standard deviation; 0 without a difference.

    Says how sure a gain is on a single image, whatever the number of images; 0.2 is small, 0.8 large. Infinite where
    every image gains the same; not a number of fewer than two images.

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
