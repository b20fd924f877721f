"""Where evidence lies with respect to the object, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from PIL import Image

from concept_cam import Preprocess
from concept_cam.audit.object_share import ALIGNED, ObjectMask, shared
from concept_cam.images import Frame, Placement

SQUARE = Placement((0, 0, 96, 96), (96, 96))
"""Twelve patches of eight pixels a side."""


def hot(*cells, value=1.0):
    grid = torch.zeros(12, 12)
    for cell in cells:
        grid[cell] = value
    return grid


def box(size, left, top, right, bottom):
    region = torch.zeros(size, dtype=torch.bool)
    region[top:bottom, left:right] = True
    return region


def place_of(grid, placement, region):
    return ObjectMask.of(placement, region, grid.shape).shares(grid)


@pytest.mark.parametrize(
    ("column", "right", "energy", "off"),
    [
        # The object reaches from the left to column ``right``. A patch alone is a tent: it spreads over two patches, with
        # weights of 1, 3, ..., 15, 15, ..., 1 in 128.
        (3, 48, 1.0, 0.0),
        (5, 48, 112 / 128, 0.0),  # up to the edge, but for a foot of four pixels
        (6, 48, 16 / 128, 16 / 128),  # the next one: its foot inside, and a foot that is more than a patch away
        (7, 48, 0.0, 112 / 128),
        (9, 48, 0.0, 1.0),
        (6, 52, 0.5, 0.0),  # half of it on the object
        (7, 52, 0.0, 0.5),  # half of it within a patch of the object
    ],
)
def test_shares_of_one_patch(column, right, energy, off):
    found = place_of(hot((6, column)), SQUARE, box((96, 96), 0, 0, right, 96))
    assert found.energy == pytest.approx(energy)
    assert found.off_object == pytest.approx(off)
    assert found.off_area == pytest.approx((96 - right - 8) / 96)
    assert found.border == pytest.approx(0.0)


def test_what_is_near_is_near_along_both_axes():
    region = box((96, 96), 32, 32, 64, 64)
    above, beside, corner = (place_of(hot(cell), SQUARE, region).off_object for cell in ((3, 5), (5, 3), (3, 3)))
    assert above == beside == pytest.approx(16 / 128)
    assert corner == pytest.approx(1 - (112 / 128) ** 2)
    assert place_of(hot((5, 5)), SQUARE, region).off_area == pytest.approx(1 - (48 / 96) ** 2)


def test_evidence_against_counts_for_nothing():
    grid = hot((6, 2)) - hot((6, 10), value=5.0)
    found = place_of(grid, SQUARE, box((96, 96), 0, 0, 48, 96))
    assert (found.energy, found.off_object) == pytest.approx((1.0, 0.0))


def test_without_positive_evidence_nothing_is_known():
    found = place_of(-torch.ones(12, 12), SQUARE, box((96, 96), 0, 0, 48, 96))
    assert vars(found) == {"energy": None, "off_object": None, "off_area": pytest.approx(40 / 96), "border": None}


def test_without_an_object_the_border_alone_is_known():
    """Four rows at full height, then a tent of which half lies within 8 of 96 pixels' border."""
    found = place_of(hot((0, 6)), SQUARE, None)
    assert vars(found) == {"energy": None, "off_object": None, "off_area": None, "border": pytest.approx(7 / 8)}
    assert place_of(hot((6, 6)), SQUARE, None).border == 0.0


def test_the_border_is_off_the_object():
    top = hot((0, 6))
    assert place_of(top, SQUARE, box((96, 96), 0, 0, 96, 20)).border == 0.0
    assert place_of(top, SQUARE, box((96, 96), 0, 60, 96, 96)).border == pytest.approx(7 / 8)


def test_a_image_that_is_squashed():
    """Patches are 16 x 8 pixels: near is a patch by its longer side."""
    squashed = Placement((0, 0, 192, 96), (96, 192))
    found = place_of(hot((6, 7)), squashed, box((96, 192), 0, 0, 96, 96))
    assert (found.energy, found.off_object) == pytest.approx((0.0, 112 / 128))
    assert found.off_area == pytest.approx(40 / 96)
    below = place_of(hot((7, 6)), squashed, box((96, 192), 0, 0, 192, 48))
    assert below.off_object == pytest.approx(4 / 32)
    assert below.off_area == pytest.approx((96 - 48 - 16) / 96)


def test_what_was_cropped_away_is_neither_near_nor_far():
    """The window is the middle half; of what it shows, 40 of 96 columns are far from the object."""
    crop = Placement((48, 0, 144, 96), (96, 192))
    found = place_of(hot((6, 7)), crop, box((96, 192), 0, 0, 96, 96))
    assert (found.energy, found.off_object, found.off_area) == pytest.approx((0.0, 112 / 128, 40 / 96))
    assert found.border == 0.0


def test_evidence_in_the_padding_counts_for_nothing():
    """The image is the middle half of the input: 48 wide, patches 3 to 8."""
    padded = Placement((-24, 0, 72, 96), (96, 48))
    found = place_of(hot((6, 0), (6, 11), value=9.0) + hot((6, 4)), padded, box((96, 48), 0, 0, 24, 96))
    assert (found.energy, found.off_object) == pytest.approx((1.0, 0.0))
    assert found.off_area == pytest.approx(16 / 48)


def test_an_object_that_was_not_seen():
    crop = Placement((48, 0, 144, 96), (96, 192))
    region = box((96, 192), 0, 0, 20, 96)
    ground = ObjectMask.of(crop, region, (12, 12))
    found = ground.shares(hot((6, 6)))
    assert (found.energy, found.off_object, found.off_area) == pytest.approx((0.0, 1.0, 1.0))
    assert torch.equal(ground.aligned(hot((6, 6))), torch.zeros(ALIGNED, ALIGNED))


@pytest.mark.parametrize("side", [96, 3000])
def test_an_object_of_one_pixel(side):
    grid = torch.arange(144.0).reshape(12, 12)
    y, x = side // 3, side // 2
    ground = ObjectMask.of(Placement((0, 0, side, side), (side, side)), box((side, side), x, y, x + 1, y + 1), (12, 12))
    (value,) = ground.aligned(grid).unique()
    assert float(value) == pytest.approx(12 * 3.5 + 5.5, abs=7)
    found = ground.shares(grid)
    assert 0 < found.energy < 1e-3
    assert found.off_area == pytest.approx(1 - (17 / 96) ** 2, abs=1e-6)


def test_a_sliver_takes_no_more_room_than_a_image():
    image = Image.new("RGB", (20000, 1), "grey")
    frame = Frame.of(image, Preprocess((96, 96), (0.5,) * 3, (0.5,) * 3))
    ground = ObjectMask.of(frame.placement, torch.ones(1, 20000, dtype=torch.bool), (12, 12))
    assert math.prod(ground.placement.image_size) <= 4_100_000
    assert ground.shares(hot((6, 6))).energy == pytest.approx(1.0)


def test_maps_are_aligned_by_their_objects():
    """The same evidence on the same object elsewhere is the same map; the whole image's is another."""
    generator = torch.Generator().manual_seed(0)
    evidence = torch.zeros(12, 12)
    evidence[2:5, 1:6] = torch.randn(3, 5, generator=generator)
    there = evidence.roll((5, 4), (0, 1))
    here, moved = (
        ObjectMask.of(SQUARE, box((96, 96), 16 + x, 16 + y, 40 + x, 40 + y), (12, 12)) for x, y in ((0, 0), (32, 40))
    )
    assert torch.allclose(here.aligned(evidence), moved.aligned(there), atol=1e-6)
    assert here.aligned(evidence).std() > 0.1
    assert not torch.allclose(here.whole(evidence), moved.whole(there), atol=0.1)


def test_an_aligned_map_is_what_lies_in_the_box():
    ramp = torch.arange(12.0).expand(12, 12)
    ground = ObjectMask.of(SQUARE, box((96, 96), 24, 0, 72, 96), (12, 12))
    # 48 pixels to 24: the mean of each two, of a ramp of 1/8 a pixel that is 2.5625 at the middle of column 24.
    expected = 2.5625 + (2 * torch.arange(24.0) + 0.5) / 8
    assert torch.allclose(ground.aligned(ramp)[:, 2:-2], expected[2:-2].expand(24, 20), atol=1e-5)
    assert torch.equal(ObjectMask.of(SQUARE, None, (12, 12)).aligned(ramp), ground.whole(ramp))


def test_where_two_maps_agree():
    ours, theirs = torch.tensor([[1.0, -2.0, 0.0, 0.5]]), torch.tensor([[2.0, -1.0, 3.0, -1.0]])
    assert torch.allclose(shared(ours, theirs), torch.tensor([[0.5, -1 / 3, 0.0, 0.0]]))
    assert torch.equal(shared(torch.zeros(2, 2), torch.ones(2, 2)), torch.zeros(2, 2))
