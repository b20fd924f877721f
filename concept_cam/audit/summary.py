"""An audit in a few figures, and whether it has passed."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from concept_cam.audit.columns import FIGURES
from concept_cam.audit.findings import Audit
from concept_cam.errors import OptionError, did_you_mean

_WORST: Mapping[str, str] = {name: one.worst for name, one in FIGURES.items() if one.worst}

CONDITIONS = ("accuracy", "calibration", "off_object", *_WORST, "sensitivity", "suspects", "too_few")
"""The figures of a summary on which an audit can fail; see ``Condition``."""


def summary(audit: Audit) -> dict[str, Any]:
    """The figures that matter, and the suspects; of the figures of classes that of the worst class. None if it is not known.

    ``accuracy`` and ``calibration`` are those of all images, 0 to 1. ``off_object`` is the largest mean share of a class, 0 to
    1, and ``suspects`` the number of suspects: of the classes with enough images for an alarm, which is ``fewest_images``;
    ``too_few`` is the number of the others. ``rd5`` is the least mean of a class, -2 to 2; ``sensitivity`` the largest mean
    effect of a background on a class, -1 to 1.

    Example:
        >>> import tempfile
        >>> from concept_cam import world
        >>> from concept_cam.audit import audit
        >>> from concept_cam.world.dataset import birds_dataset
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = summary(audit(world.localizer(), birds_dataset(4), folder))
        >>> found["images"], found["accuracy"], found["too_few"]
        (4, 1.0, 4)
    """
    judged = audit.judged
    off = [one.off_object.mean for one in judged if one.off_object]
    effects = audit.backgrounds()
    worst: dict[str, float | None] = {}
    for name, which in _WORST.items():
        values = [value for one in audit.classes if (value := one.means[name]) is not None]
        worst[name] = (min if which == "least" else max)(values, default=None)
    return {
        "dataset": audit.setup.dataset,
        "model": audit.setup.model,
        "images": len(audit.good),
        "skipped": audit.skipped,
        "among": audit.setup.among,
        "errors": audit.errors,
        "accuracy": audit.accuracy,
        "calibration": audit.calibration,
        "off_object": max(off, default=None),
        **worst,
        "sensitivity": effects[0].effect if effects else None,
        "suspects": len(audit.suspects) if judged else None,
        "too_few": len(audit.ranked) - len(judged) if audit.ranked else None,
        "fewest_images": audit.fewest,
        "suspect_classes": [one.name for one in audit.suspects],
        "made": audit.made.as_json() if audit.made else None,
    }


_COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@final
@dataclass(frozen=True)
class Condition:
    """What makes an audit fail: ``off_object > 0.3``.

    Attributes:
        figure: one of ``CONDITIONS``.
        sign: <, <=, > or >=.
        limit: with which it is compared.
    """

    figure: str
    sign: str
    limit: float

    @classmethod
    def read(cls, text: str) -> Condition:
        """Of a text such as ``off_object > 0.3``.

        Raises:
            OptionError: it is no condition, or of no figure.

        Example:
            >>> Condition.read("off_object > 0.3").reason({"off_object": 0.4})
            'off_object is 0.4, which is > 0.3'
        """
        parts = re.fullmatch(r"\s*(\w+)\s*(<=|>=|<|>)\s*([-+]?\d*\.?\d+(?:[eE][-+]?\d+)?)\s*", text)
        if parts is None:
            raise OptionError(f"{text!r}: expected a condition such as 'off_object > 0.3' or 'accuracy < 0.9'.")
        name, sign, limit = parts.groups()
        if name not in CONDITIONS:
            hint = did_you_mean(name, CONDITIONS)
            raise OptionError(f"{text!r}: no figure {name!r}.{hint} There are {', '.join(CONDITIONS)}.")
        return cls(name, sign, float(limit))

    def reason(self, found: Mapping[str, Any]) -> str | None:
        """Why a summary fails, or None if it does not; a figure that is not known fails: it was not checked."""
        value = found[self.figure]
        if value is None or math.isnan(value):
            needed = found.get("fewest_images") if found.get("too_few") and self.figure in ("off_object", "suspects") else None
            return f"{self.figure} is not known" + (f" (too few images: a class needs {needed})" if needed else "")
        if not _COMPARE[self.sign](value, self.limit):
            return None
        return f"{self.figure} is {value:.3g}, which is {self.sign} {self.limit:g}"
