"""Metrics by hand, with the cases in which a likely wrong version differs."""

from __future__ import annotations

import pytest
import torch

from concept_cam.errors import EmptyMask
from concept_cam.metrics import energy_inside, paired_difference, pointing_hit

MASK = torch.zeros(6, 8, dtype=torch.bool)
MASK[2:4, 5:7] = True


def test_energy_counts_positive_evidence_alone():
    heatmap = torch.zeros(6, 8)
    heatmap[2, 5], heatmap[0, 0], heatmap[3, 6], heatmap[5, 5] = 3.0, 1.0, -5.0, -2.0
    assert energy_inside(heatmap, MASK) == pytest.approx(0.75)
    heatmap[5, 0] = float("nan")
    assert energy_inside(heatmap, MASK) == pytest.approx(0.75)
    assert energy_inside(-torch.ones(6, 8), MASK) == 0.0
    assert energy_inside(torch.ones(6, 8), MASK) == pytest.approx(4 / 48)


@pytest.mark.parametrize(
    ("peak", "tolerance", "hit"),
    [
        ((5.0, 2.0), 0.0, True),  # the corner of the mask, which spans x 5 to 7 and y 2 to 4
        ((4.9, 3.0), 0.0, False),
        ((4.9, 3.0), 0.1001, True),
        ((2.5, 5.5), 0.0, False),  # inside only if x and y were exchanged
        ((9.0, 6.0), 1.9, False),
        ((9.0, 6.0), 2.0, True),
    ],
)
def test_pointing(peak, tolerance, hit):
    assert pointing_hit(peak, MASK, tolerance) is hit


def test_an_empty_mask_is_never_a_hit():
    empty = torch.zeros(6, 8, dtype=torch.bool)
    with pytest.raises(EmptyMask):
        energy_inside(torch.ones(6, 8), empty)
    with pytest.raises(EmptyMask):
        pointing_hit((1.0, 1.0), empty)


def test_paired_difference_is_of_pairs():
    """The two samples overlap widely, but each picture gains the same: the interval has no width."""
    base = torch.linspace(0, 1, 50)
    gain = paired_difference(base + 0.1, base)
    assert (gain.mean, gain.low, gain.high) == pytest.approx((0.1, 0.1, 0.1))
    noise = torch.randn(400, generator=torch.Generator().manual_seed(0))
    spread = paired_difference(noise, torch.zeros(400))
    half = 1.96 * noise.std().item() / 20
    assert spread.low == pytest.approx(spread.mean - half, abs=0.02)
    assert spread.high == pytest.approx(spread.mean + half, abs=0.02)
