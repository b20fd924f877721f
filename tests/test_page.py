"""Pages: what is written is escaped and whole, and a browser that opens the file asks nobody for anything and sorts.

``python tests/test_page.py FOLDER`` writes the example, and images of it as a desk, a telephone and paper show it.
"""

from __future__ import annotations

import base64
import io
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from slow import by_default, cases

from concept_cam.errors import OptionError
from concept_cam.page import (
    Chart,
    Intervals,
    Line,
    Mark,
    Matrix,
    Page,
    Point,
    Section,
    Strip,
    Table,
    Thumbnail,
    to_html,
)
from concept_cam.tables import read_table

NAMES = (
    "ember finch",
    "frost finch",
    "lesser spotted marsh warbler of the northern reed beds",
    "ochre bunting",
    "Grünfinkenweibchenschwanzfederspitzenzeichnungsweißanteil",
    "slate thrush",
    "saffron wren",
    "ivory-crowned sandpiper",
    "dusky_flycatcher_(juvenile_plumage_2019_field_season)",
    "teal kingfisher",
    "rust warbler",
    "pale nuthatch",
)
COLOURS = (
    *("#d0552e", "#7fa8c9", "#8a7a4a", "#c98a1e", "#3f7a52", "#5d6b7a"),
    *("#e0b020", "#cfc8b8", "#6b5744", "#1f8a8a", "#a34a28", "#b7c0c8"),
)


def drawn(k: int, size: tuple[int, int] = (640, 480), hot: bool = False) -> Image.Image:
    """A bird of sorts on a plain ground, with a spot on its head."""
    width, height = size
    image = Image.new("RGB", size, ("#e8efe6", "#eaf0f6", "#f4eee2")[k % 3])
    draw = ImageDraw.Draw(image)

    def oval(left: float, top: float, right: float, bottom: float, colour: str) -> None:
        draw.ellipse((left * width, top * height, right * width, bottom * height), fill=colour)

    oval(0.2, 0.38, 0.72, 0.82, COLOURS[k])
    oval(0.58, 0.22, 0.82, 0.54, COLOURS[(k + hot) % 12])
    draw.polygon([(0.8 * width, 0.36 * height), (0.93 * width, 0.4 * height), (0.8 * width, 0.44 * height)], fill="#3a3a3a")
    draw.polygon([(0.24 * width, 0.6 * height), (0.04 * width, 0.76 * height), (0.3 * width, 0.72 * height)], fill=COLOURS[k])
    oval(0.7, 0.31, 0.735, 0.36, "#16181a")
    oval(0.32, 0.46, 0.56, 0.72, COLOURS[(k + 5) % 12])
    if hot:
        heat = Image.new("L", size)
        ImageDraw.Draw(heat).ellipse((0.55 * width, 0.12 * height, 0.85 * width, 0.5 * height), fill=170)
        image.paste("#ff8a1e", mask=heat)
    return image


def example() -> Page:
    """An audit as a biologist would get it, with names and columns that are hard to place."""
    numbers = np.random.default_rng(3)
    classes = []
    for k, name in enumerate(NAMES):
        accuracy = None if k == 6 else round(float(numbers.uniform(0.61, 0.99)), 5)
        inside = float(numbers.uniform(0.08, 0.5))
        thumbnail = Thumbnail(drawn(k), name, link=f"images/{name} #1.png")
        classes.append((thumbnail, int(numbers.integers(18, 240)), accuracy, inside, NAMES[(k + 1) % 12], k in (2, 8)))
    parts = ("crown", "beak", "throat", "breast", "wing_bars", "primaries", "rump", "tail", "legs", "eye ring", "nape")
    evidence = [
        (name, *(None if (k + i) % 7 == 0 else float(numbers.normal(0.1, 0.2)) for i in range(len(parts))))
        for k, name in enumerate(NAMES)
    ]
    shortcuts = [
        ("reed stems", "lesser spotted marsh warbler of the northern reed beds", 0.41, 63),
        ("label of the museum", "dusky_flycatcher_(juvenile_plumage_2019_field_season)", 0.372, 41),
        ("water line", "teal kingfisher", 0.118, 9),
    ]
    return Page(
        "What the model looks at: finches & their neighbours",
        "On 1,284 held-out photographs the model tells the twelve species apart for the most part by the bird. For two of "
        "them it leans on what stands beside it.",
        (
            Section(
                "Species by species",
                "Evidence inside is the share of the positive evidence that lies on the bird. A species is flagged where most "
                "of it lies elsewhere.",
                Table(
                    ("species", "photographs", "accuracy", "evidence inside", "most often taken for", "flagged"),
                    tuple(classes),
                ),
            ),
            Section(
                "Evidence on each part, for a species against the one that it is most often taken for",
                "Mean of the signed maps over each part. Parts that are not to be seen in any photograph are left empty.",
                Table(("species", *parts), tuple(evidence)),
            ),
            Section(
                "Shortcuts",
                "Regions that are not the bird and without which the score falls.",
                Table(("region", "species", "fall of the score", "photographs"), tuple(shortcuts)),
            ),
            Section(
                "Images that are typical of what was found",
                images=tuple(
                    Thumbnail(
                        drawn(k, ((640, 480), (480, 640), (640, 360))[k % 3], hot=True),
                        f"{NAMES[k]}, against {NAMES[(k + 1) % 12]}",
                        link=f"images/{k:02d} overlay.png",
                    )
                    for k in (0, 1, 2, 4, 5, 8, 9)
                ),
            ),
        ),
        (
            ("accuracy", "0.874"),
            ("evidence inside the bird", "0.612"),
            ("species flagged", "2 of 12"),
            ("photographs", "1,284"),
            ("model", "ViT-B-16-SigLIP2-512 / webli"),
            ("date", "14 March 2025"),
        ),
    )


HOSTILE = (
    "<script>alert('a')</script>",
    "\"quoted\" & 'quoted'",
    "عصفور الدوري (الأوروبي) 12",
    "Grünfinkenweibchenschwanzfederspitzenzeichnungsweißanteil" * 3,
    "a_long_name_" * 12,
    "ember finch",
)


def plotted(names: tuple[str, ...] = NAMES[:6]) -> Page:
    """One of each kind of plot, with strips."""
    numbers = np.random.default_rng(5)
    values = [round(float(x), 4) for x in numbers.uniform(0.1, 0.9, len(names))]
    marks = tuple(
        Mark(name, x, x - 0.08, x + 0.07, 0.4, "suspect", k < 2, Thumbnail(drawn(k), name, f"images/{k}.png"))
        for k, (name, x) in enumerate(zip(names, values, strict=True))
    )
    bars = tuple(Mark(name, x, note=name) for name, x in zip(names, values, strict=True))
    lines = tuple(
        Line(name, tuple(Point(s, x * s, x * s - 0.05, x * s + 0.05) for s in (0.0, 0.5, 1.0)))
        for name, x in zip(names, values, strict=True)
    )
    dots = (
        Line(
            "classes",
            tuple(Point(x, 1 - x, name=name, labelled=k < 3) for k, (name, x) in enumerate(zip(names, values, strict=True))),
        ),
    )
    counts = tuple(tuple(int(x) for x in numbers.integers(0, 9, len(names))) for _ in names)
    images = tuple(Thumbnail(drawn(k, hot=bool(k)), names[k], side=320) for k in range(4))
    table = Table(("name", "share", "at least", "at most"), tuple((m.name, m.value, m.low, m.high) for m in marks))
    sections = (
        Section(
            names[0],
            "Text.",
            table,
            strips=(Strip(names[1], images, names[2]),),
            plots=(Intervals(names[3], marks, limit=0.3, limited="alarm above 0.3"), Intervals("share", bars)),
            about="How.",
        ),
        Section(
            "Curves",
            plots=(Chart("strength", "energy", lines), Chart("first", "second", dots, joined=False, diagonal="the same")),
        ),
        Section(
            "Counts",
            plots=(Matrix("label", "predicted as", names, counts),),
            strips=tuple(Strip(names[k % len(names)], images) for k in range(9)),
        ),
    )
    return Page(names[0], names[1], sections, (("images", "12"),))


def hostile() -> Page:
    return plotted(HOSTILE)


class Elements(HTMLParser):
    """Every tag with its attributes, and every piece of text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page_of(*sections: Section, title: str = "Page", lead: str = "Lead.") -> Page:
    return Page(title, lead, sections)


def table_of(*cells: object) -> Page:
    return page_of(Section("Table", table=Table(("a",), tuple((cell,) for cell in cells))))


# ---- what is written --------------------------------------------------------------------------------------------------


def test_texts_are_texts():
    wild = "<script>alert(1)</script>\"'&amp;<b>"
    image = Image.new("RGB", (8, 8))
    table = Table((wild,), ((wild,), (Thumbnail(image, wild, link=f"{wild}.png"),)))
    section = Section(wild, wild, table, (Thumbnail(image, wild),))
    html = to_html(Page(wild, wild, (section,) * 3, ((wild, wild),)))
    elements = Elements(html)
    assert len(elements.all("script")) == 1
    assert not elements.all("b")
    assert "alert(1)" not in re.sub(r"&lt;script&gt;alert\(1\)&lt;/script&gt;|%3Cscript%3Ealert%281%29", "", html)
    # Title, h1, lead, a fact's two; of each section: contents, h2, text, header, cell, two captions
    assert elements.texts.count(wild) == 5 + 3 * 7
    assert [image["alt"] for image in elements.all("img")] == [wild] * 6


@pytest.mark.parametrize(
    ("size", "small"),
    [((640, 480), (224, 168)), ((480, 1280), (84, 224)), ((30, 20), (30, 20)), ((3000, 1), (224, 1))],
)
def test_images_are_embedded_small(size: tuple[int, int], small: tuple[int, int]):
    image = Image.new("RGB", size, (200, 90, 40))
    (attributes,) = Elements(to_html(page_of(Section("One", images=(Thumbnail(image, "finch"),))))).all("img")
    kind, _, content = attributes["src"].partition(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(content, validate=True))) as embedded:
        assert embedded.size == small == (int(attributes["width"]), int(attributes["height"]))
        assert np.abs(np.asarray(embedded, dtype=int) - (200, 90, 40)).max() <= 4
    assert image.size == size


def test_the_transparent_is_white_and_the_turned_upright():
    clear = Image.new("RGBA", (40, 20), (0, 0, 0, 0))
    turned = Image.new("RGB", (40, 20))
    turned.getexif()[0x0112] = 6
    images = Elements(to_html(page_of(Section("Two", images=(Thumbnail(clear, "a"), Thumbnail(turned, "b")))))).all("img")
    assert [(image["width"], image["height"]) for image in images] == [("40", "20"), ("20", "40")]
    with Image.open(io.BytesIO(base64.b64decode(images[0]["src"].partition(",")[2]))) as embedded:
        assert np.asarray(embedded).min() >= 250


def test_numbers_show_three_decimals_and_keep_all():
    cells = (0.12345678, -0.0001, 7, -2.5, None, float("nan"), float("-inf"), 1e300)
    html = to_html(table_of(*cells))
    found = re.findall(r'<td class="number"(?: data-value="(.*?)")?>(.*?)</td>|(<td></td>)', html)
    assert [(value, shown[:12]) for value, shown, _ in found] == [
        ("0.12345678", "0.123"),
        ("-0.0001", "0.000"),
        ("7", "7"),
        ("-2.5", "-2.500"),
        ("", ""),
        ("", ""),
        ("-Infinity", "-inf"),
        ("1e+300", "100000000000"),
    ]
    assert '<th scope="col" class="number">' in html


def test_numbers_of_numpy_are_numbers():
    html = to_html(table_of(np.float64(0.5)))
    assert 'data-value="0.5">0.500<' in html


def test_a_column_with_a_word_in_it_is_one_of_words():
    html = to_html(table_of("seven", 7, True, False, None))
    assert 'class="number"' not in html
    assert [text for text in Elements(html).texts if text in ("7", "yes", "no", "seven", "True", "None")] == [
        "seven",
        "7",
        "yes",
        "no",
    ]
    assert html.count("<td></td>") == 1


def test_the_first_column_names_the_rows_unless_it_is_of_numbers():
    named = to_html(page_of(Section("Table", table=Table(("a", "b"), (("x", "y"), (None, "z"))))))
    numbered = to_html(page_of(Section("Table", table=Table(("a", "b"), ((1, "y"),)))))
    assert named.count('<th scope="row">') == 1
    assert numbered.count('<th scope="row">') == 0


def test_a_row_of_another_length_is_refused():
    with pytest.raises(OptionError, match="Row 1 has 1 cells for 2 columns"):
        Table(("a", "b"), ((1, 2), (1,)))


@pytest.mark.parametrize(
    "link",
    [
        *("javascript:alert(1)", " javascript:1", "java\nscript:1", "data:,", "file:a.png", "http://example.org/a.png"),
        *("//example.org/a.png", "/a.png", "C:/a.png", "\\\\server\\a.png", "a\\b.png", ""),
    ],
)
def test_links_to_elsewhere_are_refused(link: str):
    with pytest.raises(OptionError, match="path from the page's folder"):
        Thumbnail(Image.new("RGB", (8, 8)), "finch", link=link)


@pytest.mark.parametrize(
    ("link", "encoded"),
    [
        ("images/gold crest #3.png", "images/gold%20crest%20%233.png"),
        ("what?.png", "what%3F.png"),
        ("Grünfink.png", "Gr%C3%BCnfink.png"),
        ("50%20.png", "50%2520.png"),
        ("a/12:30.png", "a/12%3A30.png"),
        ('"><script>.png', "%22%3E%3Cscript%3E.png"),
        ("../other/a-b_c.~1.png", "../other/a-b_c.~1.png"),
        ("\udcff.png", "%FF.png"),
    ],
)
def test_file_names_are_percent_encoded(link: str, encoded: str):
    html = to_html(page_of(Section("One", images=(Thumbnail(Image.new("RGB", (8, 8)), "finch", link=link),))))
    assert [a["href"] for a in Elements(html).all("a")] == [encoded]


def test_a_name_that_is_not_utf8_can_be_written():
    assert "finch ?" in to_html(page_of(title="finch \udcff"))
    to_html(page_of(title="finch \udcff")).encode()


def test_nothing_is_asked_for():
    html = to_html(example())
    elements = Elements(html)
    assert not re.search(r"https?:|//|@import|url\(|srcset", re.sub(r'src="data:.*?"', "", html))
    assert not {"iframe", "object", "embed", "base", "form"} & {tag for tag, _ in elements.tags}
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in elements.all("img"))
    assert {tag for tag, attributes in elements.tags if "src" in attributes} == {"img"}
    assert elements.all("link") == [{"rel": "icon", "href": "data:,"}]
    assert not [key for _, attributes in elements.tags for key in attributes if key.startswith("on") or key == "style"]
    (policy,) = [meta["content"] for meta in elements.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-")
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in elements.all("meta")
    assert elements.all("html") == [{"lang": "en"}]
    assert html.startswith("<!DOCTYPE html>\n")


@pytest.mark.parametrize(("count", "listed"), [(2, []), (3, ["#section-1", "#section-2", "#section-3"])])
def test_three_sections_have_a_table_of_contents(count: int, listed: list[str]):
    elements = Elements(to_html(page_of(*(Section(f"Part {k}") for k in range(count)))))
    assert [a["href"] for a in elements.all("a")] == listed
    assert {f"#{h2['id']}" for h2 in elements.all("h2")} >= set(listed)


def test_blank_lines_part_paragraphs():
    html = to_html(page_of(Section("One", "First\nline.\n\nSecond.\n\n")))
    assert "<p>First\nline.</p>\n<p>Second.</p>\n</section>" in html


def test_an_empty_page_and_an_empty_table_are_pages():
    html = to_html(page_of(Section("Nothing", table=Table((), ())), Section("None", table=Table(("a", "b"), ()))))
    assert html.count("No rows.") == 2
    assert "<h1>Page</h1>" in to_html(page_of())


# ---- what a browser makes of it ---------------------------------------------------------------------------------------


@contextmanager
def chromium() -> Iterator[object]:
    """A browser, if there is one."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        pytest.skip("playwright is not installed: pip install playwright")
    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if binary is None:
        pytest.skip("no Chromium on the PATH: apt-get install chromium")
    options = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=binary, headless=True, args=options)
        except Error as error:
            pytest.skip(f"{binary} does not start: {error.message.splitlines()[0]}")
        try:
            yield browser
        finally:
            browser.close()


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def opened(browser, tmp_path):
    """Opens a page from disk; at the end, nothing was asked for but the file, and nothing complained."""
    asked, complaints, contexts = [], [], []

    def opened(page: Page, width: int = 1280, script: bool = True, touch: bool = False, dark: bool = False):
        path = tmp_path / "page.html"
        path.write_text(to_html(page), "utf-8")
        view = {"viewport": {"width": width, "height": 800}, "is_mobile": touch, "has_touch": touch}
        scheme = "dark" if dark else "light"
        contexts.append(browser.new_context(java_script_enabled=script, color_scheme=scheme, **view))
        tab = contexts[-1].new_page()
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.goto(path.as_uri())
        for summary in tab.locator("summary").all():
            summary.click()
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert {url for url in asked if not url.startswith("data:")} == {(tmp_path / "page.html").as_uri()}
    assert complaints == []


def overflow(tab) -> int:
    """By how many pixels the page is wider than what shows it."""
    return tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def column(tab, k: int) -> list[str]:
    return tab.eval_on_selector_all(f"tbody tr > :nth-child({k + 1})", "cells => cells.map(cell => cell.innerText.trim())")


SORTED = Table(
    ("name", "score", "of any kind", "group"),
    (
        ("wren 10", 9.5, "b", "x"),
        ("Äsche", None, 10, "y"),
        ("wren 9", 9.25, 9.0, "x"),
        (None, float("nan"), None, "y"),
        ("zebra finch", -30, "B", "x"),
        ("adder", 9.2504, "ä", "y"),
        ("Ember", float("inf"), "", "x"),
    ),
)


def test_tables_sort(opened):
    tab = opened(page_of(Section("Table", table=SORTED)))

    def sort_by(name: str) -> list[str]:
        tab.get_by_role("button", name=name, exact=True).click()
        k = SORTED.columns.index(name)
        states = tab.eval_on_selector_all("thead th", "ths => ths.map(th => th.getAttribute('aria-sort'))")
        assert [state for i, state in enumerate(states) if i != k] == [None] * 3
        return [states[k], *column(tab, k)]

    assert sort_by("score") == ["ascending", "-30", "9.250", "9.250", "9.500", "inf", "", ""]
    assert column(tab, 0) == ["zebra finch", "wren 9", "adder", "wren 10", "Ember", "Äsche", ""]
    assert sort_by("score") == ["descending", "inf", "9.500", "9.250", "9.250", "-30", "", ""]
    assert column(tab, 0) == ["Ember", "wren 10", "adder", "wren 9", "zebra finch", "Äsche", ""]
    assert sort_by("name") == ["ascending", "adder", "Äsche", "Ember", "wren 9", "wren 10", "zebra finch", ""]
    assert sort_by("name") == ["descending", "zebra finch", "wren 10", "wren 9", "Ember", "Äsche", "adder", ""]
    # Rows that are equal keep the order that they had, in both directions.
    assert sort_by("group") == ["ascending", "x", "x", "x", "x", "y", "y", "y"]
    assert column(tab, 0) == ["zebra finch", "wren 10", "wren 9", "Ember", "Äsche", "adder", ""]
    assert sort_by("group") == ["descending", "y", "y", "y", "x", "x", "x", "x"]
    assert column(tab, 0) == ["Äsche", "adder", "", "zebra finch", "wren 10", "wren 9", "Ember"]
    assert sort_by("of any kind")[:3] == ["ascending", "9.000", "10"]
    assert sort_by("of any kind")[-4:] == ["10", "9.000", "", ""]


def test_thumbnails_sort_by_caption_and_tables_apart(opened):
    images = [(Thumbnail(drawn(k), caption), k) for k, caption in enumerate(("b", "", "c", "a"))]
    table = Table(("species", "number"), tuple(images))
    tab = opened(page_of(Section("One", table=table), Section("Two", table=table)))
    tab.locator("section").nth(1).get_by_role("button", name="species").click()
    assert column(tab, 1) == ["0", "1", "2", "3", "3", "0", "2", "1"]


def test_the_keyboard_sorts(opened):
    tab = opened(page_of(Section("Table", table=SORTED)))
    tab.get_by_role("button", name="Save as CSV").focus()
    tab.keyboard.press("Tab")  # a table that fits is no stop on the way
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.innerText") == "score"
    tab.keyboard.press("Enter")
    assert column(tab, 1)[0] == "-30"
    tab.keyboard.press("Space")
    assert column(tab, 1)[0] == "inf"
    assert tab.evaluate("document.activeElement.innerText") == "score"


def test_images_show(opened):
    tab = opened(example())
    widths = tab.eval_on_selector_all("img", "images => images.map(image => [image.naturalWidth, image.clientWidth])")
    assert len(widths) == 12 + 7
    assert all(natural > 100 and shown > 50 for natural, shown in widths)


def wide() -> Page:
    """Long words wherever there are words, twelve columns of them."""
    word = "Grünfinkenweibchenschwanzfederspitzenzeichnungsweißanteil" * 3
    sides = ((2000, 100), (100, 2000), (10, 10))
    images = tuple(Thumbnail(Image.new("RGB", size, "teal"), word, link=f"{word}.png") for size in sides)
    rows = ((images[0], word, *(0.5 + k for k in range(10))), (images[1], *(word for _ in range(11))))
    sections = (
        Section(word, word, Table(tuple(f"{word}{k}" for k in range(12)), rows), images),
        Section(word),
        Section(word),
    )
    return Page(word, word, sections, ((word, word), ("a", "b")))


@pytest.mark.parametrize("touch", [False, True], ids=["desk", "telephone"])
@pytest.mark.parametrize("script", by_default([True, False], True), ids=["script", "no script"])
@pytest.mark.parametrize("width", by_default([320, 380, 700, 1280], 320))
@pytest.mark.parametrize("page", by_default([example, wide, plotted, hostile], example, wide, hostile))
def test_nothing_overflows(opened, page, width: int, script: bool, touch: bool):
    tab = opened(page(), width, script, touch)
    assert overflow(tab) == 0
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    boxes = tab.eval_on_selector_all(
        "h1, h2, p, dd, li, figure, figcaption, .scroll, .images img",
        "all => all.filter(e => !e.closest('table')).map(e => e.getBoundingClientRect().right)",
    )
    assert max(boxes) <= width
    # Nor is a column squeezed to a letter: the table scrolls in its own box.
    scrolled = tab.eval_on_selector_all(".scroll", "boxes => boxes.map(box => box.scrollWidth > box.clientWidth)")
    if width <= 380 and page in (example, wide):
        assert scrolled[0]
    if page is example and width == 1280:
        assert scrolled == [False, False, False]


@pytest.mark.parametrize("page", by_default([example, wide, plotted, hostile], example, wide))
def test_paper_holds_all(opened, page):
    tab = opened(page(), 688)  # A4 less its margins
    tab.emulate_media(media="print")
    assert overflow(tab) == 0
    assert all(tab.eval_on_selector_all(".scroll", "boxes => boxes.map(box => box.scrollWidth <= box.clientWidth)"))
    positions = tab.eval_on_selector_all("th", "ths => ths.map(th => getComputedStyle(th).position)")
    assert set(positions) == {"static"}
    assert tab.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
    assert not tab.locator("nav").is_visible()
    assert tab.pdf(format="A4").startswith(b"%PDF")


def test_what_is_drawn_by_a_background_is_on_paper_too(opened):
    """A printer leaves backgrounds out, unless it is told not to."""
    tab = opened(plotted())
    tab.emulate_media(media="print")
    lost = tab.evaluate("""
        [...document.querySelectorAll("body *")].filter(e => e.getClientRects().length)
            .flatMap(e => ["", "::before", "::after"].map(part => [e, part]))
            .map(([e, part]) => [`${e.tagName} ${e.className} ${part}`, getComputedStyle(e, part || null), part])
            .filter(([, style, part]) => style.display !== "none" && !(part && style.content === "none")
                && (style.backgroundColor !== "rgba(0, 0, 0, 0)" || style.backgroundImage !== "none")
                && style.printColorAdjust !== "exact")
            .map(([name]) => name)
    """)
    assert not lost


def test_a_table_that_scrolls_can_be_reached_by_keyboard(opened):
    tab = opened(example(), 380)
    assert tab.locator(".scroll[tabindex='0']").count() == 3
    tab.set_viewport_size({"width": 1280, "height": 800})
    tab.locator(".scroll.fits").nth(2).wait_for()
    assert tab.locator(".scroll[tabindex]").count() == 0


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_an_edge_beyond_which_there_is_more_has_a_shadow(opened, dark: bool):
    tab = opened(wide(), 380, dark=dark)
    image = tab.locator(".scroll:not(.fits)").first.evaluate("box => getComputedStyle(box).backgroundImage")
    assert image.count("linear-gradient") == 4


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_is_dark_where_that_is_asked_for_and_light_on_paper(opened, dark: bool):
    tab = opened(plotted(), dark=dark)

    def luminances() -> list[int]:
        colours = "e => [getComputedStyle(e).color, getComputedStyle(document.documentElement).backgroundColor]"
        return [sum(map(int, re.findall(r"\d+", colour))) for colour in tab.eval_on_selector("p", colours)]

    ink, paper = luminances()
    assert (paper < 200 < 550 < ink) if dark else (ink < 350 < 700 < paper)
    tab.emulate_media(media="print", color_scheme="dark" if dark else "light")
    ink, paper = luminances()
    assert ink < 350 < 700 < paper


def test_without_script_there_is_nothing_to_click(opened):
    tab = opened(example(), script=False)
    assert tab.locator("button, input").count() == 0
    assert tab.locator("thead th").first.inner_text() == "species"
    assert tab.locator("tbody tr").count() == 12 + 12 + 3


def test_a_table_is_searched_and_saved(opened, tmp_path):
    rows = (("=1+1, finch", 0.123456), ('a "b"', None), ("frost finch", -2.5))
    tab = opened(page_of(Section("All classes & more", table=Table(("name", "score"), rows))))
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Save as CSV").click()
    assert download.value.suggested_filename == "all-classes-more.csv"
    download.value.save_as(tmp_path / "saved.csv")
    assert read_table((tmp_path / "saved.csv").read_bytes()) == [
        {"name": "=1+1, finch", "score": "0.123456"},
        {"name": 'a "b"'},
        {"name": "frost finch", "score": "-2.5"},
    ]
    tab.get_by_role("button", name="score").click()
    tab.get_by_role("searchbox", name="Search: All classes & more").fill("FINCH")
    assert tab.locator("tbody tr:visible").count() == 2
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Save as CSV").click()
    download.value.save_as(tmp_path / "saved.csv")
    assert [row["name"] for row in read_table((tmp_path / "saved.csv").read_bytes())] == ["frost finch", "=1+1, finch"]


def test_what_is_folded_is_unfolded_on_paper(browser, tmp_path):
    """By the style sheet alone, so without our script too."""
    path = tmp_path / "page.html"
    path.write_text(to_html(plotted()), "utf-8")
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(path.as_uri())
    table, about = tab.locator("details.table tbody tr").first, tab.locator("details.about p")
    assert not table.is_visible()
    tab.emulate_media(media="print")
    assert table.is_visible()
    assert about.is_visible()
    assert not tab.locator("summary").first.is_visible()
    context.close()


@pytest.mark.parametrize(
    ("width", "dark"), cases([(380, False), (380, True), (800, True), (1280, False), (1280, True)], (380, False))
)
def test_plots_and_strips_are_large_enough(opened, width: int, dark: bool):
    tab = opened(plotted(), width, dark=dark)
    plots = tab.eval_on_selector_all(".track, .chart", "all => all.map(e => e.getBoundingClientRect().width)")
    assert min(plots) > 230
    letters = tab.eval_on_selector_all("svg text", "all => all.map(e => parseFloat(getComputedStyle(e).fontSize))")
    assert min(letters) >= 12
    strips = tab.eval_on_selector_all("section:first-child .strip img", "all => all.map(e => e.getBoundingClientRect().width)")
    assert min(strips) > 150
    # Marks stand out from the paper.
    colours = "all => all.map(e => getComputedStyle(e).fill)"
    paper = tab.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert all(contrast(colour, paper) >= 3 for colour in tab.eval_on_selector_all(".mark path", colours))


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2, 1 to 21."""

    def luminance(colour: str) -> float:
        shares = [int(x) / 255 for x in re.findall(r"\d+", colour)[:3]]
        red, green, blue = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in shares)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_a_script_that_is_not_ours_does_not_run(opened, tmp_path, browser):
    """Even if a text came through unescaped: the policy names our script by its hash."""
    html = to_html(page_of()).replace("<main>", "<main><script>document.title = 'taken'</script>")
    path = tmp_path / "other.html"
    path.write_text(html, "utf-8")
    opened(page_of())
    tab = browser.new_page()
    tab.goto(path.as_uri())
    assert tab.title() == "Page"
    tab.close()


def main(folder: Path) -> None:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    path = folder / "example.html"
    path.write_text(to_html(example()), "utf-8")
    with chromium() as browser:
        for name, width, ratio in (("desk", 1280, 1), ("tablet", 800, 1), ("telephone", 380, 2)):
            tab = browser.new_page(viewport={"width": width, "height": 800}, device_scale_factor=ratio)
            tab.goto(path.as_uri())
            tab.screenshot(path=folder / f"{name}.png", full_page=True)
            tab.close()
        tab = browser.new_page()
        tab.goto(path.as_uri())
        tab.pdf(path=folder / "paper.pdf", format="A4", prefer_css_page_size=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
