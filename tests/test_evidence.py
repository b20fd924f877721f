"""An evidence map by hand: where its peak is, what its mask holds, what chance is, and when it says nothing."""

from __future__ import annotations

import pytest
import torch

from concept_cam.errors import BackboneError, NoSpatialGradient, OptionError
from concept_cam.evidence import EvidenceMap, EvidenceMaps
from concept_cam.images import Placement

PIXELS = Placement((0.0, 0.0, 4.0, 3.0), (3, 4))
"""A cell is a pixel, so that nothing is interpolated."""

PADDED = Placement((0.0, -2.0, 8.0, 6.0), (4, 8))
"""A square input of 4 x 4 cells of 2 x 2 pixels, whose first and last row lie in padding above and below the image."""


def test_the_peak_is_the_strongest_cell_that_shows_something_of_the_image():
    grid = torch.zeros(4, 4)
    grid[0, 3], grid[2, 1], grid[3, 0] = 9.0, 1.0, 8.0
    evidence = EvidenceMap(grid, PADDED)
    assert evidence.shown.any(1).tolist() == [False, True, True, False]
    assert evidence.peak_cell() == (2, 1)
    assert evidence.peak() == (3.0, 3.0)
    assert evidence.strongest == 1.0
    assert EvidenceMap(grid - 10, PADDED).strongest == -9.0


def test_the_peak_is_the_mean_place_of_the_positive_evidence_around_the_strongest_cell():
    grid = torch.tensor([[1.0, 0.0, 0.0, 7.0], [2.0, 8.0, -5.0, 0.0], [0.0, 4.0, 0.0, 0.0]])
    assert EvidenceMap(grid, PIXELS).peak_cell() == (1, 1)
    # Of 1, 2, 8 and 4, which sum to 15; not what is negative, nor what is two cells away.
    x, y = EvidenceMap(grid, PIXELS).peak()
    assert (x, y) == pytest.approx((0.5 + (0 * 3 + 1 * 12) / 15, 0.5 + (0 * 1 + 1 * 10 + 2 * 4) / 15))
    assert EvidenceMap(grid, PIXELS).peak(floor=4.0) == pytest.approx((1.5, 1.5))  # the 8 alone
    # Half on either side of an edge between cells, and in a corner; nothing positive; a cell that overflowed.
    between = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 3.0, 3.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert EvidenceMap(between, PIXELS).peak() == pytest.approx((2.0, 1.5))
    corner = torch.tensor([[3.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert EvidenceMap(corner, PIXELS).peak() == pytest.approx((0.75, 0.5))
    assert EvidenceMap(grid - 9, PIXELS).peak() == pytest.approx((1.5, 1.5))
    assert EvidenceMap(torch.full((3, 4), torch.inf), PIXELS).peak() == (0.5, 0.5)


class OfMps(torch.Tensor):
    """A tensor of a device that has no double precision."""

    def double(self):
        raise TypeError("the MPS framework doesn't support float64")

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_a_device_without_double_precision_has_peaks():
    grid = torch.tensor([[0.0, 0.0, 0.0], [0.0, 3.0, 1.0]])
    assert EvidenceMap(grid.as_subclass(OfMps), PIXELS).peak() == EvidenceMap(grid, PIXELS).peak()


def test_what_lies_in_padding_does_not_move_the_peak():
    grid = torch.zeros(4, 4)
    grid[1, 1], grid[0, 2] = 2.0, 9.0
    assert EvidenceMap(grid, PADDED).peak() == pytest.approx((3.0, 1.0))


def test_a_centre_in_padding_is_moved_to_the_edge_of_the_image():
    half = Placement((0.0, -3.0, 8.0, 5.0), (4, 8))  # The second row of cells is half in padding.
    grid = torch.zeros(4, 4)
    grid[1, 0] = 1.0
    assert EvidenceMap(grid, half).peak() == (1.0, 0.0)
    assert EvidenceMap(grid, half).pointing(lambda cells: cells[:, 1] < 0.5)[1] == pytest.approx(4 / 12)


def test_chance_is_the_share_of_the_cells_shown_that_would_hit():
    grid = torch.zeros(4, 4)
    grid[0, 0], grid[1, 2] = 5.0, 2.0  # The first lies in padding.
    left = lambda cells: cells[:, 0] < 6  # noqa: E731
    assert EvidenceMap(grid, PADDED).pointing(left) == (True, 6 / 8)
    assert EvidenceMap(-grid, PADDED).pointing(lambda cells: cells[:, 0] > 6) == (False, 2 / 8)


def test_a_mask_from_a_floor():
    grid = torch.tensor([[1.0, 2.0, 3.0, 9.0], [1.0, 4.9, 5.0, 5.1], [-1.0, 0.0, 1.0, 1.0]])
    evidence = EvidenceMap(grid, PIXELS)
    assert torch.equal(evidence.mask(0.5), grid >= 4.5)
    assert torch.equal(evidence.mask(0.5, floor=1.0), grid >= 5)
    assert torch.equal(evidence.mask(1.0, floor=1.0), grid >= 9)
    assert evidence.boxes(0.5) == ((1, 0, 4, 2),)
    assert not EvidenceMap(grid - 9, PIXELS).mask().any()
    for threshold in (0.0, 1.5):
        with pytest.raises(OptionError, match="threshold"):
            evidence.mask(threshold)


def test_half_precision_is_drawn_in_single():
    evidence = EvidenceMap(torch.rand(3, 4).half(), PIXELS)
    assert evidence.heatmap().dtype == torch.float32
    assert torch.equal(evidence.heatmap(), evidence.grid.float())


def maps_of(*grids):
    stacked = torch.tensor(grids)[:, :, None, None].expand(-1, -1, 2, 2).clone()
    return EvidenceMaps(stacked, (PIXELS,) * stacked.shape[1], "a site", torch.float16)


def test_what_is_wrong_is_wrong_with_one_image():
    """Two directions on four images: fine, one blank, both blank, one not finite."""
    maps = maps_of([1.0, 0.0, 0.0, 1.0], [2.0, 3.0, 0.0, float("inf")])
    assert [[maps.flaw(k, b) for b in range(4)] for k in range(2)] == [
        [None, "blank", "blank", None],
        [None, None, "blank", "not finite"],
    ]
    assert [type(maps.error(b)) for b in range(4)] == [type(None), NoSpatialGradient, NoSpatialGradient, BackboneError]
    assert [type(maps.error(b, some=True)) for b in range(4)] == [type(None), type(None), NoSpatialGradient, BackboneError]
    assert [type(maps.error(b, [1])) for b in range(4)] == [type(None), type(None), NoSpatialGradient, BackboneError]
    assert "a site" in str(maps.error(1))
    assert "overflows in torch.float16" in str(maps.single().error(3))
    assert maps.single().stacked.dtype == torch.float32
    assert maps.of(1, 1).grid.tolist() == [[3.0, 3.0], [3.0, 3.0]]
    assert (maps.of(0, 1).is_blank, maps.of(1, 1).is_blank) == (True, False)


def test_one_cell_that_is_not_zero_is_evidence():
    maps = maps_of([0.0])
    maps.stacked[0, 0, 1, 0] = -1e-30
    assert maps.flaw(0, 0) is None
