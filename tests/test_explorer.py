"""The explorer: its maps are those of the fields to 8 bits, and a browser that opens it from disk does all that it promises.

``python tests/test_explorer.py FOLDER`` writes an example, and images of it as a desk and a telephone show it.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import unescape
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
import torch
from clis import Run, embedded, run  # noqa: F401  (fixtures)
from PIL import Image
from slow import by_default
from test_page import chromium, overflow

from concept_cam import ConceptBank, ConceptField, world
from concept_cam.audit import Audit, Explored, audit, write_report
from concept_cam.datasets import Dataset, Example
from concept_cam.errors import ImageError, OptionError
from concept_cam.evidence import EvidenceMap
from concept_cam.explorer import Beside, PackedMaps, Shown, check_method, has_field, to_html, write_explorer
from concept_cam.images import Placement
from concept_cam.methods import CARDS
from concept_cam.parts import find_parts, read_parts
from concept_cam.parts.explored import Explored as PartsExplored
from concept_cam.regions import bounding_boxes
from concept_cam.store import Store, store_fields, write_matches
from concept_cam.world.dataset import birds_dataset
from concept_cam.writers import find_parts_of_images

SPECIES = tuple(world.species())
WILD = (
    "</script><script>document.title = 'taken'</script>",
    "<img src=x onerror=\"document.title='taken'\">",
    "'\"`&amp;${document.title='taken'}",
    "\u202eright to left \u05d0\u05d1\u05d2 \u0645\u0631\u062d\u0628\u0627",
    "long " * 2000,
    '=1+1,"quoted"\r\nbroken',
    "\U0001f426" * 400,
    "<!--",
)


@dataclass(frozen=True)
class Made:
    """A page with the fields that it was made of."""

    path: Path
    fields: tuple[ConceptField, ...]
    bank: ConceptBank

    def map(self, image: int, target: int, references: tuple[int, ...] = (), strength: float = 0.0) -> np.ndarray:
        vectors = self.bank.vectors
        direction = vectors[target] - (strength * vectors[list(references)].mean(0) if references else 0)
        return self.fields[image](direction).double().numpy()


def made(path: Path, images: list[Image.Image], names: tuple[str, ...], size: int | None = None) -> Made:
    localizer = world.localizer(vocabulary=names, size=size)
    fields = tuple(field for image in images for field in localizer.fields([image]))
    bank = localizer.bank(names)
    shown = [Shown.of(f"plate {k}.png", *pair, bank) for k, pair in enumerate(zip(images, fields, strict=True))]
    path.write_text(to_html(shown, bank, [("model", "world")]), "utf-8")
    return Made(path, fields, bank)


def data_of(page: Path) -> dict[str, Any]:
    """What the script of a page reads."""
    return json.loads(page.read_text("utf-8").split('type="application/json">')[1].split("</script>")[0])


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Made:
    images = [world.draw_species(SPECIES[5 * k], seed=k, size=192).image for k in range(3)]
    images[1] = images[1].crop((0, 0, 192, 144))  # of which the model sees a square
    return made(tmp_path_factory.mktemp("explorer") / "page.html", images, SPECIES)


# ---- what is written ----------------------------------------------------------------------------------------------------


def test_packed_maps_are_within_half_a_step_of_their_8_bits():
    maps = torch.randn(60, 100, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 60)[:, None]
    packed = PackedMaps.of(maps)
    assert packed.rest.dtype == torch.int8
    wrong = (packed.unpacked() - maps).abs().amax(1)
    assert (wrong <= 0.51 * packed.scales + 1e-6 * maps.abs().amax(1)).all()
    assert (packed.scales <= maps.abs().amax(1) / 60).all()  # 8 bits are of what the map itself has


@pytest.mark.parametrize(
    "maps", [torch.zeros(3, 9), torch.ones(1, 1), torch.zeros(40, 30).index_fill(0, torch.tensor(7), 2.0)]
)
def test_maps_without_a_value_are_packed_too(maps: torch.Tensor):
    torch.testing.assert_close(PackedMaps.of(maps).unpacked(), maps, atol=1e-4, rtol=0)


def test_differences_of_twins_keep_8_bits(birds: Made):
    """What packing is for: of the difference of two similar concepts no value is off by more than one of 127 steps."""
    for field in birds.fields:
        exact = field(birds.bank).flatten(1).double()
        packed = PackedMaps.of(exact).unpacked().double()
        worst = 0.0
        for target, name in enumerate(birds.bank.names):
            twin = birds.bank.index(birds.bank.neighbours(name, 1)[0])
            for strength in (0.6, 1.0):
                difference = exact[target] - strength * exact[twin]
                off = packed[target] - strength * packed[twin] - difference
                worst = max(worst, float(off.abs().max() / difference.abs().max()))
        assert worst <= 1 / 127


def test_a_method_that_does_not_look_at_the_score_is_refused():
    with pytest.raises(OptionError, match=r"rollout does not look at the score.*hires_cam"):
        check_method("rollout")
    for name, card in CARDS.items():
        if card.compares != "no":
            check_method(name)
        assert not has_field(name) or card.compares == "linear"


def test_what_makes_no_page_is_refused(tmp_path: Path):
    plate = tmp_path / "a.png"
    world.draw_species(SPECIES[0], 1, 96).image.save(plate)
    for names, images, message in ((SPECIES[:1], [plate], "two concepts or more"), (SPECIES, [], "no images")):
        with pytest.raises(OptionError, match=message):
            write_explorer(world.localizer(vocabulary=names), images, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_a_page_that_no_browser_would_open_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("concept_cam.explorer.write.MOST", 2 * 48 * 144 - 1)
    plates = [tmp_path / f"{k}.png" for k in range(2)]
    for plate in plates:
        world.draw_species(SPECIES[0], 1, 96).image.save(plate)
    with pytest.raises(OptionError, match="2 images x 48 concepts x 144 cells are 13,824 values; a page holds 13,823"):
        write_explorer(world.localizer(), plates, tmp_path / "page.html")


def test_the_command(run: Run, tmp_path: Path):  # noqa: F811
    folder = tmp_path / "birds"
    folder.mkdir()
    for k in range(2):
        world.draw_species(SPECIES[k], k, 96).image.save(folder / f"{k}.png")
    done = run("explore", folder, "--out", "found/page.html")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("2 images x 48 concepts in found/page.html (")
    assert "concept-cam explore" in Path("found/page.html").read_text("utf-8")
    assert len(data_of(Path("found/page.html"))["images"]) == 2
    (folder / "0.png").write_bytes(b"no image")
    Path("own.txt").write_text("royal jay\nmisty heron\n")
    done = run("explore", folder, "--vocabulary", "own.txt", "--out", "page.html")
    assert done.code == 2
    assert "1 of 2 images failed" in done.err
    assert done.out.startswith("1 image x 2 concepts")
    page = Path("page.html").read_text("utf-8")
    assert "1 of 2 images could not be read" in page
    assert "<li><bdi>0.png</bdi>:" in page
    done = run("explore", folder / "1.png", "--vocabulary", "world-habitats", "--out", "page.html")
    assert (done.code, done.out.startswith("1 image x 6 concepts")) == (0, True)
    assert "Images that could not be read" not in Path("page.html").read_text("utf-8")


def test_images_of_one_name_have_their_folders(tmp_path: Path):
    plates = [tmp_path / folder / "a.png" for folder in ("left", "right")] + [tmp_path / "b.png"]
    for plate in plates:
        plate.parent.mkdir(exist_ok=True)
        world.draw_species(SPECIES[0], 1, 96).image.save(plate)
    write_explorer(world.localizer(vocabulary=SPECIES[:2]), plates, tmp_path / "page.html")
    assert [image["name"] for image in data_of(tmp_path / "page.html")["images"]] == [
        "left/a.png",
        "right/a.png",
        "b.png",
    ]


def test_mistakes_are_one_line(run: Run, tmp_path: Path):  # noqa: F811
    plate = tmp_path / "a.html"
    world.draw_species(SPECIES[0], 1, 96).image.save(plate, "PNG")
    assert "--out page.pdf: expected the name of a page" in run("explore", plate, "--out", "page.pdf").line()
    assert "rollout does not look at the score" in run("explore", plate, "--method", "rollout").line()
    assert "would be overwritten" in run("explore", plate, "--out", plate).line()
    assert "nowhere" in run("explore", plate, "--vocabulary", "nowhere.txt").line()


# ---- what a browser makes of it -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def opened(browser: Any) -> Iterator[Any]:
    """Opens a page from disk; at the end, nothing was asked for but the file, and nothing complained."""
    asked: list[str] = []
    complaints: list[str] = []
    contexts: list[Any] = []
    pages: set[str] = set()

    def opened(path: Path, link: str = "", width: int = 1280, scheme: str = "light", touch: bool = False) -> Any:
        view = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme, "is_mobile": touch, "has_touch": touch}
        contexts.append(browser.new_context(**view))
        tab = contexts[-1].new_page()
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        pages.add(path.as_uri())
        tab.goto(path.as_uri() + link)
        until(tab, "page.images[state.image].pixels !== undefined")
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert {url.partition("#")[0] for url in asked if not url.startswith(("data:", "blob:"))} == pages
    assert complaints == []


def until(tab: Any, condition: str) -> None:
    """Wait until something holds; the page's policy forbids playwright's own way, which evaluates texts in the page."""
    for _ in range(100):
        if tab.evaluate(condition):
            return
        tab.wait_for_timeout(20)
    raise AssertionError(condition)


def asked(image: str, target: str, *references: str, **others: object) -> str:
    """A link to an image and a comparison."""
    names = [("image", image), ("target", target), *(("against", one) for one in references or ("",))]
    return f"#{urlencode([*names, *others.items()])}"


def saved(tab: Any, kind: str) -> bytes:
    with tab.expect_download() as waiting:
        tab.get_by_role("button", name=f"Save {kind}").click()
    return Path(waiting.value.path()).read_bytes()


def rows_of(tab: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(saved(tab, "CSV").decode("utf-8"), newline="")))


def chosen(tab: Any) -> dict[str, Any]:
    return tab.evaluate("({...state})")


def slide(tab: Any, name: str, value: float) -> None:
    tab.locator(f"#{name}").fill(str(value))


def painted(tab: Any, canvas: str = "#first canvas") -> str:
    return tab.locator(canvas).evaluate("canvas => canvas.toDataURL()")


def close_to(shown: np.ndarray, exact: np.ndarray) -> None:
    """To 8 bits: no value is off by more than one of the 127 steps up to the largest."""
    assert np.abs(shown - exact.ravel()).max() <= np.abs(exact).max() / 127


def test_what_is_shown_at_first_is_what_a_localizer_would_say(opened, birds: Made):
    tab = opened(birds.path)
    state = chosen(tab)
    scores = birds.bank.scores(birds.fields[0].embedding[None])[0]
    target = birds.bank.names[int(scores.argmax())]
    assert birds.bank.names[state["target"]] == target
    assert tuple(birds.bank.names[k] for k in state["references"]) == birds.bank.neighbours(target, 3)
    assert state["strength"] == 0.6
    rows = rows_of(tab)
    close_to(
        np.array([float(row["value"]) for row in rows]),
        birds.map(0, state["target"], tuple(state["references"]), 0.6),
    )
    assert {(row["image"], row["target"]) for row in rows} == {("plate 0.png", target)}
    assert {row["references"] for row in rows} == {"; ".join(birds.bank.neighbours(target, 3))}


def test_every_map_is_that_of_the_field(opened, birds: Made):
    """``baseMap`` and ``contrastiveMap`` are what the page draws from; all base maps, and all twins at three strengths."""
    tab = opened(birds.path)
    for image in range(3):
        maps = tab.evaluate("k => page.names.map((_, n) => Array.from(baseMap(page.images[k], n)))", image)
        for target, shown in enumerate(maps):
            close_to(np.array(shown), birds.map(image, target))
        ask = "([k, t, r, s]) => Array.from(contrastiveMap(page.images[k], t, r, s))"
        for target, name in enumerate(birds.bank.names):
            twins = tuple(birds.bank.index(one) for one in birds.bank.neighbours(name, 1 + target % 3))
            strength = (0.6, 1.0, 2.0)[target % 3]
            close_to(np.array(tab.evaluate(ask, [image, target, twins, strength])), birds.map(image, target, twins, strength))


def test_heat_boxes_and_peak_lie_where_the_library_has_them(opened, birds: Made):
    for image, field in enumerate(birds.fields[:2]):
        target, reference = 0, 1
        tab = opened(birds.path, asked(f"plate {image}.png", SPECIES[target], SPECIES[reference], strength=1, boxes="true"))
        told = json.loads(saved(tab, "JSON"))["maps"][0]
        found = field.localize(birds.bank, target, reference, strength=1.0)
        np.testing.assert_allclose(told["peak"], EvidenceMap(torch.tensor(told["map"]), field.placement).peak(), atol=0.01)
        np.testing.assert_allclose(told["peak"], found.peak(), atol=0.5)  # of maps in 8 bits
        heat = np.array(tab.evaluate("Array.from(shownMaps()[0].heat, (x) => (Number.isNaN(x) ? null : x))"), dtype=float)
        exact = field.placement.project(torch.tensor(told["map"]).double())
        np.testing.assert_allclose(heat.reshape(exact.shape), exact, atol=1e-6)
        boxes = bounding_boxes(exact >= 0.5 * exact.nan_to_num(-1).max(), exact)
        assert [tuple(box) for box in told["boxes"]] == [tuple(map(float, box)) for box in boxes]


def test_maps_lie_right_whatever_the_model_saw_of_the_image(opened, tmp_path: Path):
    """Padded above and below, padded by half a cell, cropped, and with cells that cover another part than the window; with a
    grid of its own for each image."""
    places = (
        Placement((0, -10, 60, 50), (40, 60)),
        Placement((-17.0, -3.0, 65.5, 44.0), (40, 60)),
        Placement((10.25, 0, 50.25, 40), (40, 60)),
        Placement((0, 0, 60, 40), (40, 60), (-5.0, 2.0, 52.0, 47.0)),
        Placement((-90, -60, 150, 100), (40, 60)),
    )
    vectors = torch.randn(3, 8, generator=torch.Generator().manual_seed(2))
    bank = ConceptBank(("a", "b", "c"), torch.nn.functional.normalize(vectors, dim=1))
    grids = ((6, 6), (6, 6), (4, 9), (6, 6), (5, 3))
    fields = [ConceptField(torch.randn(*grid, 8), vectors[0], place, {}) for grid, place in zip(grids, places, strict=True)]
    shown = [Shown.of("bird.png", Image.new("RGB", (60, 40)), field, bank) for field in fields]
    path = tmp_path / "page.html"
    path.write_text(to_html(shown, bank), "utf-8")
    tab = opened(path)
    for k, place in enumerate(places):
        assert tab.evaluate("k => shownCells(page.images[k])", k) == place.shown(grids[k]).flatten().tolist()
        map_ = torch.tensor(tab.evaluate("k => Array.from(baseMap(page.images[k], 1))", k)).reshape(grids[k]).double()
        ask = "k => Array.from(heatOf(page.images[k], baseMap(page.images[k], 1), true), (x) => (Number.isNaN(x) ? null : x))"
        heat = np.array(tab.evaluate(ask, k), dtype=float).reshape(40, 60)
        np.testing.assert_allclose(heat, place.project(map_), atol=1e-5)
        peak = tab.evaluate("k => peakOf(page.images[k], baseMap(page.images[k], 1))", k)
        np.testing.assert_allclose(peak, EvidenceMap(map_, place).peak(), atol=1e-3)


@pytest.mark.parametrize("size", by_default([(40, 400), (400, 40), (448, 336)], (40, 400)))
@pytest.mark.parametrize("beside", by_default([False, True], False))
def test_a_click_is_where_it_is_seen(opened, tmp_path: Path, size: tuple[int, int], beside: bool):
    bank = ConceptBank(("a", "b"), torch.eye(2))
    place = Placement((0, 0, *size), (size[1], size[0]))
    shown = Shown.of("a.png", Image.new("RGB", size), ConceptField(torch.randn(8, 8, 2), torch.ones(2), place, {}), bank)
    path = tmp_path / "page.html"
    path.write_text(to_html([shown], bank), "utf-8")
    tab = opened(path, asked("a.png", "a", "b", **({"beside": "b"} if beside else {})))
    box = tab.locator("#first canvas").bounding_box()
    assert box["width"] / box["height"] == pytest.approx(size[0] / size[1], rel=0.05)
    tab.locator("#first canvas").click(position={"x": 0.7 * box["width"], "y": 0.2 * box["height"]})
    assert divmod(chosen(tab)["place"], 8) == (1, 5)


def test_what_changes_the_map_is_beside_it(opened, birds: Made):
    """On a desk strength, target and map are seen at once; on a telephone all that changes it comes before what saves it, and
    what is found at a place that was tapped comes right below."""
    tab = opened(birds.path)
    box = lambda tab, what: tab.locator(what).bounding_box()  # noqa: E731
    assert max(box(tab, what)["y"] + 30 for what in ("#strength", "#targets", "#png")) < 800
    canvas, strength = box(tab, "#first canvas"), box(tab, "#strength")
    assert canvas["x"] + canvas["width"] < strength["x"]
    assert canvas["height"] > 400
    tab = opened(birds.path, "", 380, touch=True)
    order = ["#first canvas", "#strength", "#targets", "#references", "#here", "#png"]
    assert sorted(order, key=lambda what: box(tab, what)["y"]) == order
    tab.locator("#first canvas").tap(position={"x": 50, "y": 50})
    order.insert(2, order.pop(4))
    assert sorted(order, key=lambda what: box(tab, what)["y"]) == order


def test_the_ticks_lie_where_the_slider_stands(opened, birds: Made):
    tab = opened(birds.path)
    ticks = tab.locator("#ticks span")
    assert ticks.all_inner_texts() == ["0", "0.6", "1", "2"]
    slider = tab.locator("#strength").bounding_box()
    for k, value in enumerate((0, 0.6, 1, 2)):
        tick = ticks.nth(k).bounding_box()
        middle = tick["x"] + tick["width"] / 2
        tab.locator("#strength").click(position={"x": middle - slider["x"], "y": slider["height"] / 2})
        assert chosen(tab)["strength"] == pytest.approx(value, abs=0.051)


def test_numbers_of_one_column_have_as_many_digits(opened, birds: Made):
    tab = opened(birds.path)
    digits = {len(text.partition(".")[2]) for text in tab.locator("#here .value").all_inner_texts()}
    assert len(digits) == 1
    assert tab.evaluate("[signed(0.00123), signed(-12.34, 1), signed(0, 2)]") == ["+0.00123", "\N{MINUS SIGN}12.3", "+0.00"]


@pytest.mark.parametrize("touch", by_default([False, True], False))
@pytest.mark.parametrize("scheme", by_default(["light", "dark"], "light"))
@pytest.mark.parametrize("width", by_default([380, 1280], 380))
def test_choose_drag_click_search_and_restore(opened, birds: Made, width: int, scheme: str, touch: bool):
    tab = opened(birds.path, "", width, scheme, touch)
    press = (lambda where: where.tap()) if touch else (lambda where: where.click())
    assert overflow(tab) == 0
    drawn = [painted(tab)]
    press(tab.locator(".thumbnail").nth(1))
    drawn.append(painted(tab))
    tab.get_by_role("searchbox", name="Search for a target").fill("HERON misty")
    assert tab.locator("#targets .row").count() == 1
    press(tab.get_by_role("radio", name="misty heron"))
    drawn.append(painted(tab))
    press(tab.get_by_role("button", name="None"))
    tab.get_by_role("searchbox", name="Search for a reference").fill("heron")
    press(tab.get_by_role("checkbox", name="quiet heron"))
    press(tab.get_by_role("checkbox", name="coral heron"))
    slide(tab, "strength", 1.25)
    drawn.append(painted(tab))
    press(tab.get_by_role("checkbox", name="Smooth"))
    press(tab.get_by_role("checkbox", name="Boxes"))
    slide(tab, "threshold", 0.3)
    tab.locator("#palette").select_option("For and against")
    tab.locator("#beside").select_option("quiet heron")
    drawn += [painted(tab), painted(tab, "#second canvas")]
    assert len(set(drawn)) == len(drawn)
    canvas = tab.locator("#first canvas")
    box = canvas.bounding_box()
    where = {"x": 0.3 * box["width"], "y": 0.8 * box["height"]}
    canvas.tap(position=where) if touch else canvas.click(position=where)
    state, names = chosen(tab), birds.bank.names
    assert state == {
        "image": 1,
        "target": names.index("misty heron"),
        "references": [names.index("quiet heron"), names.index("coral heron")],
        "strength": 1.25,
        "beside": names.index("quiet heron"),
        "palette": "signed",
        "smooth": False,
        "boxes": True,
        "threshold": 0.3,
        "place": state["place"],
    }
    # The image is 4 : 3 and the model saw the square in its middle: three tenths of the width are 0.3 * 4/3 - 1/6 of it.
    assert divmod(state["place"], 12) == (9, 2)
    assert "row 10, column 3" in tab.get_by_role("status").inner_text()
    # The other map has the target for its reference where the target has it.
    told = json.loads(saved(tab, "JSON"))["maps"]
    assert [(one["target"], one["references"]) for one in told] == [
        ("misty heron", ["quiet heron", "coral heron"]),
        ("quiet heron", ["misty heron", "coral heron"]),
    ]
    with Image.open(io.BytesIO(saved(tab, "PNG"))) as image:
        assert image.size == (2 * 192, 144)
    until(tab, "location.hash === linkOf()")
    again = opened(birds.path, tab.evaluate("location.hash"), width, scheme, touch)
    assert chosen(again) == state
    assert painted(again) == painted(tab)
    assert painted(again, "#second canvas") == painted(tab, "#second canvas")
    assert overflow(again) == 0


def test_a_place_has_the_concepts_with_the_most_evidence_there(opened, birds: Made):
    tab = opened(birds.path, asked("plate 0.png", *SPECIES[:3], strength=1, place=50))
    here = np.array([birds.map(0, k).ravel()[50] for k in range(len(SPECIES))])
    shown = tab.locator("#here button").all_inner_texts()
    assert shown == [SPECIES[k] for k in np.argsort(-here)[:8]]
    others = sorted((1, 2), key=lambda k: here[k])
    assert tab.locator("#against-here button").all_inner_texts() == [SPECIES[k] for k in others]
    first = tab.locator("#against-here .value").first.inner_text().replace("\N{MINUS SIGN}", "-")
    assert float(first) == pytest.approx(here[0] - here[others[0]], abs=np.abs(here).max() / 60)
    tab.locator("#here button").nth(1).click()
    assert birds.bank.names[chosen(tab)["target"]] == shown[1]


def test_a_link_that_makes_no_sense_is_as_usual(opened, birds: Made):
    tab = opened(birds.path)
    usual = chosen(tab)
    for link in (
        "#image=99&target=-1&against=x&against=__proto__&strength=7&place=100000&palette=__proto__&beside=0&threshold=NaN",
        "#%E0%A4%A&target",
        "#against=&place=&beside=",
    ):
        tab.evaluate("choose({ image: 2, target: 9, strength: 2, palette: 'signed' })")
        tab.evaluate("link => { location.hash = link }", link)
        until(tab, "state.image === 0")
        found = chosen(tab)
        assert found == {**usual, "references": found["references"]}
        assert usual["target"] not in found["references"]
        told = tab.locator("#unknown").text_content()
        assert ("This page does not have “99”, “-1”, “x”, “__proto__”, “0”" in told) == ("image=99" in link)


def test_everything_can_be_done_with_the_keyboard(opened, birds: Made):
    tab = opened(birds.path)

    def to(wanted: str) -> None:
        for _ in range(30):
            tab.keyboard.press("Tab")
            if tab.evaluate("wanted => document.activeElement.matches(wanted)", wanted):
                return
        raise AssertionError(f"no way to {wanted}")

    to("[name=image]")
    tab.keyboard.press("ArrowRight")
    assert chosen(tab)["image"] == 1
    to("#first canvas")
    tab.keyboard.press("ArrowDown")
    place = chosen(tab)["place"]
    tab.keyboard.press("ArrowRight")
    assert chosen(tab)["place"] == place + 1
    tab.keyboard.press("Escape")
    assert chosen(tab)["place"] is None
    to("#strength")
    tab.keyboard.press("ArrowRight")
    assert chosen(tab)["strength"] == 0.65
    to("#boxes")
    tab.keyboard.press("Space")
    assert chosen(tab)["boxes"]
    to("#target-search")
    tab.keyboard.type("royal j")
    to("[name=target]")
    tab.keyboard.press("Space")
    assert birds.bank.names[chosen(tab)["target"]] == "royal jay"
    to("#chosen button")
    count = len(chosen(tab)["references"])
    tab.keyboard.press("Enter")
    assert len(chosen(tab)["references"]) == count - 1
    assert tab.evaluate("document.activeElement.closest('#chosen') !== null")
    to("[name=reference]")
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("Space")
    assert len(chosen(tab)["references"]) in (count, count - 2)
    assert tab.evaluate("document.activeElement.name") == "reference"  # the list stays where it is
    to("#here button")
    wanted = tab.locator("#here button").first.inner_text()
    tab.keyboard.press("Enter")
    assert birds.bank.names[chosen(tab)["target"]] == wanted
    assert tab.evaluate("document.activeElement.closest('#here') !== null")


@pytest.mark.parametrize("scheme", by_default(["light", "dark"], "dark"))
def test_names_and_contrast(opened, birds: Made, scheme: str):
    """Whatever takes the focus has a name and a role; no text is harder to read than WCAG's 4.5 : 1; no id is there twice."""
    tab = opened(birds.path, asked("plate 0.png", *SPECIES[:3], beside=SPECIES[3], boxes="true"), scheme=scheme)
    tree = tab.context.new_cdp_session(tab).send("Accessibility.getFullAXTree")["nodes"]
    focusable = [
        node
        for node in tree
        if not node["ignored"] and any(p["name"] == "focusable" and p["value"]["value"] for p in node.get("properties", ()))
    ]
    assert len(focusable) > 60
    for node in focusable:
        assert node["name"]["value"].strip(), node
    images = [node for node in tree if not node["ignored"] and node["role"]["value"] in ("image", "img", "application")]
    assert all(node["name"]["value"] for node in images)
    assert {"main", "banner", "heading", "radiogroup", "slider", "status"} <= {
        node["role"]["value"] for node in tree if "role" in node
    }
    ids = tab.evaluate("Array.from(document.querySelectorAll('[id]'), (e) => e.id)")
    assert len(ids) == len(set(ids))
    tab.evaluate("document.querySelector('details').open = true")
    worst = tab.evaluate(CONTRAST)
    assert worst["ratio"] >= 4.5, worst


CONTRAST = """() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = numbers(colour).map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (numbers(colour).length === 3) return colour;
    }
    throw new Error("nothing behind it");
  };
  let worst = { ratio: 99 };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const e = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !e.checkVisibility() || e.closest("option, script, noscript")) continue;
    const pair = [light(getComputedStyle(e).color), light(behind(e))].sort((a, b) => b - a);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (ratio < worst.ratio) worst = { ratio, text: texts.currentNode.data };
  }
  return worst;
}"""


@pytest.mark.parametrize("width", by_default([380, 1280], 380))
def test_names_from_outside_are_text(opened, tmp_path: Path, width: int):
    torch.manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(len(WILD), 16), dim=1)
    bank = ConceptBank(WILD, vectors)
    shown = []
    for k, name in enumerate(WILD):
        field = ConceptField(torch.randn(4, 6, 16), vectors[k], Placement((0, 0, 60, 40), (40, 60)), {})
        shown.append(Shown.of(name, Image.new("RGB", (60, 40), (200, 9 * k, 90)), field, bank))
    path = tmp_path / "page.html"
    path.write_text(to_html(shown, bank, [("command", name) for name in WILD]), "utf-8")
    assert path.read_text("utf-8").count("<script") == 2
    tab = opened(path, "", width)
    for k, name in enumerate(WILD):
        tab.evaluate("k => choose({ image: k, target: k, references: nearest(k), beside: (k + 1) % 8 })", k)
        assert overflow(tab) == 0
        rows = rows_of(tab)
        guard = "'" if name.startswith("=") else ""
        assert rows[0]["target"] == rows[0]["image"] == guard + name
        assert tab.evaluate("JSON.stringify(Object.entries(stateOf(linkOf())).sort())") == tab.evaluate(
            "JSON.stringify(Object.entries(state).sort())"
        )
    assert tab.title() == "Concept maps to explore"
    assert tab.evaluate("document.querySelectorAll('script').length") == 2
    assert tab.evaluate("document.querySelectorAll('img').length") == len(WILD)
    tab.locator("#targets input").nth(3).check()
    saved(tab, "PNG")


def thirty(folder: Path) -> Made:
    """30 images of the largest size that a page has, 300 concepts, and the 14 x 14 cells of a ViT-B/16."""
    torch.manual_seed(1)
    names = tuple(f"concept {k}" for k in range(300))
    # As texts are: similar to each other.
    vectors = torch.nn.functional.normalize(torch.randn(300, 512) + 1.5 * torch.randn(512), dim=1)
    bank, placement = ConceptBank(names, vectors), Placement((0, 0, 448, 448), (448, 448))
    fields, shown = [], []
    for k in range(30):
        fields.append(ConceptField(torch.randn(14, 14, 512), vectors[k], placement, {}))
        shown.append(Shown.of(f"{k}.png", world.draw_species(SPECIES[k], k, 448).image, fields[-1], bank))
    path = folder / "page.html"
    path.write_text(to_html(shown, bank), "utf-8")
    return Made(path, tuple(fields), bank)


def test_a_difference_that_8_bits_do_not_show_is_no_heat(opened, tmp_path: Path):
    """Concepts of one embedding have no difference, and of almost one embedding none that is known."""
    torch.manual_seed(3)
    vectors = torch.nn.functional.normalize(torch.randn(60, 64), dim=1)
    vectors[1] = vectors[0]
    vectors[2] = torch.nn.functional.normalize(vectors[0] + 1e-4 * vectors[3], dim=0)
    names = ("one", "same", "almost", *(f"other {k}" for k in range(57)))
    bank, place = ConceptBank(names, vectors), Placement((0, 0, 60, 40), (40, 60))
    field = ConceptField(torch.randn(6, 9, 64), vectors[0], place, {})
    path = tmp_path / "page.html"
    path.write_text(to_html([Shown.of("a.png", Image.new("RGB", (60, 40)), field, bank)], bank), "utf-8")
    tab = opened(path)
    assert [names[k] for k in chosen(tab)["references"]] == list(bank.neighbours("one", 5)[2:])
    plain = None
    for other, strength, said in (
        ("same", 1, "no difference that can be shown"),
        ("almost", 1, "no difference that can be shown"),
        ("almost", 0.6, "strongest: +"),
        ("other 9", 1, "strongest: +"),
    ):
        tab.evaluate("link => { location.hash = link }", asked("a.png", "one", other, strength=strength))
        until(tab, f"page.names[state.references[0]] === {other!r} && state.strength === {strength}")
        assert said in tab.locator("#first figcaption").inner_text()
        tab.evaluate(
            "drawHeat(views[0].context, page.images[0].pixels, shownMaps()[0].heat, shownMaps()[0].strongest, palettes.ember)"
        )
        plain = plain or painted(tab)
        assert (painted(tab) == plain) == (said != "strongest: +")


def test_a_method_that_is_not_linear_shows_what_was_computed(opened, tmp_path: Path):
    plate, localizer = tmp_path / "a.png", world.localizer(method="legrad", vocabulary=SPECIES[:6])
    world.draw_species(SPECIES[0], 1, 96).image.save(plate)
    write_explorer(localizer, [plate], tmp_path / "page.html")
    tab = opened(tmp_path / "page.html")
    assert "legrad is not linear" in tab.locator("#not-linear").inner_text()
    assert not tab.locator("#references").is_visible()
    assert not tab.locator("#against-table").is_visible()
    for strength, snapped in ((0.1, 0), (0.7, 0.6), (1.0, 1)):
        slide(tab, "strength", strength)
        assert chosen(tab)["strength"] == snapped
        for target in (0, 3):
            tab.evaluate("k => choose({ target: k })", target)
            references = tuple(SPECIES[k] for k in chosen(tab)["references"])
            assert references == localizer.bank(SPECIES[:6]).neighbours(SPECIES[target], 3)
            exact = localizer(plate, SPECIES[target], references, strength=snapped).map
            close_to(np.array([float(row["value"]) for row in rows_of(tab)]), exact.double().numpy())
    state = chosen(tab)
    until(tab, "location.hash === linkOf()")
    assert chosen(opened(tmp_path / "page.html", tab.evaluate("location.hash"))) == state


@pytest.mark.slow
def test_the_images_of_an_audit_are_linked_to_their_maps(opened, tmp_path: Path):
    localizer, dataset = world.localizer(), birds_dataset(4)
    found = audit(localizer, dataset, tmp_path)
    assert "explore.html" not in write_report(found).read_text("utf-8")
    page = write_report(found, explorer=Explored.of(found, localizer, dataset)).read_text("utf-8")
    assert page.count('class="explore"') >= 4
    assert write_report(found, explorer=Explored.kept(Audit.load(tmp_path))).read_text("utf-8") == page
    link = unescape(re.search(r'href="explore\.html(#[^"]*)"', page)[1])
    tab = opened(tmp_path / "explore.html", link)
    assert tab.locator("#unknown").text_content() == ""
    state = chosen(tab)
    at = [row.image for row in found.good].index(tab.evaluate("page.images[state.image].name"))
    row = found.good[at]
    told = [tab.evaluate("k => page.names[k]", k) for k in (state["target"], *state["references"])]
    assert told == [row.predicted, row.runner_up]
    assert state["strength"] == 1
    shown = np.array([float(one["value"]) for one in rows_of(tab)])
    close_to(shown, found.drawings([at])[at].decision.double().numpy())


@pytest.mark.slow
def test_the_images_of_a_search_are_linked_to_their_maps(opened, tmp_path: Path):
    localizer, plate = world.localizer(), tmp_path / "finch.png"
    world.draw_species("ember finch", 3, 96).image.save(plate)
    store_fields(localizer, [plate], tmp_path / "store")
    store = Store.open(tmp_path / "store")
    alone = write_matches(store.search(localizer, "red crown"), tmp_path / "alone")
    assert 'class="explore"' not in alone.read_text("utf-8")
    assert not (tmp_path / "alone" / "explore.html").exists()
    answers = store.search(localizer, ["red crown", "royal jay"], against="bird", strength=1.0)
    links = re.findall(r'href="explore\.html(#[^"]*)"', write_matches(answers, tmp_path / "found").read_text("utf-8"))
    tab = opened(tmp_path / "found" / "explore.html", unescape(links[1]))
    assert tab.evaluate("page.names") == ["red crown", "bird", "royal jay"]
    shown = np.array([float(one["value"]) for one in rows_of(tab)])
    close_to(shown, answers[1].localize(answers[1].matches[0]).map.double().numpy())


@pytest.mark.slow
def test_the_images_of_a_part_sheet_are_linked_to_their_maps(opened, tmp_path: Path):
    localizer, vocabulary = world.localizer(), read_parts("world-parts")
    plates = {tmp_path / f"{seed}.png": "ember finch" for seed in range(2)}
    for seed, plate in enumerate(plates):
        world.draw_species("ember finch", seed, 96).image.save(plate)
    with pytest.raises(OptionError, match="parquet has none"):
        find_parts_of_images(localizer, plates, tmp_path / "out", vocabulary, explore=True, output="parquet")
    find_parts_of_images(localizer, plates, tmp_path / "plain", vocabulary)
    assert 'class="explore"' not in (tmp_path / "plain" / "sheet-ember-finch.html").read_text("utf-8")
    find_parts_of_images(localizer, plates, tmp_path / "out", vocabulary, explore=True)
    page = (tmp_path / "out" / "sheet-ember-finch.html").read_text("utf-8")
    links = [unescape(link) for link in re.findall(r'href="(explore-ember-finch\.html#[^"]*)"', page)]
    (crown,) = (link for link in links if "image=1&target=red+crown" in link)
    tab = opened(tmp_path / "out" / "explore-ember-finch.html", crown.partition(".html")[2])
    assert tab.locator("#unknown").text_content() == ""
    assert tab.evaluate("page.names") == list(vocabulary.texts())
    exact = find_parts(localizer, tmp_path / "1.png", vocabulary)["crown"].map
    close_to(np.array([float(one["value"]) for one in rows_of(tab)]), exact.double().numpy())
    assert any("target=bird&against=&strength=0" in link for link in links)


def test_a_part_sheet_makes_no_pass_for_an_image_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    localizer, vocabulary = world.localizer(), read_parts("world-parts")
    image = world.draw_species("ember finch", 0, 96).image
    finding, sheet = find_parts(localizer, image, vocabulary), PartsExplored(localizer, vocabulary, tmp_path / "page.html")
    passes, own = [], type(localizer).fields
    monkeypatch.setattr(type(localizer), "fields", lambda self, images: passes.append(images) or own(self, images))
    monkeypatch.setattr("concept_cam.explorer.beside._IMAGES", 1)
    assert all(sheet.links("a", image, finding).values())
    assert sheet.links("b", image, finding) == {}
    assert len(passes) == 1


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Audit]:
    """An audit of four images of one name."""
    folder, examples = tmp_path_factory.mktemp("alike"), []
    for k, label in enumerate(SPECIES[:4]):
        world.draw_species(label, k, 96).image.save(folder / f"{k}.png")
        examples.append(Example("a", folder / f"{k}.png", label))
    dataset = Dataset("alike", SPECIES[:4], examples)
    return dataset, audit(world.localizer(), dataset, folder / "audit", backgrounds=("meadow", "river"))


def links_of(page: Path) -> list[str]:
    return re.findall(r'href="explore\.html#([^"]*)"', page.read_text("utf-8"))


@pytest.mark.parametrize(("bound", "most"), [("explorer.beside._IMAGES", 1), ("audit.explored.CONCEPTS", 2)])
def test_a_report_made_again_links_what_the_explorer_has(alike, monkeypatch: pytest.MonkeyPatch, bound: str, most: int):
    """Without the model as with it, whatever the explorer had room for."""
    dataset, found = alike
    monkeypatch.setattr(f"concept_cam.{bound}", most)
    page = write_report(found, explorer=Explored.of(found, world.localizer(), dataset))
    before = {path: path.read_bytes() for path in found.folder.rglob("*") if path.is_file()}
    assert links_of(page)
    write_report(Audit.load(found.folder), explorer=Explored.kept(Audit.load(found.folder)))
    assert {path: path.read_bytes() for path in found.folder.rglob("*") if path.is_file()} == before


def test_an_image_has_the_name_of_its_row(alike, tmp_path: Path):
    """Whatever the order of the links, and whichever images are gone since."""
    dataset, found = alike
    shutil.copytree(found.folder.parent, tmp_path / "copy")
    held = [Example("a", tmp_path / "copy" / f"{k}.png", label) for k, label in enumerate(SPECIES[:4])]
    found = Audit.load(tmp_path / "copy" / "audit")
    page = write_report(found, explorer=Explored.of(found, world.localizer(), replace(dataset, examples=held)))
    linked = set(links_of(page))
    held[0].image.unlink()
    found = Audit.load(found.folder)
    left = set(links_of(write_report(found, explorer=Explored.kept(found))))
    assert left == {link for link in linked if not link.startswith("image=a&")}
    assert left


@pytest.mark.parametrize("damage", [b"", b"<p>", b'<script id="data" type="application/json">{"names": 1}</script>', None])
def test_a_report_made_again_without_an_explorer_says_so(alike, tmp_path: Path, damage: bytes | None):
    shutil.copytree(alike[1].folder, tmp_path / "audit")
    (tmp_path / "audit" / "explore.html").unlink(missing_ok=True)
    if damage is not None:
        (tmp_path / "audit" / "explore.html").write_bytes(damage)
    found = Audit.load(tmp_path / "audit")
    page = write_report(found, explorer=Explored.kept(found))
    assert links_of(page) == []
    assert "There is no explorer: none was written with this audit, or it cannot be read." in page.read_text("utf-8")


@pytest.mark.slow
def test_a_report_says_why_it_has_no_explorer(tmp_path: Path):
    localizer, dataset = world.localizer(method="legrad"), birds_dataset(4)
    found = audit(localizer, dataset, tmp_path)
    page = write_report(found, explorer=Explored.of(found, localizer, dataset)).read_text("utf-8")
    assert "There is no explorer, because legrad is not linear" in page
    assert write_report(found, explorer=Explored.kept(Audit.load(tmp_path))).read_text("utf-8") == page
    assert 'class="explore"' not in page
    assert not (tmp_path / "explore.html").exists()


def test_links_to_an_explorer_beside_a_report(tmp_path: Path):
    bank, image = ConceptBank(("a", "b&c"), torch.eye(2)), Image.new("RGB", (8, 8))
    field = ConceptField(torch.ones(2, 2, 2), torch.ones(2), Placement((0, 0, 8, 8), (8, 8)), {})
    beside = Beside(tmp_path / "page.html", bank)
    assert not beside.write()
    assert Beside(tmp_path / "page.html", None).link("x", None, "a") is None
    look = lambda: (image, field)  # noqa: E731
    assert beside.link("x#1.png", look, "b&c", ["a"], 1) == "page.html#image=x%231.png&target=b%26c&against=a&strength=1"
    assert "&against=&" in beside.link("x#1.png", look, "a")
    assert "image=x%231.png+%282%29" in beside.link("x#1.png", look, "a", key="another of that name")
    assert beside.link("x#1.png", look, "unknown") is None
    assert beside.link("x#1.png", look, "a", ["b&c"], 2.5) is None

    def gone() -> Any:
        raise ImageError("gone")

    assert beside.link("y.png", gone, "a") is None
    assert beside.write()
    assert [one["name"] for one in data_of(tmp_path / "page.html")["images"]] == ["x#1.png", "x#1.png (2)"]
    again = Beside(tmp_path / "page.html", None)
    assert again.link("x#1.png", None, "a") == "page.html#image=x%231.png&target=a&against=&strength=0.6"
    assert again.link("x#1.png", None, "b&c", ["unknown"]) is None
    assert again.link("y.png", None, "a") is None


@pytest.mark.slow
@pytest.mark.skipif("AXE" not in os.environ, reason="AXE names no axe.min.js: npm install axe-core")
@pytest.mark.parametrize(("width", "scheme"), [(380, "light"), (1280, "dark")])
def test_axe_finds_nothing(opened, birds: Made, width: int, scheme: str):
    tab = opened(birds.path, asked("plate 1.png", *SPECIES[:3], beside=SPECIES[3], boxes="true"), width, scheme)
    tab.evaluate("Array.from(document.querySelectorAll('details'), (one) => (one.open = true))")
    tab.evaluate(Path(os.environ["AXE"]).read_text("utf-8"))
    assert tab.evaluate("axe.run().then((found) => found.violations.map((one) => [one.id, one.nodes[0].html]))") == []


@pytest.mark.slow
def test_two_thousand_concepts(opened, tmp_path: Path):
    torch.manual_seed(2)
    vectors = torch.nn.functional.normalize(torch.randn(2000, 512) + torch.randn(512), dim=1)
    bank = ConceptBank(tuple(f"concept {k}" for k in range(2000)), vectors)
    field = ConceptField(torch.randn(14, 14, 512), vectors[0], Placement((0, 0, 448, 448), (448, 448)), {})
    image = world.draw_species(SPECIES[0], 0, 448).image
    path = tmp_path / "page.html"
    path.write_text(to_html([Shown.of("a.png", image, field, bank)], bank), "utf-8")
    assert path.stat().st_size < 5_000_000
    tab = opened(path)
    times = tab.evaluate(REACTION)
    assert np.median(times) <= 50, times
    sys.stdout.write(f"{path.stat().st_size / 1e6:.2f} MB, {np.median(times):.1f} ms, at most {max(times):.1f} ms")
    for target in (0, 7, 1999):
        found = tab.evaluate("k => nearest(k)", target)
        assert tuple(f"concept {k}" for k in found) == bank.neighbours(f"concept {target}", 3)


@pytest.mark.slow
def test_thirty_images_and_three_hundred_concepts(opened, tmp_path: Path):
    large = thirty(tmp_path)
    assert large.path.stat().st_size < 5_000_000
    others = [f"concept {k}" for k in (9, 200, 31)]
    tab = opened(large.path, asked("7.png", "concept 3", *others, beside="concept 12", boxes="true"))
    times = tab.evaluate(REACTION)
    assert np.median(times) <= 50, times
    sys.stdout.write(f"{large.path.stat().st_size / 1e6:.2f} MB, {np.median(times):.1f} ms, at most {max(times):.1f} ms")
    for target, references in product((3, 250), ((9, 200, 31), ())):
        ask = "([t, r]) => Array.from(contrastiveMap(page.images[7], t, r, 0.6))"
        close_to(np.array(tab.evaluate(ask, [target, references])), large.map(7, target, references, 0.6))


REACTION = """() => Array.from({ length: 30 }, (_, k) => {
  const slider = document.getElementById("strength");
  const start = performance.now();
  slider.value = String(k / 15);
  slider.dispatchEvent(new Event("input"));
  document.body.getBoundingClientRect();
  return performance.now() - start;
})"""
"""How long it takes from a move of the slider to two maps with their boxes and a page that is laid out, in milliseconds."""


def main(folder: str) -> None:
    """Write an example and images of it."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    page = made(out / "page.html", [world.draw_species(SPECIES[5 * k], k, 448).image for k in range(6)], SPECIES)
    with chromium() as browser:
        for width, scheme, link in product(
            (380, 1280), ("light", "dark"), ("", "#image=plate+1.png&beside=cherry+bunting&palette=signed&boxes=true")
        ):
            tab = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
            tab.goto(page.path.as_uri() + link)
            until(tab, "page.images[state.image].pixels !== undefined")
            tab.screenshot(path=out / f"{width}-{scheme}{'-beside' if link else ''}.png", full_page=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
