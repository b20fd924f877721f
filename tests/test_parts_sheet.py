"""Findings made by hand as images and pages: marks lie where the parts are, labels beside each other, numbers are right."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from concept_cam.errors import ImageError, OptionError
from concept_cam.images import Placement
from concept_cam.lettering import Lettering
from concept_cam.page import to_html
from concept_cam.parts.labels import COLOURS, INK, Mark, beside
from concept_cam.parts.part import AttributeReading, Part, PartFinding
from concept_cam.parts.sheet import PartSheet, annotated, part_sheet, summary

GROUND = (128, 128, 128)
"""A colour that no mark has."""


def seen(name, keypoint, box, confidence=0.75, **attributes):
    readings = {attribute: AttributeReading(*reading) for attribute, reading in attributes.items()}
    return Part(name, True, confidence, keypoint, box, torch.ones(1, 1) > 0, readings, torch.ones(2, 2))


def hidden(name):
    return Part(name, False, 0.25, None, None, None, {}, torch.ones(2, 2))


def finding(size, *parts, parent="bird", **provenance):
    """Of an image of (width, height)."""
    width, height = size
    return PartFinding(parent, parts, Placement((0.0, 0.0, float(width), float(height)), (height, width)), provenance)


def ground(size):
    return Image.new("RGB", size, GROUND)


def within(image, colour, tolerance=0):
    return (np.abs(np.asarray(image, dtype=int) - colour) <= tolerance).all(-1)


def window(image):
    """Where the image lies on what was made of it: left, top, right, bottom."""
    rows, columns = np.nonzero(within(image, GROUND))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


# ---- one line ---------------------------------------------------------------------------------------------------------


def test_a_summary_is_one_line():
    parts = (
        seen("crown", (1.0, 1.0), (0, 0, 2, 2), colour=("red", 0.984)),
        hidden("crest"),
        seen("beak", (1.0, 1.0), (0, 0, 2, 2), colour=("yellow", 1.0), shape=("short", 0.9912)),
        seen("wing", (1.0, 1.0), (0, 0, 2, 2), 0.8333),
        hidden("left leg"),
    )
    expected = "crown: red (0.98), beak: yellow (1.00) short (0.99), wing (0.83), not visible: crest, left leg"
    assert summary(finding((9, 7), *parts)) == expected
    assert summary(finding((9, 7), parts[0])) == "crown: red (0.98)"
    assert summary(finding((9, 7), hidden("crest"))) == "not visible: crest"


# ---- one image ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(60, 40), (40, 60), (800, 500), (3000, 2000), (4000, 60), (60, 4000)], ids=str)
def test_dots_and_boxes_lie_on_the_parts(size):
    width, height = size
    boxes = [(0.125, 0.25, 0.375, 0.75), (0.5, 0.5, 1.0, 1.0)]
    parts = [
        seen(name, (x * width, y * height), tuple(round(s * side) for s, side in zip(box, (width, height) * 2, strict=True)))
        for name, x, y, box in (("crown", 0.25, 0.5, boxes[0]), ("tail", 0.8, 0.75, boxes[1]))
    ]
    image = annotated(finding(size, hidden("crest"), *parts), ground(size), boxes=True)
    left, top, right, bottom = window(image)
    longest = max(width, height)
    shown = min(max(longest, 480), 1200) / longest
    assert (right - left, bottom - top) == (max(1, round(width * shown)), max(1, round(height * shown)))
    assert max(image.size) < 2000
    for k, part in enumerate(parts, 1):  # a part keeps its colour, whatever else is visible
        x, y = (round(at) for at in (left + part.keypoint[0] * shown, top + part.keypoint[1] * shown))
        assert within(image.crop((x - 1, y - 1, x + 1, y + 1)), COLOURS[k], 2).all()
        if min(size) < 200:
            continue
        x0, y0, x1, y1 = (round(side * shown) for side in part.box)
        inked = within(image, COLOURS[k], 60)
        for column in (left + x0, left + x1):
            assert inked[top + y0 + 4 : top + y1 - 4, column - 3 : column + 3].any(1).mean() > 0.9
        for row in (top + y0, top + y1):
            assert inked[row - 3 : row + 3, left + x0 + 4 : left + x1 - 4].any(0).mean() > 0.9
    if min(size) >= 200:  # by default points alone
        points = annotated(finding(size, hidden("crest"), *parts), ground(size))
        assert window(points) == (left, top, right, bottom)
        assert not within(points, COLOURS[1], 60).any()  # of one colour, which says nothing of the part's own


def test_labels_and_what_is_not_visible_are_written(monkeypatch):
    """To the left of the image, to its right and below it, apart from each other and from the edge."""
    from PIL import ImageDraw

    written = []
    write = ImageDraw.ImageDraw.text

    def text(self, xy, text, **options):
        written.append((text, self.textbbox(xy, text, font=options["font"], anchor=options.get("anchor"))))
        write(self, xy, text, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    numbers = np.random.default_rng(0)
    for size in ((60, 40), (500, 700), (3000, 2000), (40, 3000), (3000, 60)):
        points = numbers.normal((0.5, 0.5), 0.04, (16, 2)).clip(0, 1) * size
        parts = [seen(f"part {k}", tuple(point), (0, 0, 9, 9), colour=("red", 0.9)) for k, point in enumerate(points)]
        written.clear()
        image = annotated(finding(size, *parts, hidden("crest"), hidden("tail")), ground(size))
        left, _, right, bottom = window(image)
        labels, notes = written[:16], written[16:]
        assert {label for label, _ in labels} == {f"part {k}: red" for k in range(16)}
        assert " ".join(note for note, _ in notes) == "not visible: crest, tail"
        assert all(box[1] >= bottom for _, box in notes)
        for label, (x0, y0, x1, y1) in labels:
            assert x1 <= left or x0 >= right, label
            assert x0 >= 0
            assert y0 >= 0
            assert x1 <= image.width
            assert y1 <= image.height
        for (_, one), (_, other) in combinations(written, 2):
            assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        assert abs(sum(box[0] >= right for _, box in labels) - 8) == 0


def test_a_long_label_is_cut_short_and_a_line_break_is_a_space(monkeypatch):
    written = []
    write = Lettering.write
    monkeypatch.setattr(Lettering, "write", lambda self, *given: written.append(given[2]) or write(self, *given))
    whole, font = "a very " + "long " * 40 + "name", Lettering(0.95 * 15)
    parts = [seen(whole.replace("a ", "a\n"), (5.0, 5.0), (0, 0, 9, 9)), seen("b", (5.0, 5.0), (0, 0, 9, 9))]
    annotated(finding((60, 40), *parts), ground((60, 40)))
    assert written[1] == "b"
    label = written[0].removesuffix(" ...")
    assert whole.startswith(label)
    # As long as it can be: two letters more, or one and a space, do not fit.
    assert font.getlength(written[0]) <= 24 * 15 < font.getlength(f"{whole[: len(label) + 2]} ...")


def test_a_image_without_any_part_is_shown_with_the_list():
    image = annotated(finding((60, 40), hidden("crest")), ground((60, 40)))
    left, top, right, bottom = window(image)
    assert (right - left, bottom - top) == (480, 320)
    assert within(image, (255, 255, 255))[:, :left].all()
    assert not within(image, (255, 255, 255))[bottom:].all()
    whole = annotated(finding((60, 40), seen("crown", (9.0, 9.0), (0, 0, 9, 9))), ground((60, 40)))
    assert within(whole, (255, 255, 255))[window(whole)[3] :].all()


def test_the_part_after_the_last_colour_has_the_first():
    unseen = [hidden(f"p{k}") for k in range(len(COLOURS))]
    last, next_ = (seen(name, (30.0, 20.0), (0, 0, 9, 9)) for name in ("last", "next"))
    cases = ((*unseen[1:], last), COLOURS[-1]), ((*unseen, next_), COLOURS[0]), ((*unseen, hidden("p"), next_), COLOURS[1])
    for parts, colour in cases:
        image = annotated(finding((60, 40), *parts), ground((60, 40)), boxes=True)
        left, top, *_ = window(image)
        assert within(image.crop((left + 239, top + 159, left + 241, top + 161)), colour, 2).all()  # (30, 20), eightfold


def crossing(one, other):
    def side(a, b, c):
        return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])

    (a, b), (c, d) = one, other
    return side(a, b, c) * side(a, b, d) < -1e-3 and side(c, d, a) * side(c, d, b) < -1e-3


@pytest.mark.parametrize("x", [-30.0, 130.0], ids=["left", "right"])
@pytest.mark.parametrize("spread", [0.1, 5.0, 40.0])
def test_lines_to_labels_do_not_cross(x, spread):
    numbers = np.random.default_rng(1)
    for _ in range(30):
        points = [tuple(point) for point in numbers.normal(50, spread, (8, 2)).clip(0, 100)]
        marks = [Mark(str(k), COLOURS[k], point, (0.0, 0.0, 1.0, 1.0)) for k, point in enumerate(points)]
        found = beside(x, marks, 0.0, 100.0, 10.0)
        assert {mark.label for _, mark in found} == set("01234567")
        heights = [y for y, _ in found]
        assert all(after - before >= 10 - 1e-6 for before, after in pairwise(heights))
        assert heights[0] >= 5 - 1e-6
        assert heights[-1] <= 95 + 1e-6
        lines = [((x, y), mark.point) for y, mark in found]
        assert not any(crossing(one, other) for one, other in combinations(lines, 2))


def test_a_label_with_room_stands_at_the_height_of_its_part_and_a_crowd_around_its_middle():
    def heights(*wanted):
        marks = [Mark("", COLOURS[0], (50.0, y), (0.0, 0.0, 1.0, 1.0)) for y in wanted]
        return [y for y, _ in beside(0.0, marks, 0.0, 100.0, 10.0)]

    assert heights(20.0, 80.0) == pytest.approx([20, 80])
    assert heights(80.0, 50.0, 50.0, 50.0) == pytest.approx([40, 50, 60, 80])
    assert heights(1.0, 99.0) == pytest.approx([5, 95])


def sight(matrix, colours):
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4) @ np.array(matrix).T
    xyz = linear.clip(0, 1) @ np.array([[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]])
    x, y, z = np.cbrt((xyz / (0.9505, 1.0, 1.089)).clip(1e-9)).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


@pytest.mark.parametrize(
    "matrix",
    [
        np.eye(3),
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ],
    ids=["normal", "protanopia", "deuteranopia", "tritanopia"],
)
def test_colours_can_be_told_apart(matrix):
    """By at least ten steps of CIELAB, as many see them (Machado et al. 2009)."""
    seen_as = sight(matrix, np.array(COLOURS) / 255)
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen_as, 2)) > 10


def test_another_image_is_refused():
    found = finding((60, 40), hidden("crest"))
    with pytest.raises(ImageError, match="The image is 40 x 60, but the finding is of one of 60 x 40 pixels"):
        annotated(found, ground((40, 60)))
    with pytest.raises(ImageError, match="The image is 40 x 60"):
        part_sheet("finch", [("a", ground((40, 60)), found)])


def test_a_turned_image_is_upright():
    turned = ground((40, 60))
    turned.getexif()[0x0112] = 6
    found = finding((60, 40), seen("crown", (45.0, 10.0), (40, 5, 50, 15)))
    image = annotated(found, turned)
    left, top, right, bottom = window(image)
    assert (right - left, bottom - top) == (480, 320)


# ---- many images ----------------------------------------------------------------------------------------------------


def striped(size, k):
    """Red above, blue on the right below: a crop tells where it is from."""
    image = Image.new("RGB", size, (255, 0, 0))
    image.paste((0, 0, 255), (size[0] // 2, size[1] // 2, size[0], size[1]))
    image.putpixel((0, 0), (k, k, k))
    return image


SIZE = (80, 40)


def items():
    """Four images: the crown on all, once orange; the tail on one; the crest on none."""
    found = []
    for k, (colour, confidence) in enumerate((("red", 0.6), ("red", 0.9), ("orange", 0.7), ("red", 0.8))):
        crown = seen("crown", (50.0, 30.0), (44, 24, 60, 32), confidence, colour=(colour, 0.9))
        tail = seen("tail", (2.0, 2.0), (0, 0, 4, 4), 0.5, colour=("black", 1.0), shape=("forked", 0.8))
        about = {"model": "world", "vocabulary": "Parts & more", "method": "hires_cam"}
        found.append(
            (f"p{k}", striped(SIZE, k), finding(SIZE, crown, tail if k == 2 else hidden("tail"), hidden("crest"), **about))
        )
    return found


def test_a_sheet_counts():
    page = part_sheet("house finch", items())
    assert page.title == "house finch"
    assert dict(page.facts) == {
        "images": "4",
        "parts visible on an image": "1.2 of 3",
        "model": "world",
        "vocabulary": "Parts & more",
        "method": "hires_cam",
    }
    table = page.sections[0].table
    assert table.columns[:5] == ("part", "visible", "confidence", "colour", "shape")
    crown, tail, crest = table.rows
    assert crown[:5] == ("crown", 1.0, pytest.approx(0.75), "red 3/4", None)
    assert tail[:5] == ("tail", 0.25, 0.5, "black 1/1", "forked 1/1")
    assert crest == ("crest", 0.0, *[None] * 3)
    crops = crops_of(page)
    assert [crop.caption for crop in crops["crown: red 3/4"]] == ["p1", "p3", "p2"]
    assert [crop.link for crop in crops["crown: red 3/4"]] == [f"annotated/{name}.png" for name in ("p1", "p3", "p2")]
    assert [crop.caption for crop in crops["tail: black 1/1, forked 1/1"]] == ["p2"]
    html = to_html(page)
    assert html.count('href="annotated/p2.png"') == 4
    assert "red 3/4" in html


def crops_of(page):
    """The crops of each part."""
    (section,) = [section for section in page.sections if section.title == "What the parts look like"]
    return {strip.title: strip.images for strip in section.strips}


def test_the_lead_says_what_most_images_show():
    assert part_sheet("house finch", items()).lead == "The bird on 4 images: red crown. Mostly not visible: tail, crest."
    assert part_sheet("house finch", items()[:1]).lead == "The bird on 1 image: red crown. Not visible: tail, crest."
    name, image, _ = items()[0]
    hidden_all = part_sheet("house finch", [(name, image, finding(SIZE, hidden("crown"), hidden("tail")))])
    assert hidden_all.lead == "The bird on 1 image: no part is visible."


def test_the_plot_shows_what_the_table_says():
    section = part_sheet("house finch", items()).sections[0]
    assert [(mark.name, mark.value) for mark in section.plots[0].marks] == [row[:2] for row in section.table.rows]
    assert section.plots[0].marks[1].note == "black 1/1; forked 1/1"


def test_the_image_on_which_the_parts_are_surest_comes_first():
    (strip,) = part_sheet("house finch", items()).sections[0].strips
    assert [image.caption for image in strip.images] == ["p2"]  # the only one with two parts
    assert strip.images[0].image.size[0] > 480


def test_there_are_three_crops_at_most():
    for count in (2, 4):
        crops = crops_of(part_sheet("house finch", items()[:count]))
        assert [len(of_one) for title, of_one in crops.items() if title.startswith("crown")] == [min(count, 3)]
    (name, image, _) = items()[0]
    nothing = part_sheet("house finch", [(name, image, finding(SIZE, hidden("crown"), hidden("tail")))])
    assert nothing.sections[0].table.columns == ("part", "visible", "confidence")
    assert nothing.sections[0].table.rows == (("crown", 0.0, None), ("tail", 0.0, None))


def test_a_sheet_of_one_image_counts_nothing():
    page = part_sheet("house finch", items()[2:3])
    assert [section.title for section in page.sections] == ["Part by part", "What the parts look like"]
    where, looks = page.sections
    assert (where.plots, looks.strips, dict(page.facts)["parts visible on an image"]) == ((), (), "2 of 3")
    assert where.table.rows[0][3] == "orange"
    assert [(crop.caption, crop.link) for crop in looks.images] == [
        ("crown: orange", "annotated/p2.png"),
        ("tail: black, forked", "annotated/p2.png"),
    ]


def test_crops_are_squares_around_the_part():
    page = part_sheet("house finch", items())
    crown, tail = crops_of(page).values()
    # 24 pixels, half as much again as the box (44, 24, 60, 32) is wide, from (40, 16): blue from (40, 20) on.
    assert crown[0].image.size == tail[0].image.size == (224, 224)
    blue = within(crown[0].image, (0, 0, 255), 20)
    assert blue[60:, 30:].all()
    assert not blue[:15].any()
    # A fourth of the image at least, from the corner of which the pixel says whose it is.
    assert within(tail[0].image.crop((1, 1, 4, 4)), (2, 2, 2), 40).all()


def test_thumbnails_have_dots_and_are_small():
    section = part_sheet("house finch", items()).sections[-1]
    assert [image.caption for image in section.images] == ["p0", "p1", "p2", "p3"]
    image = section.images[0].image
    assert image.size == (224, 112)
    assert within(image.crop((139, 83, 141, 85)), INK, 2).all()  # (50, 30) of 80 x 40


def test_a_sheet_of_many_images_keeps_few():
    sheet = PartSheet("house finch")
    size = (1000, 600)
    for k in range(70):
        crown = seen("crown", (500.0, 300.0), (100, 100, 900, 500), 0.5 + (37 * k % 70) / 140, colour=("red", 0.9))
        sheet.add(f"p{k}", ground(size), finding(size, crown))
    page = sheet.page()
    assert dict(page.facts)["images"] == "70"
    thumbnails = page.sections[-1].images
    assert [image.caption for image in thumbnails] == [f"p{k}" for k in range(60)]
    assert "first 60 of 70" in page.sections[-1].text
    (crops,) = crops_of(page).values()
    best = sorted(range(70), key=lambda k: -(37 * k % 70))[:3]
    assert [crop.caption for crop in crops] == [f"p{k}" for k in best]
    assert all(max(image.image.size) <= 224 for image in (*thumbnails, *crops))
    assert "first 60" not in part_sheet("house finch", items()).sections[-1].text


def test_a_sheet_goes_on_after_a_page():
    sheet, all_items = PartSheet("house finch"), items()
    for item in all_items[:2]:
        sheet.add(*item)
    early = sheet.page()
    for item in all_items[2:]:
        sheet.add(*item)
    assert dict(early.facts)["images"] == "2"
    assert sheet.page().sections[0].table.rows[0][:4] == part_sheet("x", all_items).sections[0].table.rows[0][:4]


def test_a_name_that_no_link_can_hold_has_none():
    page = part_sheet("x", [("a\\b", *items()[0][1:]), ("a\\c", *items()[1][1:])])
    assert page.sections[-1].images[0].link is None
    assert [crop.link for crops in crops_of(page).values() for crop in crops] == [None, None]


def test_no_images_and_two_vocabularies_are_refused():
    with pytest.raises(OptionError, match="There are no findings"):
        part_sheet("house finch", [])
    other = ("o", ground(SIZE), finding(SIZE, hidden("crown")))
    with pytest.raises(OptionError, match="'o' has other parts"):
        part_sheet("house finch", [*items(), other])
