"""Is a model as sure as it is right?"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def calibration_error(confidence: Float[Tensor, " N"], right: Bool[Tensor, " N"], bins: int = 10) -> float:
    """The mean distance of confidence and accuracy over bins of equal width, weighted by their pictures.

    0 to 1, lower is better. The expected calibration error of Guo et al., On Calibration of Modern Neural Networks (arXiv
    1706.04599), Eq. 3. Bins are open below and closed above, but the first, which holds 0.

    Args:
        confidence: of the predicted class, 0 to 1.
        right: whether that is the true one.
        bins: how many.

    Example:
        >>> import torch
        >>> calibration_error(torch.tensor([0.9, 0.9, 0.6]), torch.tensor([True, False, True]))
        0.4
    """
    confidence = confidence.double()
    which = (confidence * bins).ceil().clamp(1, bins).long() - 1
    gap = torch.zeros(bins, dtype=torch.float64).index_add_(0, which, confidence - right.double())
    return round(float(gap.abs().sum() / max(1, len(confidence))), 12)
