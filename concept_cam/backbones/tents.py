"""A Gaussian receptive field for each cell of an axis, seen through overlapping tents, and its fit to measured shares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch

Numbers = np.ndarray[Any, np.dtype[Any]]

_STEPS = 30
_NUDGE = 1e-6

_FITS = 0.004
"""Mean square of what a fit leaves of the square roots of shares: half of the least that was seen where starts disagreed."""

_USUAL = np.array([0.0, 1.0, math.log(1.5), -4.0])
_TRUST = np.array([0.02, 0.4, 0.02, 0.02])
"""What the four numbers are where nothing is measured, and how firmly; a stride is rarely another than the grid says."""


@final
@dataclass(frozen=True)
class Fit:
    """Cells of an axis in shares of the input.

    Attributes:
        middle: where the middle of the cells lies.
        stride: from each cell to the next.
        width: the deviation of a receptive field.
        floor: the part of each cell that sees the whole axis alike.
    """

    middle: float
    stride: float
    width: float
    floor: float

    def centres(self, count: int) -> Numbers:
        """Of so many cells."""
        return self.middle + self.stride * (np.arange(count) - (count - 1) / 2)

    def shares(self, count: int, tents: int) -> Numbers:
        """What each of so many cells has of each tent, (count, tents)."""
        return _shares(self.centres(count), np.array(self.width), np.array(self.floor), tents)


def tents(pixels: int, count: int) -> torch.Tensor:
    """(count, pixels): each rises from the peak of the one before and falls to that of the next; they add up to one."""
    position = (torch.arange(pixels, dtype=torch.float64, device="cpu") + 0.5) / pixels * (count - 1)
    return (1 - (position - torch.arange(count, dtype=torch.float64, device="cpu")[:, None]).abs()).clamp(min=0)


def fit(shares: Numbers, rows: Numbers, stride: float | None = None) -> Fit:
    """Fit the cells of an axis to their shares, by least squares of square roots (Levenberg and Marquardt).

    Args:
        shares: (rows, tents), each row adding up to one.
        rows: which cells they are; the grid is all from 0 to the last.
        stride: of the cells, where it is known.
    """
    count = int(rows[-1]) + 1
    given = 1.0 if stride is None else stride * count
    free = [0, 1, 2, 3] if stride is None else [0, 2, 3]
    starts = [np.array([middle, given, math.log(width), -4.0]) for middle in (-0.5, 0.0, 0.5) for width in (0.5, 2.0)]
    # The likeliest first; where it fits, the others have never been seen to end elsewhere.
    starts.sort(key=lambda start: float(np.square(_off(start[None], shares, rows)).sum()))
    best = _descend(starts[0], free, shares, rows)
    if best[1] > _FITS * shares.size:
        best = min([best, *(_descend(start, free, shares, rows) for start in starts[1:])], key=lambda one: one[1])
    middle, step, width, floor = best[0]
    return Fit(0.5 + middle / count, step / count, math.exp(width) / count, 1 / (1 + math.exp(-floor)))


def _descend(start: Numbers, free: Sequence[int], shares: Numbers, rows: Numbers) -> tuple[Numbers, float]:
    theta, damping = start, 1e-2
    nudges = np.zeros((len(free) + 1, 4))
    nudges[np.arange(1, len(free) + 1), free] = _NUDGE
    for _ in range(_STEPS):
        off, *nudged = _off(theta + nudges, shares, rows)
        slopes = (np.array(nudged) - off).T / _NUDGE
        square, down, loss = slopes.T @ slopes, slopes.T @ off, float(off @ off)
        for _ in range(6):
            step = np.zeros(4)
            step[free] = np.linalg.solve(square + damping * np.diag(square.diagonal() + 1e-9), -down)
            # No field is narrower than a twentieth of a cell, or wider than twenty.
            moved = np.clip(theta + step, [-20, -5, -3, -9], [20, 5, 3, 9])
            (after,) = _off(moved[None], shares, rows)
            if after @ after < loss:
                break
            damping *= 4
        else:
            break
        theta, damping = moved, damping / 4
        if loss - after @ after < 1e-7 * loss:
            break
    (off,) = _off(theta[None], shares, rows)
    return theta, float(off @ off)


def _off(theta: Numbers, shares: Numbers, rows: Numbers) -> Numbers:
    """(T, rows x tents + 4) for T guesses of middle and stride in cells, log width in cells, logit of the floor."""
    count = rows[-1] + 1
    middle, step, width, floor = theta.T[..., None]
    centres = 0.5 + (middle + step * (rows - (count - 1) / 2)) / count
    expected = _shares(centres, np.exp(width) / count, 1 / (1 + np.exp(-floor)), shares.shape[1])
    off = (np.sqrt(expected) - np.sqrt(shares)).reshape(len(theta), -1)
    return np.concatenate([off, (theta - _USUAL) * _TRUST], 1)


def _shares(centres: Numbers, width: Numbers, floor: Numbers, tents: int) -> Numbers:
    """(..., rows, tents): a Gaussian cut off at both ends of the axis, and the floor."""
    peaks, between = np.linspace(0, 1, tents), 1 / (tents - 1)
    z = (peaks - centres[..., None]) / width[..., None]
    below = 0.5 * (1 + torch.erf(torch.from_numpy(z / math.sqrt(2))).numpy())
    height = np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    mass = np.diff(below)
    moment = centres[..., None] * mass - width[..., None] * np.diff(height)
    rising = (moment - peaks[:-1] * mass) / between
    # A field far outside has next to nothing inside: what there is lies at the border.
    own = np.full((*z.shape[:-1], tents), 1e-12)
    own[..., 1:] += np.clip(rising, 0, None)
    own[..., :-1] += np.clip(mass - rising, 0, None)
    own /= own.sum(-1, keepdims=True)
    even = np.full(tents, between)
    even[[0, -1]] /= 2
    floor = floor[..., None]
    mixed: Numbers = (1 - floor) * own + floor * even
    return mixed
