"""Plots: what is drawn is what the table beside it says, as well-formed SVG, whatever the names hold."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest
from test_page import HOSTILE, Elements, hostile, plotted

from concept_cam.errors import OptionError
from concept_cam.page import Chart, Intervals, Line, Mark, Matrix, Page, Point, Section, to_html
from concept_cam.page.plots import range_of, ticks


def svgs(html: str) -> list[ElementTree.Element]:
    """The plots of a page, and the signs of its legends; a page whose SVG is no XML fails here."""
    found, depth, start = [], 0, 0
    for tag in re.finditer("<svg |</svg>", html):
        start = tag.start() if depth == 0 else start
        depth += 1 if tag[0] == "<svg " else -1
        if depth == 0:
            found.append(ElementTree.fromstring(html[start : tag.end()]))
    return found


def shown(plot: object) -> list[ElementTree.Element]:
    return svgs(to_html(Page("Page", "Lead.", (Section("Plot", plots=(plot,)),))))


def marks(svg: ElementTree.Element) -> list[ElementTree.Element]:
    return [one for one in svg.iter("svg") if "mark" in one.get("class", "").split()]


def percent(text: str) -> float:
    assert text.endswith("%")
    return float(text[:-1])


def test_intervals_are_where_the_table_says():
    page = plotted()
    section = page.sections[0]
    tracks = [svg for svg in svgs(to_html(page)) if svg.get("class") == "track"][: len(section.table.rows)]
    assert len(tracks) == len(section.table.rows) == 6
    for svg, (name, value, low, high) in zip(tracks, section.table.rows, strict=True):
        (mark,) = marks(svg)
        assert float(mark.get("data-values")) == pytest.approx(value, abs=1e-6)
        assert percent(mark.get("x")) == pytest.approx(100 * value, abs=0.01)
        (span,) = [line for line in svg.iter("line") if line.get("class") == "span"]
        assert [percent(span.get(end)) for end in ("x1", "x2")] == pytest.approx([100 * low, 100 * high], abs=0.01)
        told = mark.findtext("title")
        assert told == f"{name}: {value:.3f}, interval {low:.3f} to {high:.3f}, by chance 0.400"
        assert svg.get("aria-label") == told
        (limit,) = [line for line in svg.iter("line") if line.get("class") == "limit"]
        assert percent(limit.get("x1")) == 30
        (chance,) = [line for line in svg.iter("line") if line.get("class") == "chance"]
        assert percent(chance.get("x1")) == 40
    assert [float(text) for text in re.findall("<b>(.*?)</b>", to_html(page))[:6]] == pytest.approx(
        [row[1] for row in section.table.rows], abs=5e-4
    )


def test_an_axis_may_begin_below_zero():
    track, axis = shown(Intervals("gain", (Mark("a", -0.1, -0.2, 0.1),), -0.2, 0.6))
    assert percent(marks(track)[0].get("x")) == pytest.approx(12.5)
    assert [text.text for text in axis.iter("text")] == ["-0.2", "0", "0.2", "0.4", "0.6"]
    assert [percent(text.get("x")) for text in axis.iter("text")] == [0, 25, 50, 75, 100]


def test_a_legend_says_what_dot_and_bar_are():
    def told(**named):
        plot = Intervals("share", (Mark("a", 0.25, 0.1, 0.4, 0.5),), limit=0.3, limited="alarm", **named)
        html = to_html(Page("Page", "Lead.", (Section("Plot", plots=(plot,)),)))
        return re.findall(r'<span class="(\w+)-name">(.*?)</span>', html)

    assert told() == [("limit", "alarm"), ("chance", "by chance")]
    assert told(valued="mean", spanned="where it lies")[:2] == [("value", "mean"), ("span", "where it lies")]


def test_a_value_without_an_interval_is_a_line_from_zero():
    track, _ = shown(Intervals("share", (Mark("a", 0.25),)))
    (span,) = [line for line in track.iter("line") if line.get("class") == "span"]
    assert (span.get("x1"), span.get("x2")) == ("0.00%", "25.00%")


def test_a_chart_has_each_point_where_it_belongs():
    lines = (
        Line("one", (Point(0.0, 0.2, 0.1, 0.3), Point(2.0, 0.8, 0.7, 0.85))),
        Line("two", (Point(0.0, 0.4), Point(1.0, 0.4), Point(2.0, 0.0))),
    )
    svg, *keys = shown(Chart("strength", "energy", lines, (0.0, 2.0), (0.0, 0.8)))
    found = [tuple(map(float, mark.get("data-values").split())) for mark in marks(svg)]
    assert found == [(0.0, 0.2), (2.0, 0.8), (0.0, 0.4), (1.0, 0.4), (2.0, 0.0)]
    across = {percent(mark.get("x")) for mark in marks(svg)}
    assert across == {9.0, 53.0, 97.0}
    down = [float(mark.get("y")) for mark in marks(svg)]
    assert down == [180.5, 14.0, 125.0, 125.0, 236.0]
    # Each group has its colour, and its shape.
    kinds = [(mark.get("class"), mark.find("path").get("d")) for mark in marks(svg)]
    assert len({kind for kind, _ in kinds}) == len({path for _, path in kinds}) == 2
    assert [mark.get("class") for key in keys for mark in marks(key)] == ["mark c0", "mark c1"]
    assert marks(svg)[0].findtext("title") == "one: strength 0, energy 0.200 (0.100 to 0.300)"
    joined = [line for line in svg.iter("line") if line.get("class").startswith("line ")]
    assert len(joined) == 1 + 2
    assert (joined[0].get("x1"), joined[0].get("y1"), joined[0].get("x2"), joined[0].get("y2")) == (
        "9.00%",
        "180.5",
        "97.00%",
        "14.0",
    )


def test_labels_of_points_do_not_lie_on_each_other():
    near = [Point(0.5, 0.5 + 0.001 * k, name=f"class {k}", labelled=True) for k in range(5)]
    points = (*near, Point(0.1, 0.9, name="far", labelled=True))
    (svg, _) = shown(Chart("first", "second", (Line("classes", points),), joined=False, diagonal="the same"))
    assert [text.text for text in svg.iter("text") if text.get("class") == "label"] == ["class 0", "far"]
    assert len(marks(svg)) == 6
    assert not [line for line in svg.iter("line") if line.get("class").startswith("line ")]
    (line,) = [line for line in svg.iter("line") if line.get("class") == "diagonal"]
    assert (line.get("x1"), line.get("y1"), line.get("x2"), line.get("y2")) == ("9.00%", "236.0", "97.00%", "14.0")


def test_a_matrix_shows_each_count_and_marks_errors():
    matrix = Matrix("label", "predicted as", ("finch", "robin"), ((8, 2), (0, 0)))
    html = to_html(Page("Page", "Lead.", (Section("Counts", plots=(matrix,)),)))
    assert re.findall(r'<td class="(.*?)" title="(.*?)">(\d*)</td>', html) == [
        ("heat-4 right", "finch, predicted as finch: 8", "8"),
        ("heat-1", "finch, predicted as robin: 2", "2"),
        ("heat-0", "robin, predicted as finch: 0", ""),
        ("heat-0 right", "robin, predicted as robin: 0", ""),
    ]


def test_names_are_text_and_the_page_asks_for_nothing():
    html = to_html(hostile())
    elements = Elements(html)
    assert len(elements.all("script")) == 1
    assert "<script>alert" not in html
    assert not re.search(r"https?:|//|@import|url\(|srcset", re.sub(r'src="data:.*?"', "", html))
    told = [mark.findtext("title") for svg in svgs(html) for mark in marks(svg) if mark.find("title") is not None]
    for name in HOSTILE:
        assert any(name in text for text in told)
    assert not [key for _, given in elements.tags for key in given if key.startswith("on") or key == "style"]


def test_tags_are_closed_in_their_order():
    html = to_html(hostile())
    stack: list[str] = []
    for closing, tag in re.findall(r"<(/?)([a-z0-9]+)[^<>]*?(?<!/)>", re.sub(r"(?s)<(style|script)>.*?</\1>", "", html)):
        if closing:
            assert stack.pop() == tag
        elif tag not in ("meta", "link", "img", "wbr", "input", "br"):
            stack.append(tag)
    assert stack == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_cannot_be_drawn_is_refused(value: float):
    with pytest.raises(OptionError, match="expected finite numbers"):
        Intervals("share", (Mark("a", value),))
    with pytest.raises(OptionError, match="expected finite numbers"):
        Chart("x", "y", (Line("a", (Point(0.0, 0.0, high=value),)),))
    with pytest.raises(OptionError, match="the larger last"):
        Intervals("share", (), 1.0, 0.0)
    with pytest.raises(OptionError, match="expected one for each pair"):
        Matrix("a", "b", ("x", "y"), ((1, 2),))


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ((0, 1), [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ((0, 1.5), [0, 0.5, 1, 1.5]),
        ((-0.03, 0.04), [-0.02, 0, 0.02, 0.04]),
        ((0, 3e-5), [0, 1e-5, 2e-5, 3e-5]),
        ((0, 7), [0, 2, 4, 6]),
    ],
)
def test_ticks_are_round(ends, expected):
    assert ticks(*ends) == pytest.approx(expected)
    assert str(ticks(*ends)[0]) != "-0.0"


def test_a_range_holds_all_and_zero():
    for values in ([0.2, 0.73], [-0.11, -0.05], [5.0], [], [0.0]):
        low, high = range_of(values)
        assert low <= min([0.0, *values]) <= max([0.0, *values]) <= high
        assert low < high


@pytest.mark.parametrize("value", [1e-12, -1e-12, 3.7e-300, 1e-308, 5e-324, 1e15, -7.3e22, 1e300])
def test_an_axis_of_any_size_has_a_few_ticks(value):
    low, high = range_of([value])
    assert low <= value <= high
    drawn = ticks(low, high)
    assert 3 <= len(drawn) == len(set(drawn)) <= 6
    assert low <= drawn[0] < drawn[-1] <= high
    track, _ = shown(Intervals("gain", (Mark("a", value),), low, high))
    assert 0 <= percent(marks(track)[0].get("x")) <= 100
