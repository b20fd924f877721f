"""Plots as SVG whose places across are percentages, so that lines become longer on a wide screen and letters do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

from markupsafe import Markup

from concept_cam.page.plots import Chart, Intervals, Line, Mark, Point, ticks

_LEFT, _RIGHT = 9.0, 97.0
"""Where the axes of a chart begin and end, in percent of its width."""

_TOP, _BOTTOM, _HEIGHT = 14, 236, 260
_SHAPES = (
    "M-4.5,0a4.5,4.5 0 1,0 9,0a4.5,4.5 0 1,0 -9,0z",
    "M-4,-4h8v8h-8z",
    "M0,-5.5l5,9h-10z",
    "M0,-5.5l5.5,5.5l-5.5,5.5l-5.5,-5.5z",
    "M0,5.5l5,-9h-10z",
    "M-5,-1.6h3.4v-3.4h3.2v3.4h3.4v3.2h-3.4v3.4h-3.2v-3.4h-3.4z",
)
"""Groups differ in shape too, for those who do not see colours."""

_DASHES = ("", "8 4", "2 3", "10 3 2 3", "5 2", "14 4")
"""So do their lines, where they lie on each other."""

COLOURS = 7
"""So many colours the style sheet has; then they come again, with another shape."""


def track(plot: Intervals, mark: Mark) -> Markup:
    """One row of intervals: the axis, the interval and the value."""

    def at(value: float) -> str:
        return f"{100 * (min(max(value, plot.start), plot.end) - plot.start) / (plot.end - plot.start):.2f}%"

    drawn = [_line("grid", at(tick), "0", at(tick), "26") for tick in ticks(plot.start, plot.end)]
    if plot.limit is not None:
        drawn.append(_line("limit", at(plot.limit), "0", at(plot.limit), "26"))
    told = Markup("{}: {}").format(mark.name, shown(mark.value))
    if mark.low is not None and mark.high is not None:
        drawn.append(_line("span", at(mark.low), "13", at(mark.high), "13"))
        told += f", interval {shown(mark.low)} to {shown(mark.high)}"
    elif plot.start <= 0:
        drawn.append(_line("span", at(0.0), "13", at(mark.value), "13"))
    if mark.chance is not None:
        drawn.append(_line("chance", at(mark.chance), "6", at(mark.chance), "20"))
        told += Markup(", {} {}").format(plot.by_chance, shown(mark.chance))
    drawn.append(_mark(at(mark.value), 13, _SHAPES[0], "strong" if mark.strong else "", told, (mark.value,)))
    return Markup('<svg class="track" role="img" aria-label="{}" height="26">{}</svg>').format(told, Markup("").join(drawn))


def axis(plot: Intervals) -> Markup:
    """The figures below the rows of intervals."""
    drawn = []
    for tick in ticks(plot.start, plot.end):
        share = (tick - plot.start) / (plot.end - plot.start)
        anchor = "start" if share < 0.02 else "end" if share > 0.98 else "middle"
        drawn.append(Markup('<text x="{:.2f}%" y="14" text-anchor="{}">{:g}</text>').format(100 * share, anchor, tick))
    return Markup('<svg class="axis" aria-hidden="true" height="18">{}</svg>').format(Markup("").join(drawn))


def chart(plot: Chart) -> Markup:
    """Lines or points in a plane."""
    x, y = _scale(plot.x_range, _LEFT, _RIGHT), _scale(plot.y_range, _BOTTOM, _TOP)
    drawn = list(_grid(plot))
    if plot.diagonal:
        low, high = max(plot.x_range[0], plot.y_range[0]), min(plot.x_range[1], plot.y_range[1])
        drawn.append(_line("diagonal", f"{x(low):.2f}%", f"{y(low):.1f}", f"{x(high):.2f}%", f"{y(high):.1f}"))
    if plot.chance is not None:
        level = f"{y(plot.chance):.1f}"
        drawn.append(_line("chance", f"{_LEFT}%", level, f"{_RIGHT}%", level))
        drawn.append(Markup('<text x="{}%" y="{:.1f}" text-anchor="end">by chance</text>').format(_RIGHT, y(plot.chance) - 5))
    taken: list[tuple[float, float]] = []
    for k, line in enumerate(plot.lines):
        places = [(x(point.x), y(point.y)) for point in line.points]
        if plot.joined:
            drawn += [
                _line(f"line c{k % COLOURS}", f"{a:.2f}%", f"{b:.1f}", f"{c:.2f}%", f"{d:.1f}", _DASHES[k % len(_DASHES)])
                for (a, b), (c, d) in pairwise(places)
            ]
        for point, (across, down) in zip(line.points, places, strict=True):
            if point.low is not None and point.high is not None:
                ends = f"{y(point.low):.1f}", f"{y(point.high):.1f}"
                drawn.append(_line(f"bar c{k % COLOURS}", f"{across:.2f}%", ends[0], f"{across:.2f}%", ends[1]))
            told = _told(plot, line, point)
            drawn.append(_mark(f"{across:.2f}%", down, shape(k), f"c{k % COLOURS}", told, (point.x, point.y)))
            if point.labelled and all(abs(across - a) > 30 or abs(down - b) > 14 for a, b in taken):
                taken.append((across, down))
                drawn.append(_label(across, down, point.name))
    name = Markup("{} over {}").format(plot.y, plot.x)
    return Markup('<svg class="chart" role="img" aria-label="{}" height="{}">{}</svg>').format(
        name, _HEIGHT, Markup("").join(drawn)
    )


def key(k: int, joined: bool = False) -> Markup:
    """The sign of a group, for a legend; with its line, if it has one."""
    line = _line(f"line c{k % COLOURS}", "0", "7", "34", "7", _DASHES[k % len(_DASHES)]) if joined else Markup("")
    mark = Markup('<svg class="mark c{}" x="{}" y="7" overflow="visible"><path d="{}"/></svg>')
    return Markup('<svg class="key" aria-hidden="true" width="{}" height="14">{}{}</svg>').format(
        34 if joined else 14, line, mark.format(k % COLOURS, 17 if joined else 7, shape(k))
    )


def shape(k: int) -> str:
    """The outline of the marks of a group."""
    return _SHAPES[k % len(_SHAPES)]


def shown(value: float) -> str:
    """A figure with three decimals, as tables show it."""
    return f"{value:.3f}".replace("-0.000", "0.000")


def _told(plot: Chart, line: Line, point: Point) -> Markup:
    name = ": ".join(text for text in (line.name, point.name) if text)
    told = Markup("{}: {} {:g}, {} {}").format(name, plot.x, round(point.x, 3), plot.y, shown(point.y))
    if point.low is not None and point.high is not None:
        told += f" ({shown(point.low)} to {shown(point.high)})"
    return told


def _grid(plot: Chart) -> Iterator[Markup]:
    x, y = _scale(plot.x_range, _LEFT, _RIGHT), _scale(plot.y_range, _BOTTOM, _TOP)
    for tick in ticks(*plot.y_range):
        yield _line("grid", f"{_LEFT}%", f"{y(tick):.1f}", f"{_RIGHT}%", f"{y(tick):.1f}")
        place = f"{_LEFT - 1}%", f"{y(tick) + 4:.1f}"
        yield Markup('<text x="{}" y="{}" dx="-4" text-anchor="end">{:g}</text>').format(*place, tick)
    for tick in ticks(*plot.x_range):
        yield _line("grid", f"{x(tick):.2f}%", str(_BOTTOM), f"{x(tick):.2f}%", str(_BOTTOM + 4))
        yield Markup('<text x="{:.2f}%" y="{}" text-anchor="middle">{:g}</text>').format(x(tick), _BOTTOM + 18, tick)


def _scale(ends: tuple[float, float], first: float, last: float) -> Callable[[float], float]:
    def of(value: float) -> float:
        return first + (value - ends[0]) / (ends[1] - ends[0]) * (last - first)

    return of


def _line(kind: str, x1: str, y1: str, x2: str, y2: str, dashes: str = "") -> Markup:
    broken = Markup(' stroke-dasharray="{}"').format(dashes) if dashes else ""
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"{}/>').format(kind, x1, y1, x2, y2, broken)


def _label(across: float, down: float, name: str) -> Markup:
    anchor, away = ("end", -9) if across > 55 else ("start", 9)
    return Markup('<text class="label" x="{:.2f}%" y="{:.1f}" dx="{}" text-anchor="{}">{}</text>').format(
        across, down + 4, away, anchor, name if len(name) <= 28 else f"{name[:26]}..."
    )


def _mark(x: str, y: float, path: str, kind: str, told: str, values: tuple[float, ...]) -> Markup:
    """A sign with the text that it shows when it is pointed at; a nested SVG, for a path knows no percentages."""
    return Markup(
        '<svg class="mark {}" x="{}" y="{:.1f}" overflow="visible" data-values="{}"><title>{}</title><path d="{}"/></svg>'
    ).format(kind, x, y, " ".join(f"{value:.6g}" for value in values), told, path)
