"""Calibration: does the confidence of a model match its accuracy?"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from concept_cam.errors import OptionError
from concept_cam.metrics.shapes import check_shapes


def calibration_error(confidence: Float[Tensor, " N"], right: Bool[Tensor, " N"], bins: int = 10) -> float:
    """Expected calibration error: mean gap between confidence and accuracy over bins of equal width, weighted by their size.

    0 to 1, lower is better; NaN for an empty input. Guo et al., On Calibration of Modern Neural Networks (arXiv 1706.04599),
    Eq. 3. Bins are open below and closed above; the first one also holds 0.

    Args:
        confidence: probability of the predicted class, 0 to 1.
        right: whether the predicted class is the true one.
        bins: number of bins, 1 or more.

    Raises:
        OptionError: there are no bins, a confidence is not from 0 to 1, or the arguments differ in shape.

    Example:
        >>> import torch
        >>> round(calibration_error(torch.tensor([0.9, 0.9, 0.6]), torch.tensor([True, False, True])), 6)
        0.4
    """
    found = calibration_bins(confidence, right, bins)
    count = sum(one.count for one in found)
    return sum(abs(one.confidence - one.accuracy) * one.count for one in found) / count if count else float("nan")


@dataclass(frozen=True)
class CalibrationBin:
    """Images of similar confidence.

    Attributes:
        low, high: the confidences between which they are.
        count: how many there are, 1 or more.
        confidence: their mean confidence, 0 to 1.
        accuracy: the share of them that is predicted correctly, 0 to 1.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def calibration_bins(confidence: Float[Tensor, " N"], right: Bool[Tensor, " N"], bins: int = 10) -> list[CalibrationBin]:
    """Confidence and accuracy in bins of equal width, those without images omitted; see ``calibration_error``.

    Args:
        confidence: probability of the predicted class, 0 to 1.
        right: whether the predicted class is the true one.
        bins: number of bins, 1 or more.

    Raises:
        OptionError: there are no bins, a confidence is not from 0 to 1, or the arguments differ in shape.

    Example:
        >>> import torch
        >>> from concept_cam.metrics import calibration_bins
        >>> found = calibration_bins(torch.tensor([0.75, 0.75, 0.5]), torch.tensor([True, False, True]), bins=2)
        >>> [(one.high, one.count, one.confidence, one.accuracy) for one in found]
        [(0.5, 1, 0.5, 1.0), (1.0, 2, 0.75, 0.5)]
    """
    if bins < 1:
        raise OptionError(f"bins is {bins}; expected at least 1.")
    check_shapes(confidence=(confidence, "N"), right=(right, "N"))
    confidence = confidence.double()
    # Softmax in single precision may end a rounding above 1.
    if not ((confidence >= 0) & (confidence <= 1 + 1e-6)).all():
        raise OptionError(f"Confidences from {confidence.min():g} to {confidence.max():g}; expected probabilities, 0 to 1.")
    which = (confidence * bins).ceil().clamp(1, bins).long() - 1
    found = []
    for k in which.unique().tolist():
        here = which == k
        means = float(confidence[here].mean()), float(right[here].double().mean())
        found.append(CalibrationBin(k / bins, (k + 1) / bins, int(here.sum()), *means))
    return found
