"""Is a map about the model and the question at all? Checks that need no truth, of functions that explain.

Maps are compared by rank, so that neither scale nor offset counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from concept_cam.backbones.site import TokenLayout
from concept_cam.images import WHOLE, Span

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


def flip_agreement(explain: Explain, pixels: Float[Tensor, "B 3 height width"], span: Span = WHOLE) -> Float[Tensor, "*K B"]:
    """Correlation of the map with that of the mirrored image, mirrored back: -1 to 1, higher is better.

    A map that lies to one side of the image lies to the other, mirrored; compared is what both cover.

    Args:
        explain: makes maps.
        pixels: the images.
        span: of the input that maps cover, as ``TokenLayout`` has it.
    """
    own, mirrored = explain(pixels), explain(pixels.flip(-1)).flip(-1)
    layout = TokenLayout(0, own.shape[-2], own.shape[-1], span)
    back, (left, _, right, _) = layout.mirrored(), span
    kept = _columns(layout, max(left, back.span[0]), min(right, back.span[2]))
    return rank_correlation(own[..., kept], back.moved(mirrored, layout)[..., kept])


def shift_agreement(
    explain: Explain, pixels: Float[Tensor, "B 3 height width"], patches: int = 1, span: Span = WHOLE
) -> Float[Tensor, "*K B"]:
    """Correlation of the map with that of the image moved right by whole patches, moved back: -1 to 1, higher is better.

    What the move uncovers is filled with the image's left edge. Compared are the cells that lie on the image, there and
    where it was moved to.

    Args:
        explain: makes maps.
        pixels: the images.
        patches: how far they are moved.
        span: of the input that maps cover, as ``TokenLayout`` has it: it says how wide a cell is.
    """
    own, width = explain(pixels), pixels.shape[-1]
    layout = TokenLayout(0, own.shape[-2], own.shape[-1], span)
    step = round(patches * width * (span[2] - span[0]) / layout.cols)
    moved = torch.cat([pixels[..., :1].expand(*pixels.shape[:-1], step), pixels[..., :-step]], -1)
    kept = _columns(layout, max(0.0, span[0]), min(1.0, span[2]) - step / width)
    return rank_correlation(own[..., kept], explain(moved)[..., patches:][..., kept])


def swap_agreement(
    forwards: Float[Tensor, "*batch rows cols"], backwards: Float[Tensor, "*batch rows cols"]
) -> Float[Tensor, "*batch"]:
    """Correlation of the map of A against B with minus that of B against A: -1 to 1, higher is better.

    They should speak of the same places with opposite signs. Of methods linear in the direction they do by definition at
    strength 1, so there is something to learn at other strengths and of other methods.
    """
    return rank_correlation(forwards, -backwards)


def _columns(layout: TokenLayout, left: float, right: float) -> slice:
    """The columns of a grid that lie between two places, in shares of the input; a span is known to a quarter of a cell."""
    start, _, stop, _ = layout.span
    cell = (stop - start) / layout.cols
    found = [c for c in range(layout.cols) if start + cell * (c + 0.25) >= left and start + cell * (c + 0.75) <= right]
    return slice(found[0], found[-1] + 1) if found else slice(0)


def _ranks(maps: Float[Tensor, "*batch rows cols"]) -> Float[Tensor, "*batch N"]:
    """Ranks about their mean, by counting: half of the values that are equal, and all that are less."""
    values = maps.flatten(-2)
    order = values.sort(-1).values.contiguous()
    below = torch.searchsorted(order, values.contiguous(), side="left")
    upto = torch.searchsorted(order, values.contiguous(), side="right")
    ranks = (below + upto).double() / 2
    return ranks - ranks.mean(-1, keepdim=True)
