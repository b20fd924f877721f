"""Drawings: hot is hot, cold is grey, unseen is dark; and the panels stand in their order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from concept_cam import legend
from concept_cam.comparison import Comparison
from concept_cam.drawing import by_reference, overlay, side_by_side, strip
from concept_cam.errors import OptionError
from concept_cam.evidence import EvidenceMap
from concept_cam.images import Placement
from concept_cam.legend import strip_of
from concept_cam.lettering import Lettering
from concept_cam.regions import bounding_boxes
from concept_cam.result import Localization

HOT = np.array([255, 250, 170])
"""The top of the ramp."""

SEA = (30, 60, 200)
COLOURS = [SEA, (255, 255, 255), (0, 0, 0), (255, 0, 0), (254, 255, 1)]


def localization(
    cells: torch.Tensor,
    image: Image.Image,
    base: torch.Tensor | None = None,
    window: tuple[float, float, float, float] | None = None,
    target: str = "ember finch",
    references: tuple[str, ...] = ("frost finch",),
) -> Localization:
    share = (1 / max(1, len(references)),) * len(references)
    comparison = Comparison(target, references, share, (0.9,) * len(references), 0.6)
    placement = Placement(window or (0.0, 0.0, float(image.width), float(image.height)), (image.height, image.width))
    own = cells if base is None else base
    return Localization(EvidenceMap(cells, placement), EvidenceMap(own, placement), comparison, {}, {})


def spike(row: int, column: int, value: float = 1.0) -> torch.Tensor:
    cells = torch.zeros(3, 5)
    cells[row, column] = value
    return cells


def pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def spread(colour: np.ndarray) -> int:
    """How far a colour is from grey."""
    return int(colour.max() - colour.min())


def is_hot(colours: np.ndarray) -> np.ndarray:
    """Within what an opacity of 0.88 lets through of the image."""
    return np.abs(colours - HOT).max(-1) <= 0.125 * 255


# ---- one overlay ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("colour", COLOURS)
def test_hot_is_hot_and_cold_is_grey(colour: tuple[int, int, int], value: float) -> None:
    """On white and on black alike: an overflow of 8 bits would show as a dark or gaudy spot."""
    # 21 pixels a cell: the centre of the spike is the centre of a pixel.
    image = Image.new("RGB", (105, 63), colour)
    drawn = overlay(localization(spike(1, 2, value), image), image)
    assert drawn.size == image.size
    seen = pixels(drawn)
    assert is_hot(seen[31, 52])
    cold = seen[5, 5]
    assert not is_hot(cold)
    assert spread(cold) <= 0.5 * spread(np.array(colour))
    assert abs(cold.mean() - np.mean(colour)) < 60  # still the image
    assert (seen[:21] == cold).all(-1)[:10].all()
    # No step, and so no wrap, between one pixel and the next on the way up.
    assert np.abs(np.diff(seen[31], axis=0)).max() < 50


def test_strength_rises_along_the_ramp() -> None:
    cells = torch.tensor([[0.0, 0.25, 0.5, 0.75, 1.0]])
    image = Image.new("RGB", (5, 1), (90, 90, 90))
    row = pixels(overlay(localization(cells, image), image))[0]
    assert (np.diff(row[1:].sum(-1)) > 0).all()
    assert is_hot(row).tolist() == [False, False, False, False, True]
    assert spread(row[0]) == 0


def test_what_was_not_seen_is_dark() -> None:
    image = Image.new("RGB", (100, 60), (200, 180, 160))
    seen = pixels(overlay(localization(spike(1, 2), image, window=(20.0, 0.0, 80.0, 60.0)), image))
    outside, cold = seen[30, 5], seen[5, 25]
    assert (outside < cold - 40).all()
    assert np.abs(outside - 0.4 * np.array([200, 180, 160])).max() <= 1
    assert (seen[:, :20] == outside).all()
    assert (seen[:, 80:] == outside).all()
    assert (seen[:, 20:80].sum(-1) > outside.sum()).all()
    assert is_hot(seen[30, 50])


@pytest.mark.parametrize("cells", [-torch.rand(3, 5), spike(0, 0, -5), torch.zeros(3, 5)])
def test_evidence_against_is_not_drawn(cells: torch.Tensor) -> None:
    image = Image.new("RGB", (50, 30), SEA)
    drawn = pixels(overlay(localization(cells, image), image))
    assert (drawn == drawn[0, 0]).all()
    assert spread(drawn[0, 0]) < spread(np.array(SEA))
    assert not is_hot(drawn).any()


def test_negative_cells_do_not_change_the_scale() -> None:
    image = Image.new("RGB", (5, 3), SEA)
    mixed = spike(0, 4) + spike(2, 0, -100)
    assert (
        pixels(overlay(localization(mixed, image), image)) == pixels(overlay(localization(spike(0, 4), image), image))
    ).all()


def test_base_is_the_other_map() -> None:
    image = Image.new("RGB", (100, 60), SEA)
    result = localization(spike(0, 4), image, base=spike(2, 0))
    fine, base = pixels(overlay(result, image)), pixels(overlay(result, image, base=True))
    assert is_hot(fine[5, 95])
    assert not is_hot(fine[55, 5])
    assert is_hot(base[55, 5])
    assert not is_hot(base[5, 95])


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_images_of_other_modes_are_left_alone(mode: str) -> None:
    image = Image.new("RGB", (50, 30), SEA).convert(mode)
    before = image.tobytes()
    drawn = pixels(overlay(localization(spike(1, 2), image), image))
    assert is_hot(drawn[15, 25])
    assert (image.mode, image.tobytes()) == (mode, before)


def test_a_image_that_lies_on_its_side_is_drawn_upright() -> None:
    """What the localizer takes, the drawing takes: the map of a turned photo is upright, so must be the photo."""
    stored = Image.new("RGB", (60, 100), SEA)
    stored.getexif()[0x0112] = 6
    result = localization(spike(0, 4), Image.new("RGB", (100, 60)))
    drawn = overlay(result, stored)
    assert drawn.size == (100, 60)
    assert is_hot(pixels(drawn)[5, 95])


# ---- the legend -------------------------------------------------------------------------------------------------------


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is written on images."""
    lines, write = [], Lettering.write
    monkeypatch.setattr(Lettering, "write", lambda self, *given: lines.append(given[2]) or write(self, *given))
    monkeypatch.setattr(legend, "_strip", legend._strip.__wrapped__)  # what was drawn before is not written again
    return lines


def test_a_legend_that_is_drawn_again_is_a_picture_of_its_own() -> None:
    first, again = (strip_of(["Bright: evidence."], 400, 13) for _ in range(2))
    first.paste("black", (0, 0, *first.size))
    assert again.getpixel((0, 0)) == (255, 255, 255)
    assert strip_of(["Bright: evidence."], 400, 13).tobytes() == again.tobytes()


@pytest.mark.parametrize("size", [(400, 250), (250, 400), (60, 40), (960, 640)])
@pytest.mark.parametrize("base", [False, True])
def test_a_legend_stands_beneath_the_same_pixels(size: tuple[int, int], base: bool, written: list[str]) -> None:
    image = Image.new("RGB", size, SEA)
    result = localization(spike(0, 4), image, base=spike(2, 0))
    plain, whole = overlay(result, image, base=base), overlay(result, image, base=base, legend=True)
    assert whole.crop((0, 0, *size)).tobytes() == plain.tobytes()
    beneath = np.asarray(whole).astype(int)[size[1] :]
    assert (beneath.min(-1) < 100).any()  # letters
    assert (np.asarray(whole)[: size[1], size[0] :] == 255).all()
    assert (beneath[-3:] == 255).all()
    assert (beneath[:, -3:] == 255).all()
    said = " ".join(written)
    assert "Bright: evidence for ember finch" in said
    assert ("minus 0.6 x that for frost finch" in said) is not base
    assert "own scale" in said
    assert "Dark" not in said


def test_the_ramp_of_a_legend_has_the_colours_of_the_map() -> None:
    image = Image.new("RGB", (500, 300), (128, 128, 128))
    whole = pixels(overlay(localization(torch.linspace(0, 1, 50).expand(3, 50), image), image, legend=True))
    colours = whole[310:325].reshape(-1, 3)
    coloured = colours[np.ptp(colours, -1) > 40]
    drawn = whole[150, :500]
    assert len(coloured) > 500
    assert all(np.abs(drawn - colour).max(-1).min() <= 8 for colour in coloured[::50])


@pytest.mark.parametrize(
    ("window", "told"),
    [
        ((0, 0, 300, 200), False),
        ((50, 0, 250, 200), True),
        ((0, 20, 300, 180), True),
        ((-50, 0, 350, 200), False),
        ((1, 0, 299, 200), False),
    ],
    ids=["whole", "sides", "top and bottom", "padded", "a sliver"],
)
def test_a_legend_says_where_the_dark_comes_from(window, told, written: list[str]) -> None:
    image = Image.new("RGB", (300, 200), SEA)
    result = localization(spike(1, 2), image, window=tuple(map(float, window)))
    for draw in (lambda: overlay(result, image, legend=True), lambda: side_by_side(result, image)):
        written.clear()
        draw()
        assert ("Dark: cut off by the model's crop; --fit native shows it." in " ".join(written)) is told


def test_a_legend_of_a_map_without_evidence_says_so(written: list[str]) -> None:
    image = Image.new("RGB", (900, 600), SEA)
    overlay(localization(-torch.rand(3, 5), image), image, legend=True)
    assert "Nothing is bright: there is no evidence for ember finch, minus 0.6 x that for frost finch." in written


@pytest.mark.parametrize("references", [(), ("wren",), tuple(f"lesser bird number {i}" for i in range(200))])
def test_a_legend_stays_small_whatever_the_names_are(references: tuple[str, ...]) -> None:
    image = Image.new("RGB", (400, 400), SEA)
    result = localization(spike(1, 2), image, references=references, target="great spotted " * 30)
    assert overlay(result, image, legend=True).height < 580
    assert side_by_side(result, image).height < 580


# ---- three panels -----------------------------------------------------------------------------------------------------


def panels(sheet: Image.Image) -> list[tuple[int, int, int, int]]:
    """The largest thing that is not white in each third."""
    ink = (np.asarray(sheet) != 255).any(-1)
    found = []
    for k in range(3):
        left, right = k * sheet.width // 3, (k + 1) * sheet.width // 3
        part = torch.from_numpy(np.ascontiguousarray(ink[:, left:right]))
        boxes = bounding_boxes(part, torch.zeros(part.shape))
        box = max(boxes, key=lambda b: (b[2] - b[0]) * (b[3] - b[1]))
        found.append((box[0] + left, box[1], box[2] + left, box[3]))
    return found


def test_three_panels_in_order_with_their_heat() -> None:
    image = Image.new("RGB", (100, 60), SEA)
    sheet = side_by_side(localization(spike(0, 4), image, base=spike(2, 0)), image)
    plain, base, fine = (np.asarray(sheet.crop(box)).astype(int) for box in panels(sheet))
    assert (plain == SEA).all()
    assert plain.shape == base.shape == fine.shape
    assert plain.shape[1] / plain.shape[0] == pytest.approx(100 / 60, rel=0.01)
    for panel, (x, y) in ((base, (0.1, 5 / 6)), (fine, (0.9, 1 / 6))):
        places = np.argwhere(is_hot(panel))
        assert len(places)
        centre = places.mean(0) / panel.shape[:2]
        assert centre == pytest.approx((y, x), abs=0.1)


def above_legend(sheet: Image.Image) -> Image.Image:
    """Without the legend: what lies below the panels and is coloured is its ramp."""
    below = max(box[3] for box in panels(sheet)) + 1
    ramp = np.argwhere(np.ptp(np.asarray(sheet).astype(int)[below:], -1).max(-1) > 60)
    return sheet.crop((0, 0, sheet.width, below + int(ramp.min()) - 13))


def captions(sheet: Image.Image) -> list[np.ndarray]:
    boxes = panels(sheet)
    below = max(box[3] for box in boxes) + 1
    ends = [*(box[0] for box in boxes[1:]), sheet.width]
    return [np.asarray(sheet.convert("L"))[below:, box[0] : end] for box, end in zip(boxes, ends, strict=True)]


@pytest.mark.parametrize(
    ("target", "references"),
    [
        ("finch", ("wren",)),
        ("finch", ()),
        ("great spotted woodpecker of the northern forests", tuple(f"lesser bird number {i}" for i in range(20))),
        ("Grünfinkenweibchenschwanzfederspitzenzeichnung" * 2, ("Buchfinkenmännchenflügelbindenweißanteil" * 2,)),
        ("[red]crown", ("{}", "<b>")),
    ],
    ids=["short", "no references", "many words", "one long word", "odd letters"],
)
@pytest.mark.parametrize("size", [(100, 60), (60, 100), (8, 100)], ids=["wide", "tall", "thin"])
def test_captions_stay_in_their_place(target: str, references: tuple[str, ...], size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, SEA)
    sheet = above_legend(side_by_side(localization(spike(0, 4), image, target=target, references=references), image))
    boxes = panels(sheet)
    grey = np.asarray(sheet.convert("L"))
    # A white gap before the second and third panel, and after the last caption; an f hangs over by a pixel.
    for right in (boxes[1][0] - 2, boxes[2][0] - 2, sheet.width):
        assert (grey[:, right - 4 : right] == 255).all()
    assert (grey[-2:] == 255).all()
    written = captions(sheet)
    assert all((caption < 100).any() for caption in written)
    assert not np.array_equal(written[1], written[2])


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (2000, 1), (1, 2000), (3000, 40), (40, 3000)])
def test_extreme_sizes(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, SEA)
    cells = torch.zeros(3, 5)
    cells[:, 4 if size[0] > size[1] else slice(None)] = 1
    result = localization(cells, image)
    drawn = overlay(result, image)
    assert drawn.size == size
    assert is_hot(pixels(drawn)[-1, -1])
    sheet = side_by_side(result, image)
    assert max(sheet.size) < 2000
    seen = pixels(sheet)[: 24 + round(360 * size[1] / max(size))]  # without the legend
    third = sheet.width // 3
    assert (seen[:, :third] == SEA).all(-1).any()
    assert not is_hot(seen[:, :third]).any()
    for k in (1, 2):
        assert is_hot(seen[:, k * third : (k + 1) * third]).any()


# ---- several maps -----------------------------------------------------------------------------------------------------


def test_a_strip_has_a_panel_for_each_map_in_order():
    image = Image.new("RGB", (300, 180), "grey")
    cells = [spike(1, column) for column in (1, 2, 3)]
    sheet = pixels(strip([localization(c, image) for c in cells], image))
    assert sheet.shape[1] == 3 * 200 + 4 * 12
    for k, column in enumerate((1, 2, 3)):
        panel = sheet[12 : 12 + 108, 12 + k * 212 : 12 + k * 212 + 180]
        rows, columns = np.nonzero(is_hot(panel))
        assert abs(rows.mean() - 54) < 3
        assert abs(columns.mean() - 36 * (column + 0.5)) < 3


def test_each_place_has_the_colour_of_the_reference_it_speaks_against_most():
    image = Image.new("RGB", (360, 216), "white")
    beak, wing = spike(0, 0, 2.0) + spike(2, 4, 0.5), spike(2, 4, 2.0) + spike(0, 0, 1.0)
    results = [localization(beak, image, references=("grosbeak",)), localization(wing, image, references=("bunting",))]
    sheet = by_reference(results, image)
    drawn = pixels(sheet)
    first, second = drawn[12 + 36, 12 + 36], drawn[12 + 180, 12 + 324]
    assert first[0] > first[1] > first[2]  # orange
    assert second[2] > second[1] > second[0]  # blue
    assert spread(drawn[12 + 108, 12 + 180]) == 0
    # The legend below has both colours in the order of the references.
    legend = drawn[12 + 216 + 12 + 20 :]
    assert np.abs(legend[10, 18] - (230, 120, 0)).max() <= 1
    assert np.abs(legend[30, 18] - (0, 114, 178)).max() <= 1


def test_evidence_for_a_reference_and_what_was_not_seen_have_no_colour():
    image = Image.new("RGB", (360, 216), "white")
    window = (0.0, 0.0, 180.0, 216.0)
    results = [localization(-torch.ones(3, 5), image, window=window, references=(name,)) for name in "ab"]
    assert spread(pixels(by_reference(results, image))[12 : 12 + 216, 12 : 12 + 360].reshape(-1, 3)[100]) == 0


def test_more_references_than_colours_are_refused():
    image = Image.new("RGB", (360, 216), "white")
    with pytest.raises(OptionError, match="8 references"):
        by_reference([localization(spike(0, 0), image)] * 8, image)
