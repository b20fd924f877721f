"""Numbers about maps: pure functions of signed maps and masks."""

from __future__ import annotations

from concept_cam.metrics.localization import energy_inside, pointing_hit
from concept_cam.metrics.statistics import Interval, paired_difference

__all__ = ["Interval", "energy_inside", "paired_difference", "pointing_hit"]
