"""Metrics of localization, and statistics: by hand, where a likely wrong version differs, and as other packages have them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torchmetrics.functional.classification as theirs
from pycocotools import mask as coco
from scipy.stats import beta
from slow import by_default

from concept_cam.errors import EmptyMask, OptionError
from concept_cam.metrics import (
    CalibrationBin,
    average_precision,
    best_iou,
    bounded_interval,
    box_accuracy,
    box_iou,
    box_overlaps,
    calibration_bins,
    calibration_error,
    effect_size,
    energy_inside,
    f1_of,
    fewest_images,
    iou,
    mean_interval,
    paired_difference,
    pck,
    pointing_hit,
)

MASK = torch.zeros(6, 8, dtype=torch.bool)
MASK[2:4, 5:7] = True


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_energy_counts_positive_evidence_alone():
    heatmap = torch.zeros(6, 8)
    heatmap[2, 5], heatmap[0, 0], heatmap[3, 6], heatmap[5, 5] = 3.0, 1.0, -5.0, -2.0
    assert float(energy_inside(heatmap, MASK)) == pytest.approx(0.75)
    heatmap[5, 0] = float("nan")
    assert float(energy_inside(heatmap, MASK)) == pytest.approx(0.75)
    assert float(energy_inside(-torch.ones(6, 8), MASK)) == 0.0
    assert float(energy_inside(torch.ones(6, 8), MASK)) == pytest.approx(4 / 48)


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
    assert bool(pointing_hit(torch.tensor(peak), MASK, tolerance)) is hit


def test_pointing_needs_one_pixel_that_is_near_both_ways():
    """Of an L, one arm is near along x and the other along y; the corner between is not of it."""
    corner = torch.zeros(9, 9, dtype=torch.bool)
    corner[0, :], corner[:, 0] = True, True
    assert not pointing_hit(torch.tensor([6.5, 6.5]), corner, 2.0)


MAP = torch.tensor([[4.0, 3.0, -1.0], [2.0, 2.0, float("nan")]])
TRUTH = torch.tensor([[True, False, False], [True, False, True]])


def test_overlap_by_hand():
    # At least half of 4: the pixels 4, 3, 2, 2; of the three in the mask, two.
    assert float(iou(MAP, TRUTH, 0.5)) == pytest.approx(2 / 5)
    assert float(iou(MAP, TRUTH, 1.0)) == pytest.approx(1 / 3)
    # Thresholds 4, 3, 2, -1, and all: 1/3, 1/4, 2/5, 2/6, 3/6. Two equal values cannot be told apart: never 2/4.
    assert float(best_iou(MAP, TRUTH)) == pytest.approx(1 / 2)
    assert float(best_iou(MAP[:, :2], TRUTH[:, :2])) == pytest.approx(1 / 2)
    assert float(f1_of(torch.tensor(1 / 2))) == pytest.approx(2 / 3)


def test_nothing_is_marked_where_nothing_speaks_for_the_target():
    """A share of a negative maximum would mark the whole image, or all but its least negative pixels."""
    assert float(iou(-1 - torch.rand(6, 8), MASK)) == 0.0
    with pytest.raises(OptionError, match="threshold is 0"):
        iou(torch.rand(6, 8), MASK, 0.0)


def test_average_precision_by_hand():
    # Groups from above: 4 (hit), 3, {2, 2} (one hit), -1, NaN (hit): precisions 1, -, 2/4, -, 3/6 at the hits.
    assert float(average_precision(MAP, TRUTH)) == pytest.approx((1 + 2 / 4 + 3 / 6) / 3)


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_is_that_of_torchmetrics(seed):
    heatmaps = noise(4, 7, 9, seed=seed).sigmoid()
    heatmaps = (8 * heatmaps).round() / 8  # with many equal values
    masks = noise(4, 7, 9, seed=seed + 100) > 0.8
    expected = [theirs.binary_average_precision(m.flatten(), t.flatten().long()) for m, t in zip(heatmaps, masks, strict=True)]
    torch.testing.assert_close(average_precision(heatmaps, masks), torch.stack(expected).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_best_overlap_is_that_of_every_threshold(seed):
    heatmaps, masks = (4 * noise(3, 5, 6, seed=seed)).round(), noise(3, 5, 6, seed=seed + 50) > 0.5
    for heatmap, mask, found in zip(heatmaps, masks, best_iou(heatmaps, masks), strict=True):
        overlaps = [theirs.binary_jaccard_index((heatmap >= t).long(), mask.long()) for t in heatmap.unique()]
        assert float(found) == pytest.approx(float(torch.stack(overlaps).max()), abs=1e-6)
        f1 = [theirs.binary_f1_score((heatmap >= t).long(), mask.long()) for t in heatmap.unique()]
        assert float(f1_of(found)) == pytest.approx(float(torch.stack(f1).max()), abs=1e-6)


@pytest.mark.parametrize("metric", [energy_inside, iou, best_iou, average_precision])
def test_a_batch_is_its_images(metric):
    heatmaps, masks = noise(2, 3, 5, 6), noise(2, 3, 5, 6, seed=1) > 0.3
    together = metric(heatmaps, masks)
    assert together.shape == (2, 3)
    alone = torch.stack([metric(h, m) for h, m in zip(heatmaps.flatten(0, 1), masks.flatten(0, 1), strict=True)])
    torch.testing.assert_close(together.flatten(), alone, rtol=1e-12, atol=0)


@pytest.mark.parametrize("metric", [energy_inside, iou, best_iou, average_precision])
def test_an_empty_mask_is_never_a_hit(metric):
    empty = torch.stack([MASK, torch.zeros(6, 8, dtype=torch.bool)])
    with pytest.raises(EmptyMask, match="6, 8"):
        metric(torch.ones(2, 6, 8), empty)
    with pytest.raises(EmptyMask):
        pointing_hit(torch.ones(2, 2), empty)


def test_boxes_overlap_as_pycocotools_has_it():
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(12, 4, generator=generator, dtype=torch.float64) * 50
    boxes[:, 2:] += boxes[:, :2]
    boxes[0, 2:] = boxes[0, :2]  # no area
    as_coco = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).numpy()
    expected = torch.from_numpy(coco.iou(as_coco[:5], as_coco[5:], [0] * 7))
    torch.testing.assert_close(box_iou(boxes[:5], boxes[5:]), expected, rtol=0, atol=1e-6)


def test_box_overlaps_by_hand():
    heatmap = torch.zeros(10, 10)
    heatmap[2:4, 2:6], heatmap[8, 8] = 1.0, 0.5
    boxes = torch.tensor([[2.0, 2.0, 6.0, 6.0]])
    # At .6 one region of 4 x 2 pixels in the box of 4 x 4; at .3 there is another, which fits less.
    torch.testing.assert_close(box_overlaps(heatmap, boxes, (0.3, 0.6)), torch.tensor([0.5, 0.5], dtype=torch.float64))
    assert box_overlaps(-heatmap - 1, boxes, (0.3, 0.6)).tolist() == [0.0, 0.0]
    # Half-open: as inclusive corners the same box would be 3 x 1 pixels wide.
    assert float(box_overlaps(heatmap, torch.tensor([[8.0, 8.0, 9.0, 9.0]]), (0.3,))) == 1.0


def test_box_accuracy_takes_one_threshold_for_all():
    """The best threshold of each image on its own would fit both."""
    overlaps = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
    assert box_accuracy(overlaps, (0.5,)) == 0.5
    assert box_accuracy(torch.tensor([[0.4, 0.6]]), (0.3, 0.5, 0.7)) == pytest.approx(2 / 3)


def test_keypoints_by_hand():
    truth = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    points = torch.tensor([[0.0, 1.0], [12.0, 0.0], [50.0, 50.0]])
    visible = torch.tensor([True, True, False])
    assert float(pck(points, truth, visible, torch.tensor(10.0), 0.1)) == 0.5
    assert float(pck(points, truth, visible, torch.tensor(10.0), 0.2)) == 1.0
    with pytest.raises(EmptyMask, match="no visible keypoint"):
        pck(points, truth, ~visible & visible, torch.tensor(10.0))


def test_paired_difference_is_of_pairs():
    """The two samples overlap widely, but each image gains the same: the interval has no width."""
    base = torch.linspace(0, 1, 50)
    gain = paired_difference(base + 0.1, base)
    assert (gain.mean, gain.low, gain.high) == pytest.approx((0.1, 0.1, 0.1))
    sample = noise(400)
    spread = paired_difference(sample, torch.zeros(400))
    half = 1.96 * sample.std().item() / 20
    assert spread.low == pytest.approx(spread.mean - half, abs=0.02)
    assert spread.high == pytest.approx(spread.mean + half, abs=0.02)
    assert mean_interval(sample) == spread


def test_resamples_of_one_image_say_nothing_of_others():
    one = mean_interval(torch.tensor([0.95]))
    assert one.mean == pytest.approx(0.95)
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    assert str(one) == "0.950"
    assert str(mean_interval(torch.tensor([0.25, 0.25]))) == "0.250 [0.250, 0.250]"


@pytest.mark.parametrize("count", range(1, 11))
def test_an_interval_of_few_images_is_wide(count):
    """All shares alike: of the lowest such mean, an image of 1 and else nothing, so many are drawn once in forty times."""
    full = bounded_interval([1.0] * count)
    assert (full.mean, full.low, full.high) == pytest.approx((1.0, 0.025 ** (1 / count), 1.0), abs=1e-6)
    some = bounded_interval([0.95] * count, 0.05 / 48)
    assert some.low == pytest.approx(0.95 * (0.025 / 48) ** (1 / count), abs=1e-6)
    assert some.high == pytest.approx(1 - 0.05 * (0.025 / 48) ** (1 / count), abs=1e-6)


@pytest.mark.parametrize(("hits", "count"), [(0, 4), (1, 1), (3, 7), (7, 10), (9, 10), (40, 100)])
def test_an_interval_of_zeros_and_ones_is_that_of_clopper_and_pearson(hits, count):
    found = bounded_interval([1.0] * hits + [0.0] * (count - hits))
    assert found.low == pytest.approx(beta.ppf(0.025, hits, count - hits + 1) if hits else 0.0, abs=1e-6)
    assert found.high == pytest.approx(beta.ppf(0.975, hits + 1, count - hits) if hits < count else 1.0, abs=1e-6)
    back = bounded_interval([0.0] * hits + [1.0] * (count - hits))
    assert (back.low, back.high) == pytest.approx((1 - found.high, 1 - found.low))


def test_the_ends_are_quantiles_of_means_under_random_weights():
    shares = [0.2, 0.9, 0.4, 0.4, 0.75]
    found = bounded_interval(shares, 0.2)
    weights = np.random.default_rng(0).dirichlet([1.0] * 6, size=200_000)
    assert found.low == pytest.approx(np.quantile(weights @ [*shares, 0.0], 0.1), abs=0.003)
    assert found.high == pytest.approx(np.quantile(weights @ [*shares, 1.0], 0.9), abs=0.003)


DRAWN = {
    "two values": lambda rng, size: 0.95 * (rng.random(size) < 0.3),
    "few are high": lambda rng, size: rng.beta(0.3, 0.7, size),
    "alike": lambda rng, size: rng.beta(30, 70, size),
    "even": lambda rng, size: rng.random(size),
}


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("count", by_default([1, 2, 3, 5, 10], 2))
def test_intervals_of_few_images_hold_their_mean(name, count):
    """A bootstrap interval of one image never does."""
    draw, trials = DRAWN[name], 1500
    rng = np.random.default_rng([count, len(name)])
    mean = float(draw(rng, 400_000).mean())
    found = [bounded_interval(shares, 0.2) for shares in draw(rng, (trials, count)).tolist()]
    # At most a tenth of either end may miss; three standard deviations of that over the trials are 0.023.
    assert np.mean([one.low > mean for one in found]) <= 0.1 + 0.023
    assert np.mean([one.high < mean for one in found]) <= 0.1 + 0.023


def test_how_many_images_it_takes():
    for classes in (1, 2, 48, 200):
        count = fewest_images(0.3, 0.05 / classes)
        assert bounded_interval([1.0] * count, 0.05 / classes).low > 0.3
        assert bounded_interval([1.0] * (count - 1), 0.05 / classes).low <= 0.3
    assert [fewest_images(0.3, 0.05 / classes) for classes in (1, 2, 48, 200)] == [4, 4, 7, 8]


@pytest.mark.parametrize("shares", [[], [0.5, 1.2], [-0.1], [math.nan]])
def test_what_is_no_share_has_no_interval(shares):
    with pytest.raises(OptionError, match="each from 0 to 1"):
        bounded_interval(shares)


def test_effect_size_is_of_the_differences():
    """The samples spread far more than their differences."""
    base = torch.linspace(0, 100, 40)
    step = torch.tensor([1.0, 3.0]).repeat(20)
    assert effect_size(base + step, base) == pytest.approx(2 / step.double().std().item(), rel=1e-4)
    assert effect_size(base, base) == 0.0
    assert math.isinf(effect_size(torch.ones(3), torch.zeros(3)))


def test_calibration_by_hand():
    """Two at 0.9, of which one is right; one at 0.6, right; two in the lowest bin, both wrong: 0.8, 0.4 and 0.1 of five."""
    confidence = torch.tensor([0.9, 0.6, 0.9, 0.0, 0.1], dtype=torch.float64)
    right = torch.tensor([True, True, False, False, False])
    assert calibration_error(confidence, right) == pytest.approx((0.8 + 0.4 + 0.1) / 5)
    bins = calibration_bins(confidence, right)
    assert [(one.low, one.high, one.count, one.accuracy) for one in bins] == [
        (0, 0.1, 2, 0),
        (0.5, 0.6, 1, 1),
        (0.8, 0.9, 2, 0.5),
    ]
    assert [one.confidence for one in bins] == pytest.approx([0.05, 0.6, 0.9])
    assert calibration_bins(confidence[:1], right[:1], bins=1) == [CalibrationBin(0.0, 1.0, 1, 0.9, 1.0)]
    assert calibration_error(confidence, right, bins=1) == pytest.approx(abs(2.5 - 2) / 5)
    # What is right and what is wrong in one bin makes up for each other, in two it does not.
    assert calibration_error(torch.tensor([0.5, 0.5]), torch.tensor([True, False])) == 0
    assert calibration_error(torch.tensor([0.5, 0.51]), torch.tensor([True, False])) == pytest.approx(0.505)
    assert math.isnan(calibration_error(torch.zeros(0), torch.zeros(0, dtype=torch.bool)))


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_is_that_of_torchmetrics(bins):
    generator = torch.Generator().manual_seed(bins)
    probabilities = (3 * torch.randn(500, 7, generator=generator, dtype=torch.float64)).softmax(1)
    labels = torch.multinomial(probabilities.sqrt(), 1, generator=generator)[:, 0]
    confidence, predicted = probabilities.max(1)
    expected = theirs.multiclass_calibration_error(probabilities, labels, 7, n_bins=bins, norm="l1")
    assert calibration_error(confidence, predicted == labels, bins) == pytest.approx(float(expected), abs=1e-6)
    assert expected > 0.05
    sure, happened = probabilities[:, 0].contiguous(), labels == 0
    expected = theirs.binary_calibration_error(sure, happened.long(), n_bins=bins, norm="l1")
    assert calibration_error(sure, happened, bins) == pytest.approx(float(expected), abs=1e-6)


def test_what_is_no_confidence_is_refused():
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(OptionError, match="expected probabilities"):
            calibration_error(torch.tensor([0.5, wrong]), torch.tensor([True, True]))
    with pytest.raises(OptionError, match="bins is 0"):
        calibration_error(torch.tensor([0.5]), torch.tensor([True]), bins=0)
