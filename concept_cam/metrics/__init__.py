"""MEASURE: metrics of maps; pure functions of signed maps, masks and model outputs.

localization    is the evidence where it should be?
faithfulness    does the score depend on what the map marks?
perturbation    does a map predict changes of the score, and is it stable under small changes?
sanity          does the map depend on the model and the target?
calibration     does the confidence of the model match its accuracy?
statistics      means and paired differences with intervals
masking         which pixels a map ranks highest, and what replaces them
shapes          shapes of arguments, checked at run time
"""

from __future__ import annotations

from concept_cam.metrics.calibration import CalibrationBin, calibration_bins, calibration_error
from concept_cam.metrics.faithfulness import (
    Confidence,
    area_under,
    comprehensiveness,
    confidence_kept,
    deletion_curve,
    insertion_curve,
    relative_drop,
    road,
    sufficiency,
)
from concept_cam.metrics.localization import (
    average_precision,
    best_iou,
    box_accuracy,
    box_iou,
    box_overlaps,
    energy_inside,
    f1_of,
    iou,
    pck,
    pointing_hit,
)
from concept_cam.metrics.masking import Imputation, blurred, constant, mean_colour, noisy_linear, strongest
from concept_cam.metrics.perturbation import infidelity, max_sensitivity
from concept_cam.metrics.sanity import flip_agreement, rank_correlation, shift_agreement, swap_agreement
from concept_cam.metrics.statistics import (
    Interval,
    bounded_interval,
    effect_size,
    fewest_images,
    mean_interval,
    paired_difference,
)

__all__ = [
    "CalibrationBin",
    "Confidence",
    "Imputation",
    "Interval",
    "area_under",
    "average_precision",
    "best_iou",
    "blurred",
    "bounded_interval",
    "box_accuracy",
    "box_iou",
    "box_overlaps",
    "calibration_bins",
    "calibration_error",
    "comprehensiveness",
    "confidence_kept",
    "constant",
    "deletion_curve",
    "effect_size",
    "energy_inside",
    "f1_of",
    "fewest_images",
    "flip_agreement",
    "infidelity",
    "insertion_curve",
    "iou",
    "max_sensitivity",
    "mean_colour",
    "mean_interval",
    "noisy_linear",
    "paired_difference",
    "pck",
    "pointing_hit",
    "rank_correlation",
    "relative_drop",
    "road",
    "shift_agreement",
    "strongest",
    "sufficiency",
    "swap_agreement",
]
