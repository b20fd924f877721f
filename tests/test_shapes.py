"""Metrics say which shapes they got, where a mask of another size would broadcast to a wrong number."""

from __future__ import annotations

import jaxtyping
import pytest
import torch

from concept_cam import metrics
from concept_cam.errors import OptionError
from concept_cam.metrics.shapes import check_shapes

MAP, WIDE = torch.rand(4, 4), torch.ones(1, 4, dtype=torch.bool)
PIXELS, MAPS, TARGET = torch.rand(2, 3, 4, 4), torch.rand(2, 4, 4), torch.tensor([0, 0])


def certain(pixels):
    return torch.ones(len(pixels), 2)


CALLS = {
    "average_precision": (lambda: metrics.average_precision(MAP, WIDE), "heatmaps (4, 4), masks (1, 4)"),
    "best_iou": (lambda: metrics.best_iou(MAP, WIDE), "heatmaps (4, 4), masks (1, 4)"),
    "energy_inside": (lambda: metrics.energy_inside(MAP, WIDE), "heatmaps (4, 4), masks (1, 4)"),
    "iou": (lambda: metrics.iou(MAP, WIDE), "heatmaps (4, 4), masks (1, 4)"),
    "pointing_hit": (lambda: metrics.pointing_hit(torch.ones(3, 2), WIDE), "peaks (3, 2), masks (1, 4)"),
    "box_iou": (lambda: metrics.box_iou(torch.ones(2, 4), torch.ones(2, 5)), "ours (2, 4), theirs (2, 5)"),
    "box_overlaps": (lambda: metrics.box_overlaps(MAP[None], torch.ones(1, 4)), "heatmap (1, 4, 4), boxes (1, 4)"),
    "box_accuracy": (lambda: metrics.box_accuracy(torch.ones(3)), "overlaps (3,)"),
    "pck": (lambda: metrics.pck(MAP[:, :2], MAP[:3, :2], WIDE[0], torch.tensor(1.0)), "points (4, 2), truth (3, 2)"),
    "relative_drop": (
        lambda: metrics.relative_drop(MAP, MAP[:3], torch.zeros(4).long(), torch.zeros(4).long()),
        "before (4, 4), after (3, 4)",
    ),
    "deletion_curve": (lambda: metrics.deletion_curve(certain, PIXELS, MAPS[:1], TARGET), "heatmaps (1, 4, 4)"),
    "insertion_curve": (lambda: metrics.insertion_curve(certain, PIXELS, MAPS[..., :3], TARGET), "heatmaps (2, 4, 3)"),
    "confidence_kept": (lambda: metrics.confidence_kept(certain, PIXELS, MAPS, TARGET[:1]), "target (1,)"),
    "road": (lambda: metrics.road(certain, PIXELS, MAPS[0], TARGET), "heatmaps (4, 4)"),
    "comprehensiveness": (lambda: metrics.comprehensiveness(certain, PIXELS, MAPS[:1], TARGET), "heatmaps (1, 4, 4)"),
    "sufficiency": (lambda: metrics.sufficiency(lambda x: x[0, 0], PIXELS, MAPS, TARGET), "confidence (4, 4), labels (2,)"),
    "infidelity": (lambda: metrics.infidelity(certain, PIXELS, MAPS, PIXELS[None]), "attributions (2, 4, 4)"),
    "max_sensitivity": (lambda: metrics.max_sensitivity(certain, PIXELS, PIXELS), "perturbations (2, 3, 4, 4)"),
    "mean_colour": (lambda: metrics.mean_colour(PIXELS, WIDE), "removed (1, 4)"),
    "rank_correlation": (lambda: metrics.rank_correlation(MAP, MAP[:1]), "ours (4, 4), theirs (1, 4)"),
    "swap_agreement": (lambda: metrics.swap_agreement(MAP, MAP[:1]), "ours (4, 4), theirs (1, 4)"),
    "paired_difference": (lambda: metrics.paired_difference(MAP[0], MAP[0, :1]), "ours (4,), base (1,)"),
    "effect_size": (lambda: metrics.effect_size(MAP[0], MAP[0, :1]), "ours (4,), base (1,)"),
    "mean_interval": (lambda: metrics.mean_interval(MAP), "values (4, 4)"),
    "calibration_error": (lambda: metrics.calibration_error(MAP[0], WIDE), "confidence (4,), right (1, 4)"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_metric_says_which_shapes_it_got(name, monkeypatch):
    # As users run it: only these tests check types in signatures.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    call, said = CALLS[name]
    with pytest.raises(OptionError) as refused:
        call()
    assert f"{said}" in str(refused.value)
    assert "; expected " in str(refused.value)


@pytest.mark.parametrize(
    ("axes", "shape", "fits"),
    [
        ("*batch rows", (3,), True),
        ("*batch rows", (2, 3), True),
        ("*batch rows", (), False),
        ("rows 2", (5, 2), True),
        ("rows 2", (5, 3), False),
        ("side side", (4, 4), True),
        ("side side", (4, 5), False),
        ("rows cols", (4,), False),
    ],
)
def test_axes(axes, shape, fits):
    if fits:
        check_shapes(given=(torch.zeros(shape), axes))
    else:
        with pytest.raises(OptionError, match="expected given"):
            check_shapes(given=(torch.zeros(shape), axes))
