"""Is a model as sure as it is right?"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from concept_cam.errors import OptionError


def calibration_error(confidence: Float[Tensor, " N"], right: Bool[Tensor, " N"], bins: int = 10) -> float:
    """The mean distance of confidence and accuracy over bins of equal width, weighted by their images.

    0 to 1, lower is better. The expected calibration error of Guo et al., On Calibration of Modern Neural Networks (arXiv
    1706.04599), Eq. 3. Bins are open below and closed above, but the first, which holds 0. Not a number of no image.

    Args:
        confidence: of the predicted class, 0 to 1.
        right: whether that is the true one.
        bins: how many, 1 or more.

    Raises:
        OptionError: there is no bin, or a confidence is not from 0 to 1.

    Example:
        >>> import torch
        >>> round(calibration_error(torch.tensor([0.9, 0.9, 0.6]), torch.tensor([True, False, True])), 6)
        0.4
    """
    if bins < 1:
        raise OptionError(f"bins is {bins}; expected at least 1.")
    confidence = confidence.double()
    # Softmax in single precision may end a rounding above 1.
    if not ((confidence >= 0) & (confidence <= 1 + 1e-6)).all():
        raise OptionError(f"Confidences from {confidence.min():g} to {confidence.max():g}; expected probabilities, 0 to 1.")
    which = (confidence * bins).ceil().clamp(1, bins).long() - 1
    gap = torch.zeros(bins, dtype=torch.float64, device=confidence.device).index_add_(0, which, confidence - right.double())
    return float(gap.abs().sum() / len(confidence)) if len(confidence) else float("nan")
