"""COMPARE: weightings of references. Weights are constants: no gradient flows through them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Weighting = Callable[[Float[Tensor, " T"], Float[Tensor, " T"]], Float[Tensor, " T"]]
"""A function that weighs references: (scores on this image, similarities to the target) -> weights that sum to 1."""


def uniform(scores: Float[Tensor, " T"], similarities: Float[Tensor, " T"]) -> Float[Tensor, " T"]:
    """Weigh all references equally, as in the paper.

    Example:
        >>> import torch
        >>> uniform(torch.tensor([0.3, 0.1]), torch.tensor([0.9, 0.8]))
        tensor([0.5000, 0.5000])
    """
    return torch.full_like(scores, 1 / max(1, len(scores)))


def by_score(logit_scale: float = 100.0) -> Weighting:
    """Weigh references by the softmax of their scores: those that score highest on this image weigh most.

    Args:
        logit_scale: the inverse temperature; most CLIP models learn 100, and 1 fits the logits of a classifier.

    Example:
        >>> import torch
        >>> by_score(10.0)(torch.tensor([0.3, 0.1]), torch.tensor([0.9, 0.8]))
        tensor([0.8808, 0.1192])
    """
    return _ByScore(logit_scale)


def by_similarity(logit_scale: float = 100.0) -> Weighting:
    """Weigh references by the softmax of their similarities to the target, the same for every image.

    Args:
        logit_scale: the inverse temperature.

    Example:
        >>> import torch
        >>> by_similarity(10.0)(torch.tensor([0.3, 0.1]), torch.tensor([0.9, 0.8]))
        tensor([0.7311, 0.2689])
    """
    return _BySimilarity(logit_scale)


# Classes instead of closures, because closures do not pickle.
@dataclass(frozen=True)
class _ByScore:
    logit_scale: float

    def __call__(self, scores: Float[Tensor, " T"], similarities: Float[Tensor, " T"]) -> Float[Tensor, " T"]:
        return (self.logit_scale * scores).softmax(0)


@dataclass(frozen=True)
class _BySimilarity:
    logit_scale: float

    def __call__(self, scores: Float[Tensor, " T"], similarities: Float[Tensor, " T"]) -> Float[Tensor, " T"]:
        return (self.logit_scale * similarities).softmax(0)
