"""An evaluation as a page: the best maps, curves over the strength, and what references add."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from concept_cam.evaluation.columns import METRICS, GridRow
from concept_cam.evaluation.contrasts import BASE
from concept_cam.evaluation.report import Measured, chance_of, measured
from concept_cam.page import Chart, Intervals, Line, Mark, Page, Point, Section, Strip, Table, how_made
from concept_cam.page.plots import range_of
from concept_cam.provenance import Provenance
from concept_cam.runs import Skipped

_FIRST = ("energy", "hit", "rd5")
"""Figures by which the best maps are chosen: the first of them that is known."""

_SHOWN = 12
"""So many gains are shown: the largest."""

_LINES = 6
"""So many lines a chart has at most: those that reach the highest values."""

_LOWER = "deletion"
"""Of this figure a lower one is better."""

_TITLES = {
    "energy": "Share of evidence inside the mask",
    "hit": "Strongest place inside the mask",
    "best_iou": "Overlap of map and mask",
    "average_precision": "Pixels of the map against the mask",
    "best_box": "Overlap of boxes",
    "rd5": "Fall of the label, strongest 5 % masked",
    "rd10": "Fall of the label, strongest 10 % masked",
    "deletion": "Probability while the evidence is deleted",
    "flip": "Agreement with the mirrored image",
    "shift": "Agreement with the shifted image",
    "parameters": "Agreement with shuffled parameters",
    "labels": "Agreement with an absent label",
    "input_gradient": "Agreement with the gradient of pixels",
}
"""Figures in words; the tables have their names."""

_REFERENCES = {
    "nearest": "the {} nearest classes",
    "rivals": "the {} runners-up",
    "random": "{} random classes",
    "rank": "rank {}",
}


def evaluation_page(
    dataset: str,
    rows: Sequence[GridRow | Skipped],
    strips: Sequence[Strip] = (),
    told: Sequence[str] = (),
    problems: Sequence[str] = (),
    made: Provenance | None = None,
) -> Page:
    """What methods, references and strengths come to.

    Args:
        dataset: its name.
        rows: of the evaluation.
        strips: images with their maps, the first thing that is shown.
        told: what else is to be said, a line each.
        problems: what was skipped, a line each.
        made: how, for the last section; None leaves it out.
    """
    shown = [name for name, one in METRICS.items() if one.group and one.shown]
    found = {name: of_one for name in shown if (of_one := measured(rows, name))}
    first = next((name for name in _FIRST if name in found), None)
    differ = {} if first is None else _differing(first, found)
    correct = {(row.image, row.label): row.correct for row in rows if isinstance(row, GridRow)}
    facts = [("images", str(len(correct)))]
    facts += [("accuracy", f"{sum(correct.values()) / len(correct):.3f}")] if correct else []
    facts += [("skipped", str(len(problems)))] if problems else []
    sections = [] if first is None else [_gains(first, found[first], strips, differ)]
    sections += [_metric(name, found[name], chance_of(rows, name)) for name in found]
    sections += [Section("Images that were skipped", "\n\n".join(problems))] if problems else []
    sections += [how_made(made)] if made else []
    lead = "No image could be used." if first is None else _lead(first, found[first], chance_of(rows, first), list(differ))
    title = f"{dataset}: maps of {f'the model {made.model}' if made else 'the model'}"
    return Page(title, " ".join((lead, *told)), tuple(sections), tuple(facts))


def best(found: Sequence[Measured], metric: str = "") -> Measured:
    """Of a metric the combination with the best mean, the highest but for deletion; the first of equal ones.

    Args:
        found: one or more.
        metric: which.
    """
    return min(found, key=lambda one: one.mean.mean if metric == _LOWER else -one.mean.mean)


def chosen(rows: Sequence[GridRow | Skipped]) -> tuple[str, Measured] | None:
    """The metric by which maps are chosen, and the best of those that compare; None if there are none.

    Args:
        rows: of an evaluation.
    """
    for name in _FIRST:
        found = [one for one in measured(rows, name) if one.references != BASE]
        if found:
            return name, best(found)
    return None


def titled(metric: str) -> str:
    """The title of a metric in words, with its name."""
    name = metric.replace("_", " ")
    return f"{_TITLES[metric]} ({name})" if metric in _TITLES else name


def referred(references: str) -> str:
    """What maps are compared with, in words.

    Example:
        >>> referred("nearest:3"), referred("nearest:1"), referred("twin")
        ('the 3 nearest classes', 'the nearest class', 'the twin')
    """
    kind, _, count = references.partition(":")
    if kind in ("nearest", "rivals") and count == "1":
        return {"nearest": "the nearest class", "rivals": "the runner-up"}[kind]
    if kind in _REFERENCES and count:
        return _REFERENCES[kind].format(count)
    return {"twin": "the twin", "mosaic": "the other classes of the mosaic"}.get(references, references)


def _asked(one: Measured) -> str:
    """Of which map a figure is."""
    if one.references == BASE:
        return f"{one.method} without comparison"
    return f"{one.method} against {referred(one.references)}, strength {one.strength:g}"


def _lead(metric: str, found: Sequence[Measured], chance: float | None, differ: Sequence[str]) -> str:
    """The best by one figure, with its base map and chance, and which figures say otherwise."""
    top = best(found)
    lead = f"{titled(metric)} is highest for {_asked(top)}: {top.mean.mean:.3f} on average"
    if top.gain is not None:
        # The two that are read add up to the gain that is read below.
        lead += f", {round(top.mean.mean, 3) - round(top.gain.mean, 3):.3f} without comparison"
    lead += f", {chance:.3f} by chance." if chance is not None else "."
    return f"{lead} Figures by which another is best: {', '.join(differ)}." if differ else lead


def _differing(metric: str, found: Mapping[str, Sequence[Measured]]) -> dict[str, str]:
    """The figures by which another map is best than by the first, each with that map."""
    top, differ = best(found[metric]), {}
    for name, of_one in found.items():
        ours = next((one for one in of_one if _key(one) == _key(top)), None)
        first = best(of_one, name)
        if METRICS[name].group in ("where", "rests") and ours is not None and ours.mean.mean != first.mean.mean:
            differ[name.replace("_", " ")] = f"{_asked(first)} ({first.mean.mean:.3f}, not {ours.mean.mean:.3f})"
    return differ


def _key(one: Measured) -> tuple[str, str, float]:
    return one.method, one.references, one.strength


def _ends(low: float, high: float) -> tuple[float | None, float | None]:
    """Of an interval; None where it is not known."""
    return (None, None) if math.isnan(low) or math.isnan(high) else (low, high)


def _gains(metric: str, found: Sequence[Measured], strips: Sequence[Strip], differ: Mapping[str, str]) -> Section:
    """Images, and the gain of each combination over its base map."""
    top, marks = best(found), []
    for one in found:
        if one.gain is not None:
            name, base = f"{one.method} against {referred(one.references)}", one.mean.mean - one.gain.mean
            note = f"strength {one.strength:g}: {base:.3f} to {one.mean.mean:.3f}{', the highest' if one == top else ''}"
            marks.append(Mark(name, one.gain.mean, *_ends(one.gain.low, one.gain.high), note=note, strong=one == top))
    marks = sorted(marks, key=lambda mark: -mark.value)[:_SHOWN]
    about = (
        f"{titled(metric)}: {METRICS[metric].help} A gain is the mean difference from the base map of the same method on the "
        "same images, with a 95 % bootstrap interval."
    )
    if differ:
        about += "\n\nBest by other figures: " + "; ".join(f"by {name}, {told}" for name, told in differ.items()) + "."
    if not marks:
        return Section("Where the evidence lies", METRICS[metric].help, strips=tuple(strips))
    ends = range_of([x for mark in marks for x in (mark.value, mark.low, mark.high) if x is not None])
    axis = f"gain of {metric.replace('_', ' ')} over the base map"
    plot = Intervals(axis, tuple(marks), *ends, limit=0.0, limited="no gain")
    return Section("What comparing adds", strips=tuple(strips), plots=(plot,), about=about)


def _metric(name: str, found: Sequence[Measured], chance: float | None) -> Section:
    """A figure over the strength, and all of it as a table."""
    columns = ("method", "against", "strength", "images", "mean", "at least", "at most", "gain", "from", "to", "d")
    rows = [
        (
            *(one.method, one.references, one.strength, one.images),
            *(one.mean.mean, *_ends(one.mean.low, one.mean.high)),
            *((one.gain.mean, one.gain.low, one.gain.high) if one.gain else (None, None, None)),
            one.effect,
        )
        for one in found
    ]
    if chance is not None:
        rows.append(("chance", None, None, None, chance, *[None] * 6))
    about = (
        "At least and at most are the ends of a 95 % bootstrap interval of the mean, from and to those of the gain over the "
        "base map of the same method. d is the effect size of the gain (Cohen's d of the paired values)."
    )
    return Section(
        titled(name), METRICS[name].help, Table(columns, tuple(rows)), plots=_curves(name, found, chance), about=about
    )


def _curves(name: str, found: Sequence[Measured], chance: float | None) -> tuple[Chart, ...]:
    """A chart of each references, on one scale, with a line of each method from its base map on."""
    bases = {one.method: one for one in found if one.references == BASE}
    grouped: dict[str, dict[str, list[Measured]]] = {}
    for one in found:
        if one.references != BASE:
            start = [bases[one.method]] if one.method in bases else []
            grouped.setdefault(one.references, {}).setdefault(one.method, start).append(one)
    grouped = grouped or {BASE: {method: [base] for method, base in bases.items()}}
    methods = list(dict.fromkeys(one.method for one in found))
    top = {method: best([one for one in found if one.method == method], name).mean.mean for method in methods}
    most = sorted(methods, key=lambda method: top[method] if name == _LOWER else -top[method])[:_LINES]
    furthest = max(one.strength for one in found) or 1.0
    charts = []
    for references, of_one in grouped.items():
        lines = []
        for method in (method for method in methods if method in most):
            by_strength = sorted(of_one.get(method, ()), key=lambda one: one.strength)
            points = tuple(Point(one.strength, one.mean.mean, *_ends(one.mean.low, one.mean.high)) for one in by_strength)
            lines.append(Line(method, points))
        y = name.replace("_", " ") + (f", against {referred(references)}" if references != BASE else "")
        charts.append(Chart("strength", y, tuple(lines), (0.0, furthest), chance=chance))
    known = [p for chart in charts for line in chart.lines for p in line.points]
    values = [y for p in known for y in (p.y, p.low, p.high, chance) if y is not None]
    return tuple(replace(chart, y_range=range_of(values)) for chart in charts)
