"""An audit for machines: tables, a summary, and whether it has passed."""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from concept_cam.audit.figures import ClassAudit, Effect, Pair
from concept_cam.audit.findings import Audit
from concept_cam.audit.model_diff import Shift
from concept_cam.errors import OptionError, did_you_mean
from concept_cam.files import write_file
from concept_cam.runs import csv_of

FIGURES = ("accuracy", "calibration", "off_object", "rd5", "sensitivity", "suspects", "too_few")
"""What ``--fail-on`` can ask about: the first two of all images, the next three of the worst class; see ``summary``."""

_OFF = ("off_object", "off_object_low", "off_object_high", "off_area", "border")
_CLASS = (
    "class",
    "images",
    "errors",
    "accuracy",
    "calibration",
    "predicted",
    "energy",
    *_OFF,
    "rd5",
    "background",
    "sensitivity",
    "judged",
    "suspect",
)
_PAIR = ("first", "second", "images", "errors", "swapped", "runner_up_probability", "best", "worst")
_WORDS = ("first", "second", "what", "ours", "theirs", "weight", "stands_out", "agreement")
_BACKGROUND = ("class", "background", "effect", "chance", "moves")
_MOVE = ("image", "label", "before", "after", "agreement", "off_object", "off_object_after")


def write_tables(audit: Audit, moved: Sequence[Shift] | None = None) -> None:
    """Write ``classes.csv``, ``pairs.csv``, ``words.csv``, ``backgrounds.csv``, ``summary.json``, and ``moved.csv``.

    Args:
        audit: that was run.
        moved: what another model changed; None if there is no other, and no ``moved.csv``.

    Raises:
        OutputError: something cannot be written.
    """
    folder, pairs = audit.folder, audit.pairs(len(audit.good))
    _write(folder / "classes.csv", _CLASS, map(_class_row, audit.classes))
    _write(folder / "pairs.csv", _PAIR, ({key: getattr(pair, key) for key in _PAIR} for pair in pairs))
    _write(folder / "words.csv", _WORDS, (row for pair in pairs for row in _word_rows(pair)))
    _write(folder / "backgrounds.csv", _BACKGROUND, map(_background_row, audit.backgrounds()))
    if moved is not None:
        _write(folder / "moved.csv", _MOVE, map(_move_row, moved))
    write_file(folder / "summary.json", (json.dumps(summary(audit), indent=2) + "\n").encode())


def summary(audit: Audit) -> dict[str, Any]:
    """The figures that matter, and the suspects; of the figures of classes the worst. None where one is not known.

    ``accuracy`` and ``calibration`` are those of all images, 0 to 1. ``off_object`` is the largest mean share of a class, 0 to
    1, and ``suspects`` the number of suspects: of the classes with enough images for an alarm, which is ``fewest_images``;
    ``too_few`` is the number of the others. ``rd5`` is the least mean of a class, -2 to 2; ``sensitivity`` the largest mean
    effect of a background on a class, -1 to 1.
    """
    judged = audit.judged
    off = [one.off_object.mean for one in judged if one.off_object]
    effects = audit.backgrounds()
    drops = [one.rd5 for one in audit.classes if one.rd5 is not None]
    return {
        "dataset": audit.dataset.name,
        "model": audit.examiner.localizer.backbone.name,
        "images": len(audit.good),
        "skipped": audit.skipped,
        "among": audit.among,
        "errors": audit.errors,
        "accuracy": audit.accuracy,
        "calibration": audit.calibration,
        "off_object": max(off, default=None),
        "rd5": min(drops, default=None),
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
        figure: one of ``FIGURES``.
        sign: <, <=, > or >=.
        limit: what it is held against.
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
            raise OptionError(f"--fail-on {text!r}: expected a condition such as 'off_object > 0.3' or 'accuracy < 0.9'.")
        name, sign, limit = parts.groups()
        if name not in FIGURES:
            hint = did_you_mean(name, FIGURES)
            raise OptionError(f"--fail-on {text!r}: no figure {name!r}.{hint} There are {', '.join(FIGURES)}.")
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


def _class_row(one: ClassAudit) -> dict[str, Any]:
    off, moved = one.off_object, one.background
    return {
        "class": one.name,
        "images": one.images,
        "errors": one.errors,
        "accuracy": one.accuracy,
        "calibration": one.calibration,
        "predicted": one.predicted,
        "energy": one.energy,
        "off_object": off.mean if off else None,
        "off_object_low": off.low if off else None,
        "off_object_high": off.high if off else None,
        "off_area": one.off_area,
        "border": one.border,
        "rd5": one.rd5,
        "background": moved[0] if moved else None,
        "sensitivity": moved[1] if moved else None,
        "judged": int(one.judged),
        "suspect": int(one.suspect),
    }


def _word_rows(pair: Pair) -> Iterator[dict[str, Any]]:
    for one, agreement in pair.told:
        yield {"first": pair.first, "second": pair.second, **vars(one), "agreement": agreement}


def _background_row(one: Effect) -> dict[str, Any]:
    return {"class": one.name, "background": one.text, "effect": one.effect, "chance": one.chance, "moves": int(one.moves)}


def _move_row(move: Shift) -> dict[str, Any]:
    before, after = move.off_object or (None, None)
    return {**vars(move), "off_object": before, "off_object_after": after}


def _write(file: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    write_file(file, csv_of([{key: value for key, value in row.items() if value is not None} for row in rows], columns))
