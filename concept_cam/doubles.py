"""Finds equal vectors without comparing all pairs."""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

_FEW = 512
"""So many vectors are compared each with each."""

_AXES = 4
"""Coordinates by which many vectors are sorted into cells."""


def first_double(units: Float[Tensor, "K E"], cosine: float) -> tuple[int, int] | None:
    """The indices of two unit vectors whose cosine exceeds a limit; None if there are none.

    The cost is almost linear in the number of vectors: equal vectors lie in one cell of a grid, or in two that touch, and the
    grid is over the coordinates in which the vectors differ most. Of several pairs any is returned.

    Example:
        >>> import torch
        >>> first_double(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), cosine=0.99)
        (0, 2)
    """
    if len(units) <= _FEW:
        same = ((units @ units.T) > cosine).triu(1).nonzero().tolist()
        return (same[0][0], same[0][1]) if same else None
    # For unit vectors |x - y|^2 = 2 - 2 cos; no coordinate differs by more than |x - y|. A little wider, for rounding.
    reach = (2.02 * (1 - cosine)) ** 0.5
    axes = units.var(0).topk(min(_AXES, units.shape[1])).indices
    cells = (units[:, axes].double() / reach).floor().long()
    cells = cells - cells.amin(0) + 1
    # One number for a cell; the neighbours of those at the border must not meet the other border.
    steps = F.pad(cells.amax(0) + 2, (0, 1), value=1).flip(0).cumprod(0)[:-1].flip(0)
    keys, order = (cells * steps).sum(1).sort()
    for offset in product((-1, 0, 1), repeat=len(axes)):
        if offset >= (0,) * len(axes):
            there = keys + int((steps * steps.new_tensor(offset)).sum())
            if (found := _among(units, order, keys, there, cosine)) is not None:
                return found
    return None


def _among(
    units: Float[Tensor, "K E"], order: Int[Tensor, " K"], keys: Int[Tensor, " K"], there: Int[Tensor, " K"], cosine: float
) -> tuple[int, int] | None:
    """Each vector, in the order of the cells' keys, with those in the cell whose key stands in ``there``."""
    rows = torch.arange(len(keys), dtype=torch.long, device=keys.device)
    start, end = torch.searchsorted(keys, there), torch.searchsorted(keys, there, right=True)
    if torch.equal(keys, there):
        start = rows + 1
    while len(rows := rows[(some := start < end)]):
        start, end = start[some], end[some]
        ours, theirs = order[rows], order[start]
        same = (units[ours] * units[theirs]).sum(1) > cosine
        if same.any():
            first, second = sorted((int(ours[same][0]), int(theirs[same][0])))
            return first, second
        start = start + 1
    return None
