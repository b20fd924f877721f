"""An audit for machines: tables, a summary, and whether it has passed."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from concept_cam.audit.audit import Audit, ClassAudit, Pair
from concept_cam.audit.moved import Move
from concept_cam.errors import OptionError, did_you_mean
from concept_cam.evaluation.rows import csv_of
from concept_cam.files import write_file

FIGURES = ("accuracy", "calibration", "off_object", "rd5", "sensitivity", "suspects")
"""What ``--fail-on`` can ask about: of a class the worst, as ``summary`` gives them."""


def write_tables(audit: Audit, moved: Sequence[Move] = ()) -> None:
    """Write ``classes.csv``, ``pairs.csv``, ``backgrounds.csv``, ``summary.json``, and ``moved.csv`` if something has.

    Raises:
        OutputError: something cannot be written.
    """
    folder = audit.folder
    _write(folder / "classes.csv", map(_class_row, audit.classes))
    _write(folder / "pairs.csv", map(_pair_row, audit.pairs(len(audit.good))))
    columns = ("class", "background", "effect")
    _write(folder / "backgrounds.csv", (dict(zip(columns, found, strict=True)) for found in audit.backgrounds()))
    if moved:
        _write(folder / "moved.csv", map(_move_row, moved))
    write_file(folder / "summary.json", (json.dumps(summary(audit), indent=2) + "\n").encode())


def summary(audit: Audit) -> dict[str, Any]:
    """The figures that matter, and the suspects; of the figures of classes the worst.

    ``off_object`` is the largest mean share of a class, ``sensitivity`` the largest mean effect of a background, ``rd5`` the
    least of a class.
    """
    off = [one.off_object.mean for one in audit.classes if one.off_object]
    effects = audit.backgrounds()
    drops = [one.rd5 for one in audit.classes if one.rd5 is not None]
    return {
        "dataset": audit.dataset.name,
        "model": audit.looker.localizer.backbone.name,
        "pictures": len(audit.good),
        "left_out": len(audit.problems),
        "accuracy": audit.accuracy,
        "calibration": audit.calibration,
        "off_object": max(off, default=None),
        "rd5": min(drops, default=None),
        "sensitivity": effects[0][2] if effects else None,
        "suspects": len(audit.suspects),
        "suspect_classes": [one.name for one in audit.suspects],
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
        """Of a text.

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
        if value is None:
            return f"{self.figure} is not known"
        if not _COMPARE[self.sign](value, self.limit):
            return None
        return f"{self.figure} is {value:.3g}, which is {self.sign} {self.limit:g}"


def _class_row(one: ClassAudit) -> dict[str, Any]:
    off, moved = one.off_object, one.background
    return {
        "class": one.name,
        "pictures": one.pictures,
        "accuracy": one.accuracy,
        "calibration": one.calibration,
        "off_object": off.mean if off else None,
        "off_object_low": off.low if off else None,
        "off_object_high": off.high if off else None,
        "off_area": one.off_area,
        "border": one.border,
        "rd5": one.rd5,
        "background": moved[0] if moved else None,
        "sensitivity": moved[1] if moved else None,
        "suspect": int(one.suspect),
    }


def _move_row(move: Move) -> dict[str, Any]:
    before, after = move.off_object or (None, None)
    return {**vars(move), "off_object": before, "off_object_after": after}


def _pair_row(pair: Pair) -> dict[str, Any]:
    told = "; ".join(f"{one.ours} (not {one.theirs})" for one in pair.differences)
    keys = ("first", "second", "pictures", "errors", "doubt", "agreement", "best", "worst")
    return {**{key: getattr(pair, key) for key in keys}, "words": told}


def _write(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    rows = list(rows)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    write_file(file, csv_of([{k: v for k, v in row.items() if v is not None} for row in rows], columns))
