"""The page of an evaluation: curves and gains are those of its tables, images go from the largest gain to the smallest."""

from __future__ import annotations

import re

import numpy as np
import pytest

from concept_cam import world
from concept_cam.drawing import overlay
from concept_cam.evaluation import GridRow, evaluate
from concept_cam.evaluation.page import evaluation_page, titled
from concept_cam.evaluation.report import chance_of, measured
from concept_cam.page import to_html
from concept_cam.world.dataset import twins_dataset


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    return evaluate(world.localizer(), twins_dataset(4), folder, methods="class_stream", strengths=(0.5, 1.0))


@pytest.mark.slow
def test_the_page_is_written_with_the_tables(found):
    html = (found.folder / "report.html").read_text()
    assert html.count("<h3>") == len(found.strips) == 3
    assert "How this was made" in html
    assert found.made.cite in html
    (lead,) = re.findall('<p class="lead">(.*?)</p>', html, re.DOTALL)
    best = max(measured(found.rows, "energy"), key=lambda one: one.mean.mean)
    assert best.references == "twin"
    assert f"class_stream against the twin, strength {best.strength:g}: {best.mean.mean:.3f} on average" in lead
    assert f"{best.mean.mean - best.gain.mean:.3f} without comparison" in lead


@pytest.mark.slow
def test_strips_go_from_the_largest_gain_to_the_smallest(found):
    titles = [strip.title for strip in found.strips]
    gains = [float(title.rsplit(" ", 1)[1]) for title in titles]
    assert gains == sorted(gains, reverse=True)
    last = "The largest loss" if gains[-1] < 0 else "The smallest gain"
    assert [title.split(":")[0] for title in titles] == ["The largest gain", "The median gain", last]
    strip, example = found.strips[0], None
    target = titles[0].split(": ")[1].split(",")[0]
    for one in twins_dataset(4).examples:
        if f"image {one.name}" == strip.images[0].caption and one.label == target:
            example = one
    image, region, base, contrastive = (np.asarray(one.image, dtype=int) for one in strip.images)
    assert 0 < (image == region).all(-1).mean() < 0.3
    against = strip.images[3].caption.removeprefix("contrastive map, against ")
    best = max(measured(found.rows, "energy"), key=lambda one: one.mean.mean)
    result = world.localizer(method="class_stream")(example.read(), target, against, strength=best.strength)
    for panel, drawn in ((contrastive, overlay(result, example.read())), (base, overlay(result, example.read(), base=True))):
        assert np.abs(panel - np.asarray(drawn, dtype=int)).mean() < 2


@pytest.mark.slow
def test_curves_are_what_the_tables_say(found):
    page = evaluation_page("twins", found.rows)
    sections = {section.title: section for section in page.sections}
    named = map(titled, ("energy", "hit", "best_iou", "average_precision", "rd5", "rd10"))
    assert {"What comparing adds", *named} <= set(sections)
    for name in ("energy", "rd5"):
        section, means = sections[titled(name)], {(one.references, one.strength): one for one in measured(found.rows, name)}
        rows = {row[1:3]: row for row in section.table.rows if row[0] != "chance"}
        assert [chart.y for chart in section.plots] == [f"{name}, against the twin", f"{name}, against the 3 nearest classes"]
        for references, chart in zip(("twin", "nearest:3"), section.plots, strict=True):
            (line,) = chart.lines
            assert line.name == "class_stream"
            assert chart.chance == chance_of(found.rows, name)
            assert [point.x for point in line.points] == [0.0, 0.5, 1.0]
            for point in line.points:
                key = (references, point.x) if point.x else ("none", 0.0)
                assert (point.y, point.low, point.high) == (means[key].mean.mean, means[key].mean.low, means[key].mean.high)
                assert rows[key][4:7] == (point.y, point.low, point.high)
    told = {row["references"]: row["energy"] for row in found.means if row["strength"] == 1.0}
    assert {row[1]: row[4] for row in sections[titled("energy")].table.rows if row[2] == 1.0} == pytest.approx(told)
    gains = sections["What comparing adds"].plots[0].marks
    assert [mark.value for mark in gains] == sorted(
        (one.gain.mean for one in measured(found.rows, "energy") if one.gain), reverse=True
    )
    to_html(page)


def test_a_base_map_alone_and_nothing_at_all_are_pages():
    about = {"label": "<finch>", "method": "hires_cam", "references": "none", "strength": 0.0, "correct": True}
    rows = [GridRow(image=name, energy=energy, area=0.25, **about) for name, energy in (("a", 0.5), ("b", 0.75))]
    page = evaluation_page("<set>", rows)
    assert page.lead == (
        "Share of evidence inside the mask (energy) is highest for hires_cam without comparison: 0.625 on average, "
        "0.250 by chance."
    )
    html = to_html(page)
    assert "<h1>&lt;set&gt;: maps of the model</h1>" in html
    (chart,) = page.sections[1].plots
    assert [line.name for line in chart.lines] == ["hires_cam"]
    assert chart.chance == 0.25
    assert evaluation_page("set", []).lead == "No image could be used."


def test_figures_that_disagree_are_named():
    about = {"image": "a", "label": "finch", "method": "hires_cam", "correct": True}
    base = GridRow(**about, references="none", strength=0.0, energy=0.5, hit=1.0, best_iou=0.4, deletion=0.2, area=0.1)
    about |= {"references": "rivals:1", "strength": 1.0}
    compared = GridRow(**about, energy=0.75, hit=1.0, best_iou=0.3, deletion=0.1, area=0.1)
    page = evaluation_page("set", [base, compared])
    assert "highest for hires_cam against the runner-up, strength 1: 0.750" in page.lead
    # Hits are equal, and of deletion the lower is better.
    assert page.lead.endswith("Figures by which another is best: best iou.")
