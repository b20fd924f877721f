"""Means, paired differences and effect sizes over images, with 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from concept_cam.errors import OptionError
from concept_cam.metrics.shapes import check_shapes


@dataclass(frozen=True)
class Interval:
    """A mean with an interval, printed as ``0.420 [0.310, 0.530]``; without the interval where it is unknown (NaN).

    Attributes:
        mean: of the values.
        low: lower end of the interval.
        high: upper end of the interval.

    Example:
        >>> str(Interval(0.42, 0.31, 0.53))
        '0.420 [0.310, 0.530]'
    """

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f}" if math.isnan(self.low) else f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mean_interval(values: Float[Tensor, " N"], resamples: int = 2000, seed: int = 0) -> Interval:
    """Mean over the images with a 95 % percentile bootstrap interval (Efron 1979).

    The ends are NaN for fewer than two images, since every resample of one image is that image. For fewer than about ten
    images the interval is too narrow; that of ``bounded_interval`` is not.

    Args:
        values: one for each image.
        resamples: number of bootstrap resamples.
        seed: of the resampling.

    Example:
        >>> import torch
        >>> str(mean_interval(torch.tensor([0.0, 1.0] * 50)))
        '0.500 [0.400, 0.600]'
    """
    check_shapes(values=(values, "N"))
    values = values.double()
    if len(values) < 2:
        return Interval(float(values.mean()), math.nan, math.nan)
    means = _resampling(len(values), resamples, seed) @ values
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64, device="cpu")).tolist()
    return Interval(float(values.mean()), low, high)


def bounded_interval(values: Sequence[float], error: float = 0.05) -> Interval:
    """Mean of values between 0 and 1 with an interval that also holds for few images.

    Each end misses the true mean with a probability of at most ``error / 2``, for any distribution and any number of images:
    the interval of a single value x at an error of 5 % is [0.025 x, 1 - 0.025 (1 - x)]. For values of 0 and 1 it is the
    Clopper-Pearson interval.

    Source: Gaffke's bound (N. Gaffke, Mathematical Methods of Statistics 14, 2005) in the form of Learned-Miller and Thomas
    (arXiv 1905.06208), who conjecture its coverage and find no exception. The lower end is the ``error / 2`` quantile of the
    mean of the values and one extra 0 under random weights (a Bayesian bootstrap); the upper end mirrors it.

    Args:
        values: one or more, each from 0 to 1.
        error: the probability that the interval misses the mean, for both ends together. Divided by the number of intervals,
            it is the probability that any of them misses (Bonferroni).

    Raises:
        OptionError: there are no values, or one is out of range.

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
    """Smallest number of images for which the lower end of ``bounded_interval`` can exceed a limit.

    For n images that all have the value 1, the lower end is ``(error / 2) ** (1 / n)``.

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
    """The share of each image in each resample; kept, since a table has hundreds of intervals over the same images."""
    drawn = torch.randint(
        count, (resamples, count), generator=torch.Generator().manual_seed(seed), dtype=torch.int64, device="cpu"
    )
    share = torch.full((1, 1), 1 / count, dtype=torch.float64, device="cpu").expand(resamples, count)
    return torch.zeros(resamples, count, dtype=torch.float64, device="cpu").scatter_add_(1, drawn, share)


def paired_difference(ours: Float[Tensor, " N"], base: Float[Tensor, " N"], resamples: int = 2000, seed: int = 0) -> Interval:
    """Mean of ``ours - base`` over the same images with a 95 % bootstrap interval.

    Args:
        ours: one value for each image.
        base: the values to compare with, in the same order.
        resamples: number of bootstrap resamples.
        seed: of the resampling.

    Raises:
        OptionError: there is not one value of each for every image.

    Example:
        >>> import torch
        >>> str(paired_difference(torch.tensor([0.75, 0.5]), torch.tensor([0.25, 0.0])))
        '0.500 [0.500, 0.500]'
    """
    check_shapes(ours=(ours, "N"), base=(base, "N"))
    return mean_interval(ours.double() - base.double(), resamples, seed)


def effect_size(ours: Float[Tensor, " N"], base: Float[Tensor, " N"]) -> float:
    """Cohen's d of paired values: the mean of ``ours - base`` over its standard deviation; 0 without a difference.

    It measures how reliable a gain is on a single image and does not grow with the number of images; 0.2 is small, 0.8 large.
    It is infinite where every image gains the same, and NaN for fewer than two images.

    Raises:
        OptionError: there is not one value of each for every image.

    Example:
        >>> import torch
        >>> round(effect_size(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 0.0])), 4)
        1.4142
    """
    check_shapes(ours=(ours, "N"), base=(base, "N"))
    difference = ours.double() - base.double()
    if len(difference) < 2:
        return float("nan")
    mean = difference.mean()
    return float(mean / difference.std()) if mean != 0 else 0.0
