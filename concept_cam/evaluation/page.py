"""An evaluation as a page: the best maps, curves over the strength, and what references add."""

from __future__ import annotations

import math
from collections.abc import Sequence

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

_LINES = 12
"""So many lines a chart has at most: those that reach the highest values."""


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
    correct = {(row.image, row.label): row.correct for row in rows if isinstance(row, GridRow)}
    facts = [("images", str(len(correct)))]
    facts += [("accuracy", f"{sum(correct.values()) / len(correct):.3f}")] if correct else []
    facts += [("skipped", str(len(problems)))] if problems else []
    sections = [] if first is None else [_gains(first, found[first], strips)]
    sections += [_metric(name, found[name], chance_of(rows, name)) for name in found]
    sections += [Section("Images that were skipped", "\n\n".join(problems))] if problems else []
    sections += [how_made(made)] if made else []
    lead = "No image could be used." if first is None else _lead(first, found[first])
    title = f"{dataset}: maps of {made.model if made else 'the model'}"
    return Page(title, " ".join((lead, *told)), tuple(sections), tuple(facts))


def best(found: Sequence[Measured]) -> Measured:
    """Of a metric the combination with the highest mean; the first of equal ones.

    Args:
        found: one or more.
    """
    return max(found, key=lambda one: one.mean.mean)


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


def _lead(metric: str, found: Sequence[Measured]) -> str:
    top = best(found)
    maps = f"{top.method} against {top.references} at strength {top.strength:g}"
    maps = f"the base map of {top.method}" if top.references == BASE else maps
    told = METRICS[metric].help
    meaning = f"{told[0].lower()}{told[1:].rstrip('.')}"
    lead = f"The highest {_title(metric)} is that of {maps}: {top.mean.mean:.2f} on average ({meaning})."
    if top.gain is None:
        return lead
    gain = f"{top.gain.mean:+.2f}, with an interval from {top.gain.low:+.2f} to {top.gain.high:+.2f}"
    return f"{lead} Its base map has {top.mean.mean - top.gain.mean:.2f}: the difference is {gain}."


def _title(metric: str) -> str:
    return metric.replace("_", " ")


def _ends(low: float, high: float) -> tuple[float | None, float | None]:
    """Of an interval; None where it is not known."""
    return (None, None) if math.isnan(low) or math.isnan(high) else (low, high)


def _gains(metric: str, found: Sequence[Measured], strips: Sequence[Strip]) -> Section:
    """Images, and the gain of each combination over its base map."""
    top, marks = best(found), []
    for one in found:
        if one.gain is not None:
            name, note = f"{one.method} against {one.references}", f"strength {one.strength:g}"
            marks.append(Mark(name, one.gain.mean, *_ends(one.gain.low, one.gain.high), note=note, strong=one == top))
    marks = sorted(marks, key=lambda mark: -mark.value)[:_SHOWN]
    about = (
        f"{_title(metric)}: {METRICS[metric].help} A gain is the mean difference from the base map of the same method on the "
        "same images, with a 95 % bootstrap interval."
    )
    if not marks:
        return Section("Where the evidence lies", METRICS[metric].help, strips=tuple(strips))
    ends = range_of([x for mark in marks for x in (mark.value, mark.low, mark.high) if x is not None])
    plot = Intervals(f"gain of {_title(metric)} over the base map", tuple(marks), *ends, limit=0.0, limited="the base map")
    return Section("What references add", strips=tuple(strips), plots=(plot,), about=about)


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
    plot = _curves(name, found, chance)
    return Section(_title(name), METRICS[name].help, Table(columns, tuple(rows)), plots=(plot,), about=about)


def _curves(name: str, found: Sequence[Measured], chance: float | None) -> Chart:
    """A line for each method and references, from its base map on."""
    bases = {one.method: one for one in found if one.references == BASE}
    grouped: dict[tuple[str, str], list[Measured]] = {}
    for one in found:
        if one.references != BASE:
            start = [bases[one.method]] if one.method in bases else []
            grouped.setdefault((one.method, one.references), start).append(one)
    grouped = grouped or {(one.method, "base map"): [one] for one in found}
    most = sorted(grouped, key=lambda key: -best(grouped[key]).mean.mean)[:_LINES]
    lines = []
    for key in (key for key in grouped if key in most):
        by_strength = sorted(grouped[key], key=lambda one: one.strength)
        points = tuple(Point(one.strength, one.mean.mean, *_ends(one.mean.low, one.mean.high)) for one in by_strength)
        lines.append(Line(f"{key[0]}, {key[1]}", points))
    furthest = max(one.strength for one in found) or 1.0
    if chance is not None:
        lines.append(Line("chance", (Point(0.0, chance), Point(furthest, chance))))
    values = [y for line in lines for p in line.points for y in (p.y, p.low, p.high) if y is not None]
    return Chart("strength", _title(name), tuple(lines), (0.0, furthest), range_of(values))
