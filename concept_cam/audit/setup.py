"""The setup of an audit: what tables and report need beside rows and maps, so that they need neither model nor images."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, final

from concept_cam.among import told_among
from concept_cam.audit.columns import AuditRow
from concept_cam.audit.examine import Examiner
from concept_cam.audit.words import Difference
from concept_cam.datasets import Dataset
from concept_cam.errors import OutputError
from concept_cam.files import write_file
from concept_cam.outside import parse_json, read_bytes
from concept_cam.runs import Row
from concept_cam.stored import exactly, mapping, number, refused

FILE = "audit.json"
"""The file beside the rows."""

_LARGEST = 1 << 28
_FARTHEST = 1e9


@final
@dataclass(frozen=True, eq=False)
class Setup:
    """Data set, classes and model of an audit, and how its pairs differ in words.

    Attributes:
        dataset: its name.
        classes: of the data set.
        competing: the classes among which the model decides.
        among: how many those are of how many, in words.
        model: its name.
        backgrounds: texts that should not move a decision.
        strength: of the runner-up in the maps.
        described: whether there are phrases in which pairs are described.
        problems: what was wrong with the data set, a line each.
        differences: of each pair of a prediction and its runner-up, in words; the best first.
    """

    dataset: str
    classes: tuple[str, ...]
    competing: tuple[str, ...]
    among: str
    model: str
    backgrounds: tuple[str, ...]
    strength: float
    described: bool
    problems: tuple[str, ...]
    differences: Mapping[tuple[str, str], tuple[Difference, ...]]

    @classmethod
    def of(cls, examiner: Examiner, dataset: Dataset, rows: Iterable[Row]) -> Setup:
        """The setup of an audit that has been run.

        Args:
            examiner: the model and its texts.
            dataset: the images.
            rows: those of the audit.
        """
        pairs = dict.fromkeys((row.predicted, row.runner_up) for row in rows if isinstance(row, AuditRow))
        vectors = {pair: examiner.bank.vectors_of(pair) for pair in pairs}
        return cls(
            dataset=dataset.name,
            classes=tuple(dataset.classes),
            competing=examiner.classes,
            among=told_among(examiner.localizer.backbone, examiner.classes),
            model=examiner.localizer.backbone.name,
            backgrounds=examiner.backgrounds,
            strength=float(examiner.strength),
            described=bool(examiner.words.groups),
            problems=tuple(dataset.problems),
            differences={pair: examiner.words.difference(ours - theirs) for pair, (ours, theirs) in vectors.items()},
        )

    @property
    def phrases(self) -> int:
        """How many differences each pair has."""
        return max(map(len, self.differences.values()), default=0)

    def write(self, folder: Path) -> None:
        """Write ``audit.json`` into a folder.

        Raises:
            OutputError: it cannot be written.
        """
        held = {one.name: getattr(self, one.name) for one in fields(self)}
        pairs = [{"pair": pair, "differences": [_as_json(one) for one in told]} for pair, told in self.differences.items()]
        write_file(folder / FILE, (json.dumps(held | {"differences": pairs}, indent=1) + "\n").encode())

    @classmethod
    def read(cls, folder: Path) -> Setup:
        """Read ``audit.json`` of a folder.

        Raises:
            OutputError: there is none, or it is damaged.
        """
        if not (folder / FILE).exists():
            raise OutputError(
                f"{folder}: there is no finished audit here, for it has no {FILE}; run or resume the audit first."
            )
        with refused(folder / FILE, "audit"):
            held = mapping(parse_json(read_bytes(folder / FILE, _LARGEST)), "it")
            exactly(held, [one.name for one in fields(cls)], "it")
            if not isinstance(held["described"], bool):
                raise ValueError("described is neither true nor false")
            differences = dict(_pair(one) for one in _list(held["differences"], "differences"))
            if len({len(told) for told in differences.values()}) > 1:
                raise ValueError("not all pairs have as many differences")
            return cls(
                dataset=_text(held["dataset"], "dataset"),
                classes=_texts(held["classes"], "classes"),
                competing=_texts(held["competing"], "competing"),
                among=_text(held["among"], "among"),
                model=_text(held["model"], "model"),
                backgrounds=_texts(held["backgrounds"], "backgrounds"),
                strength=number(held["strength"], "strength", 0, _FARTHEST),
                described=held["described"],
                problems=_texts(held["problems"], "problems"),
                differences=differences,
            )


def _as_json(one: Difference) -> dict[str, Any]:
    return {**vars(one), "stands_out": None if math.isnan(one.stands_out) else one.stands_out}


def _pair(value: Any) -> tuple[tuple[str, str], tuple[Difference, ...]]:
    held = mapping(value, "a pair")
    exactly(held, ("pair", "differences"), "a pair")
    first, second = _texts(held["pair"], "pair")
    return (first, second), tuple(_difference(one) for one in _list(held["differences"], "differences"))


def _difference(value: Any) -> Difference:
    held = mapping(value, "a difference")
    exactly(held, [one.name for one in fields(Difference)], "a difference")
    what, ours, theirs = (_text(held[name], name) for name in ("what", "ours", "theirs"))
    out = held["stands_out"]
    stands_out = math.nan if out is None else number(out, "stands_out", 0, math.inf)
    return Difference(what, ours, theirs, number(held["weight"], "weight", -_FARTHEST, _FARTHEST), stands_out)


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{name} is no list")
    return value


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} is no text")
    return value


def _texts(value: Any, name: str) -> tuple[str, ...]:
    return tuple(_text(one, name) for one in _list(value, name))
