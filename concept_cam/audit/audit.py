"""What the rows of an audit come to: classes, pairs, backgrounds."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar, final

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from concept_cam.audit.looking import Looker, Row
from concept_cam.audit.words import Difference
from concept_cam.datasets import Dataset
from concept_cam.metrics import Interval, calibration_error, mean_interval

K = TypeVar("K", bound=Hashable)

ALARM = 0.3
"""The share of a class's deciding evidence off its object above which it is a suspect."""


@final
@dataclass(frozen=True)
class ClassAudit:
    """One class; shares from 0 to 1.

    Attributes:
        name: of the class.
        pictures: with that label.
        accuracy: of those.
        calibration: expected calibration error of those.
        off_object: mean share of the deciding evidence off the object, over pictures taken for this class, with its 95 %
            interval; None where no object is known.
        off_area: what chance would give.
        border: mean share along the border.
        rd5: mean relative drop when the strongest 5 % are covered.
        background: the text whose erasure takes most off its probability, and how much.
        suspect: whether ``off_object`` is above ``ALARM``, its interval as well.
    """

    name: str
    pictures: int
    accuracy: float | None
    calibration: float | None
    off_object: Interval | None
    off_area: float | None
    border: float | None
    rd5: float | None
    background: tuple[str, float] | None

    @property
    def suspect(self) -> bool:
        """Whether what decides for it seems to lie off the object."""
        return self.off_object is not None and self.off_object.low > ALARM


@final
@dataclass(frozen=True, eq=False)
class Pair:
    """A class and the one that it is most nearly taken for.

    Attributes:
        first: taken for this.
        second: and nearly for that.
        pictures: so many.
        errors: of which so many show something else.
        doubt: the mean probability of the second.
        map: the mean of what decided, in the frames of the objects.
        differences: in words.
        agreement: Spearman's correlation of the map of the first difference with that of the decision, -1 to 1.
        best, worst: names of the pictures with the least and the most doubt.
    """

    first: str
    second: str
    pictures: int
    errors: int
    doubt: float
    map: Float[Tensor, "side side"]
    differences: tuple[Difference, ...]
    agreement: float | None
    best: str
    worst: str


@final
@dataclass(frozen=True, eq=False)
class Audit:
    """An audit that was run.

    Attributes:
        looker: model and texts.
        dataset: the pictures.
        folder: where it lies.
        rows: one for each picture, see ``looking.COLUMNS``.
        batches: files with maps and effects, in the order of the rows.
    """

    looker: Looker
    dataset: Dataset
    folder: Path
    rows: Sequence[Row]
    batches: Sequence[Path]

    @cached_property
    def good(self) -> list[Row]:
        """The rows of pictures that could be used."""
        return [row for row in self.rows if "problem" not in row]

    @property
    def problems(self) -> list[str]:
        """What was left out, and why; a line each."""
        return [*self.dataset.problems, *(f"{row['picture']}: {row['problem']}" for row in self.rows if "problem" in row)]

    @property
    def accuracy(self) -> float | None:
        """Of all pictures, 0 to 1."""
        return _mean(self.good, "right")

    @property
    def calibration(self) -> float | None:
        """Expected calibration error of all pictures, 0 to 1."""
        return _calibration(self.good)

    @cached_property
    def classes(self) -> list[ClassAudit]:
        """Those that a picture shows or was taken for, in the order of the data set."""
        shown, taken = _grouped(self.good, "label"), _grouped(self.good, "predicted")
        effects = self._sums("effects", lambda row: row["predicted"])
        found = []
        for name in self.dataset.classes:
            ours, theirs = shown.get(name, []), taken.get(name, [])
            if not ours and not theirs:
                continue
            off = [row["off_object"] for row in theirs if "off_object" in row]
            moved = effects[name] / len(theirs) if theirs and effects[name].numel() else None
            found.append(
                ClassAudit(
                    name,
                    len(ours),
                    _mean(ours, "right"),
                    _calibration(ours),
                    mean_interval(torch.tensor(off, dtype=torch.float64)) if off else None,
                    _mean(theirs, "off_area"),
                    _mean(theirs, "border"),
                    _mean(theirs, "rd5"),
                    None if moved is None else (self.looker.backgrounds[int(moved.argmax())], float(moved.max())),
                )
            )
        return found

    @property
    def suspects(self) -> list[ClassAudit]:
        """Classes whose deciding evidence lies off the object, the worst first."""
        return [one for one in self.ranked if one.suspect]

    @cached_property
    def ranked(self) -> list[ClassAudit]:
        """Classes by the share of their deciding evidence off the object, the largest first; those for which it is known."""
        known = [(one.off_object.mean, one) for one in self.classes if one.off_object]
        return [one for _, one in sorted(known, key=lambda pair: -pair[0])]

    def pairs(self, count: int = 8) -> list[Pair]:
        """The pairs that are most confused: by errors first, then by the mean probability of the second."""
        grouped: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for row in self.good:
            grouped[row["predicted"], row["runner_up"]].append(row)

        def confusion(pair: tuple[str, str]) -> tuple[float, float]:
            rows = grouped[pair]
            return sum(1 - row["right"] for row in rows), sum(row["doubt"] for row in rows) / len(rows)

        chosen = sorted(grouped, key=confusion, reverse=True)[:count]
        maps = self._sums("maps", lambda row: (row["predicted"], row["runner_up"]))
        found = []
        for first, second in chosen:
            rows = sorted(grouped[first, second], key=lambda row: row["doubt"])
            errors, doubt = confusion((first, second))
            direction = self.looker.bank.vectors_of([first])[0] - self.looker.bank.vectors_of([second])[0]
            mean = maps[first, second] / len(rows)
            told = self.looker.words.difference(direction)
            agreement, best, worst = _mean(rows, "agreement"), rows[0]["picture"], rows[-1]["picture"]
            found.append(Pair(first, second, len(rows), int(errors), doubt, mean, told, agreement, best, worst))
        return found

    def backgrounds(self) -> list[tuple[str, str, float]]:
        """(class, background, mean effect) of each, the largest effect first."""
        sums, counts = self._sums("effects", lambda row: row["predicted"]), Counter(row["predicted"] for row in self.good)
        texts = self.looker.backgrounds
        found = [(n, texts[i], float(x) / counts[n]) for n, total in sums.items() for i, x in enumerate(total)]
        return sorted(found, key=lambda one: -one[2])

    def tensors(self, kind: str) -> Iterator[tuple[Row, Tensor]]:
        """Each good row with its map (``maps``) or with the effects of erased backgrounds (``effects``); a batch at a time."""
        rows = iter(self.good)
        for file in self.batches:
            for tensor in load_file(file).get(kind, torch.zeros(0)):
                yield next(rows), tensor.double()

    def _sums(self, kind: str, key: Callable[[Row], K]) -> dict[K, Tensor]:
        """The sum of a tensor of each picture over those of one key."""
        sums: dict[K, Tensor] = {}
        for row, tensor in self.tensors(kind):
            name = key(row)
            sums[name] = sums[name] + tensor if name in sums else tensor
        return sums


def _grouped(rows: Sequence[Row], key: str) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row[key]].append(row)
    return found


def _mean(rows: Sequence[Row], key: str) -> float | None:
    values = [row[key] for row in rows if key in row]
    return sum(values) / len(values) if values else None


def _calibration(rows: Sequence[Row]) -> float | None:
    if not rows:
        return None
    confidence = torch.tensor([row["confidence"] for row in rows])
    return calibration_error(confidence, torch.tensor([bool(row["right"]) for row in rows]))
