"""Where the rows of a grid lie, from what each has of four bands of the input; its columns likewise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np

from concept_cam.backbones.tents import Fit, Numbers, fit

_QUARTER = 0.25
"""Of a cell: a displacement up to this is none."""

_IN_ORDER = 0.6
"""Share of the variance between cells that the fit explains; in order it is 0.8 and more, in windows 0.4 and less."""

_BLUR = 0.35
"""Spread of the cells' own places over that of the grid, below which all see the whole and no order can be told."""

_CLEAR = 0.45
"""Clearness from which a measurement is trusted on its own."""

_BACK = 0.5
"""Cells by which a row may lie before the one that it follows; two that have changed places lie one before."""

_AT_ONE = 0.2
"""Cells between the middle of what is measured and of what may be meant; a little more where there are five rows or fewer."""

_MOST_OFF = 0.25
"""The same for a measurement that is not trusted on its own, as a share of the grid, and a cell at least."""

_ODD = 0.45
"""A stride is off by less than this share of that of a grid that covers the input."""


@final
@dataclass(frozen=True)
class Axis:
    """Cells along one axis, in pixels of the input.

    Attributes:
        first: the centre of the first cell's receptive field.
        stride: from each cell to the next.
    """

    first: float
    stride: float

    def centre(self, cell: float) -> float:
        """Of a cell's receptive field; of the middle of two, for a half."""
        return self.first + self.stride * cell


class Found(NamedTuple):
    """Where a grid begins and ends along an axis, in shares of the input.

    Attributes:
        start, end: 0 and 1, where it covers the input to a quarter of a cell.
        settled: what is measured is what layers or the grid say; else more noise makes it more exact.
    """

    start: float
    end: float
    settled: bool


class Nowhere(Exception):
    """Cells that lie nowhere in order; the message says why."""


def find(changes: Numbers, alive: Numbers, pixels: int, layers: Axis | None, *, regular: bool) -> Found:
    """Where the rows lie.

    Args:
        changes: (bands, rows, cols): |change|^2 of each cell for each band.
        alive: (rows, cols): which cells see anything at all.
        pixels: of the input along the axis.
        layers: what known layers say.
        regular: what cannot be told lies as its family is built.

    Raises:
        Nowhere: they do not look at the input in order, or each sees the whole.
    """
    count = len(alive)
    rows = np.flatnonzero(alive.any(1))
    if len(rows) < 2:
        raise Nowhere(f"of its {count} rows or columns {len(rows)} see the image")
    shares = changes / np.where(alive, changes.sum(0), 1)
    profile = np.stack([shares[:, row, alive[row]].mean(1) for row in rows])
    plain = Axis(pixels / count / 2, pixels / count)
    said = [layers, plain] if layers else [plain]
    measured = fit(profile, rows - rows[0])
    axis = _axis(measured, rows, pixels)
    clear = _clearness(shares, alive, measured.shares(int(rows[-1] - rows[0]) + 1, len(changes)), rows)
    near, settled = [one for one in said if _may_be(axis, one, rows)], True
    if clear < _CLEAR and not (layers or regular or (clear and near)):
        raise Nowhere(f"each of its cells sees the whole image, nearly alike (spread: {clear:.0%} of the grid)")
    if clear < _CLEAR and (layers or regular):
        # An unclear measurement cannot contradict what the layers say.
        if clear and _apart(axis, said[0], rows) > max(1.0, _MOST_OFF * len(rows)):
            raise Nowhere(f"its cells look {_apart(axis, said[0], rows):.1f} cells away from where its layers have them")
        axis = said[0]
    elif near:
        axis = near[0]
    elif known := _strides(axis, rows, _usual(plain.stride, rows)):
        axis, settled = _axis(fit(profile, rows - rows[0], known[0] / pixels), rows, pixels), False
    else:
        settled = False
    if max(abs(axis.centre(row) - plain.centre(row)) for row in (float(rows[0]), float(rows[-1]))) <= _QUARTER * plain.stride:
        return Found(0.0, 1.0, settled)
    first, last = axis.centre(-0.5), axis.centre(count - 0.5)
    return Found(float(first / pixels), float(last / pixels), settled)


def _axis(measured: Fit, rows: Numbers, pixels: int) -> Axis:
    stride, middle = measured.stride * pixels, measured.middle * pixels
    return Axis(middle - stride * float(rows[0] + rows[-1]) / 2, stride)


def _clearness(shares: Numbers, alive: Numbers, expected: Numbers, rows: Numbers) -> float:
    """How far apart cells look, as a share of how far apart they lie: 0, where all see the whole.

    Raises:
        Nowhere: they look elsewhere than the fit says.
    """
    peaks = np.linspace(0, 1, len(shares))
    # Each cell's mean over what it sees: measured, and by the fit.
    own = np.einsum("kij,k->ij", shares, peaks)
    fitted = np.zeros(len(alive))
    fitted[rows] = (expected @ peaks)[rows - rows[0]]
    cells, theirs = own[alive], np.broadcast_to(fitted[:, None], own.shape)[alive]
    explained = 1 - ((cells - theirs) ** 2).sum() / max(((cells - cells.mean()) ** 2).sum(), 1e-12)
    if explained < _IN_ORDER:
        if cells.std() < _BLUR * (rows / len(alive)).std():
            return 0.0
        raise Nowhere(f"its cells do not look at the image in the order of a grid (which explains {explained:.0%})")
    step = (fitted[rows[-1]] - fitted[rows[0]]) / (rows[-1] - rows[0])
    means = np.array([own[row, alive[row]].mean() for row in rows])
    if np.diff(means).min() < -_BACK * step:
        raise Nowhere("its rows or columns do not follow one another on the image")
    return float(step * len(alive))


def _apart(measured: Axis, one: Axis, rows: Numbers) -> float:
    """Cells between the middles."""
    middle = float(rows[0] + rows[-1]) / 2
    return float(abs(measured.centre(middle) - one.centre(middle)) / one.stride)


def _may_be(measured: Axis, one: Axis, rows: Numbers) -> bool:
    """Whether a measurement may be of that axis, and no other stride is likelier."""
    known = _strides(measured, rows, [one.stride, *_usual(one.stride, rows)])
    most = _AT_ONE if len(rows) > 5 else 1.5 * _AT_ONE
    return known[:1] == [one.stride] and _apart(measured, one, rows) <= most


def _usual(plain: float, rows: Numbers) -> list[float]:
    """Strides of a grid that covers the input, and powers of two near that of its cells without the padding."""
    # Rows may be fewer than the grid has, by the padding alone.
    usual = plain * float(rows[-1] + rows[0] + 1) / float(rows[-1] - rows[0] + 1)
    return [plain, *(float(2**power) for power in range(1, 9) if abs(2**power / usual - 1) < _ODD)]


def _strides(measured: Axis, rows: Numbers, known: Sequence[float]) -> list[float]:
    """Those that a measurement may be of, the likeliest first: the fewer rows, the less of their stride is seen."""
    steps = float(rows[-1] - rows[0])
    most = min(2 / steps, 0.9)
    off = {stride: abs(measured.stride / stride - 1) for stride in known}
    return sorted((stride for stride in off if off[stride] <= most), key=lambda stride: off[stride])
