"""Calibration: does the confidence of a model match its accuracy?"""

from __future__ import annotations

import torch
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
    if bins < 1:
        raise OptionError(f"bins is {bins}; expected at least 1.")
    check_shapes(confidence=(confidence, "N"), right=(right, "N"))
    confidence = confidence.double()
    # Softmax in single precision may end a rounding above 1.
    if not ((confidence >= 0) & (confidence <= 1 + 1e-6)).all():
        raise OptionError(f"Confidences from {confidence.min():g} to {confidence.max():g}; expected probabilities, 0 to 1.")
    which = (confidence * bins).ceil().clamp(1, bins).long() - 1
    gap = torch.zeros(bins, dtype=torch.float64, device=confidence.device).index_add_(0, which, confidence - right.double())
    return float(gap.abs().sum() / len(confidence)) if len(confidence) else float("nan")
