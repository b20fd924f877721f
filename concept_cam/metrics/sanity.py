"""Is a map about the model and the question at all? Checks that need no truth, of functions that explain.

Maps are compared by rank, so that neither scale nor offset counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

Explain: TypeAlias = Callable[[Float[Tensor, "B 3 height width"]], Float[Tensor, "*K B rows cols"]]
"""Signed maps at token resolution."""


def rank_correlation(
    ours: Float[Tensor, "*batch rows cols"], theirs: Float[Tensor, "*batch rows cols"]
) -> Float[Tensor, "*batch"]:
    """Spearman's correlation of two maps, equal values sharing their mean rank: -1 to 1; 0 if one of them is flat.

    The measure of Adebayo et al., Sanity Checks for Saliency Maps (arXiv 1810.03292), section 4, signed ("no ABS"). Between a
    model and the same with randomised parameters, or between two labels, near 0 is better: the map depends on them.

    Example:
        >>> import torch
        >>> rank_correlation(torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[0.0, 0.1, 0.2]])).round(decimals=4)
        tensor(1., dtype=torch.float64)
    """
    first, second = (_ranks(maps) for maps in (ours, theirs))
    spread = first.norm(dim=-1) * second.norm(dim=-1)
    return (first * second).sum(-1) / torch.where(spread > 0, spread, 1)


def flip_agreement(explain: Explain, pixels: Float[Tensor, "B 3 height width"]) -> Float[Tensor, "*K B"]:
    """Correlation of the map with that of the mirrored picture, mirrored back: -1 to 1, higher is better."""
    return rank_correlation(explain(pixels), explain(pixels.flip(-1)).flip(-1))


def shift_agreement(explain: Explain, pixels: Float[Tensor, "B 3 height width"], patches: int = 1) -> Float[Tensor, "*K B"]:
    """Correlation of the map with that of the picture moved right by whole patches, moved back: -1 to 1, higher is better.

    What the move uncovers is filled with the picture's left edge, and left out of the comparison.
    """
    own = explain(pixels)
    step = round(patches * pixels.shape[-1] / own.shape[-1])
    moved = torch.cat([pixels[..., :1].expand(*pixels.shape[:-1], step), pixels[..., :-step]], -1)
    return rank_correlation(own[..., :-patches], explain(moved)[..., patches:])


def swap_agreement(
    forwards: Float[Tensor, "*batch rows cols"], backwards: Float[Tensor, "*batch rows cols"]
) -> Float[Tensor, "*batch"]:
    """Correlation of the map of A against B with minus that of B against A: -1 to 1, higher is better.

    They should speak of the same places with opposite signs. Of methods linear in the direction they do by definition at
    strength 1, so there is something to learn at other strengths and of other methods.
    """
    return rank_correlation(forwards, -backwards)


def _ranks(maps: Float[Tensor, "*batch rows cols"]) -> Float[Tensor, "*batch N"]:
    """Ranks about their mean, by counting: half of the values that are equal, and all that are less."""
    values = maps.flatten(-2)
    order = values.sort(-1).values.contiguous()
    below = torch.searchsorted(order, values.contiguous(), side="left")
    upto = torch.searchsorted(order, values.contiguous(), side="right")
    ranks = (below + upto).double() / 2
    return ranks - ranks.mean(-1, keepdim=True)
