"""What a plot shows: intervals on one axis, lines or points in a plane, and a matrix of counts."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias, final

from concept_cam.errors import OptionError
from concept_cam.page.thumbnail import Thumbnail


@final
@dataclass(frozen=True, eq=False)
class Mark:
    """One row of ``Intervals``.

    Attributes:
        name: of what has the value.
        value: its figure.
        low, high: the ends of the interval around it; None where there is none.
        chance: the value by chance, shown as a short line; None where it is not known.
        note: a few words beside the name.
        strong: whether it is one of those that the page is about.
        thumbnail: an image of it.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    chance: float | None = None
    note: str = ""
    strong: bool = False
    thumbnail: Thumbnail | None = None


@final
@dataclass(frozen=True, eq=False)
class Intervals:
    """Values with their intervals on one axis, a row for each.

    Attributes:
        axis: what the values are.
        marks: from above to below.
        start, end: of the axis.
        limit: a value at which a line is drawn; None for no line.
        limited: what that line is.
        by_chance: what the chance of a mark is.
        valued, spanned: what the dot and the bar of a mark are; empty where the axis says it.

    Raises:
        OptionError: a value is not finite, or the axis has no length.
    """

    axis: str
    marks: tuple[Mark, ...]
    start: float = 0.0
    end: float = 1.0
    limit: float | None = None
    limited: str = ""
    by_chance: str = "by chance"
    valued: str = ""
    spanned: str = ""

    def __post_init__(self) -> None:
        _check_range(self.axis, self.start, self.end)
        _check_finite(self.axis, [x for mark in self.marks for x in (mark.value, mark.low, mark.high, mark.chance)])


@final
@dataclass(frozen=True)
class Point:
    """A point of a ``Chart``.

    Attributes:
        x, y: where it is.
        low, high: the ends of the interval around y; None where there is none.
        name: of what it stands for, to be read at the point.
        labelled: whether its name is written beside it.
    """

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    name: str = ""
    labelled: bool = False


@final
@dataclass(frozen=True)
class Line:
    """A group of points of one colour and shape.

    Attributes:
        name: of the group.
        points: in the order in which lines join them.
    """

    name: str
    points: tuple[Point, ...]


@final
@dataclass(frozen=True)
class Chart:
    """Points in a plane.

    Attributes:
        x, y: what the axes are.
        lines: groups of points.
        x_range, y_range: the ends of the axes.
        joined: whether the points of a group are joined by a line.
        diagonal: a line where both axes have one value, and what lies on it; empty for no line.
        chance: the value of y by chance, shown as a line; None where it is not known.

    Raises:
        OptionError: a value is not finite, or an axis has no length.
    """

    x: str
    y: str
    lines: tuple[Line, ...]
    x_range: tuple[float, float] = (0.0, 1.0)
    y_range: tuple[float, float] = (0.0, 1.0)
    joined: bool = True
    diagonal: str = ""
    chance: float | None = None

    def __post_init__(self) -> None:
        _check_range(self.x, *self.x_range)
        _check_range(self.y, *self.y_range)
        _check_finite(
            self.y, [self.chance, *(x for line in self.lines for p in line.points for x in (p.x, p.y, p.low, p.high))]
        )


@final
@dataclass(frozen=True)
class Matrix:
    """Counts of pairs of classes.

    Attributes:
        rows, columns: what they are.
        names: of the rows, and of the columns alike.
        counts: of each row, from left to right.

    Raises:
        OptionError: there is not one count for each pair.
    """

    rows: str
    columns: str
    names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if [len(row) for row in self.counts] != [len(self.names)] * len(self.names):
            raise OptionError(f"There are counts {self.counts} for {len(self.names)} names; expected one for each pair.")


Plot: TypeAlias = Intervals | Chart | Matrix


def ticks(start: float, end: float, most: int = 6) -> list[float]:
    """Round numbers from the start of an axis to its end.

    Args:
        start: of the axis.
        end: of the axis.
        most: so many at most.

    Example:
        >>> from concept_cam.page.plots import ticks
        >>> ticks(0, 1), ticks(-0.13, 0.4)
        ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.0, 0.2, 0.4])
    """
    step, decimals = _step(start, end, most)
    first, last = math.ceil(start / step - 1e-9), math.floor(end / step + 1e-9)
    return [round(k * step, decimals) + 0.0 for k in range(first, last + 1)]


def _step(start: float, end: float, most: int = 6) -> tuple[float, int]:
    """A round step that an axis has few enough of, and the decimals of its multiples, below 0 for tens and hundreds."""
    least = (end - start) / (most - 1) * (1 - 1e-9)
    power = math.floor(math.log10(least))
    return next(step for k in (1, 2, 5, 10) if (step := 10.0**power * k) >= least), -power


def range_of(values: Sequence[float], most: float | None = None) -> tuple[float, float]:
    """A range for an axis that holds some values, with 0 in it.

    Args:
        values: to be held.
        most: where the range ends at least; None for no such end.

    Example:
        >>> from concept_cam.page.plots import range_of
        >>> range_of([0.2, 0.73]), range_of([-0.1, 0.2], most=1.0)
        ((0.0, 0.8), (-0.5, 1.0))
    """
    low = min([0.0, *values])
    high = max([0.0, *values, *([] if most is None else [most])])
    # Of a number below the smallest normal one there is no fifth.
    high = high if high - low >= sys.float_info.min else low + 1.0
    step, decimals = _step(low, high)
    return round(math.floor(low / step + 1e-9) * step, decimals), round(math.ceil(high / step - 1e-9) * step, decimals)


def _check_range(axis: str, start: float, end: float) -> None:
    if not (math.isfinite(start) and math.isfinite(end) and start < end):
        raise OptionError(f"The axis {axis!r} goes from {start} to {end}; expected two numbers, the larger last.")


def _check_finite(axis: str, values: list[float | None]) -> None:
    if wrong := [x for x in values if x is not None and not math.isfinite(x)]:
        raise OptionError(f"A plot of {axis!r} holds {wrong[0]}; expected finite numbers, or None where one is missing.")
