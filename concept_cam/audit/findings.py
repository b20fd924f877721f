"""What the rows of an audit come to: classes, pairs, backgrounds."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Container, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, final

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from concept_cam.audit.looking import Looker
from concept_cam.audit.words import Difference
from concept_cam.datasets import Dataset
from concept_cam.errors import OutputError
from concept_cam.evaluation.among import told_among
from concept_cam.metrics import Interval, calibration_error, mean_interval
from concept_cam.runs import Row, read_settings

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
        taken: pictures predicted as this class; what follows is of those.
        energy: mean share of the deciding evidence on the object; None where no object is known.
        off_object: mean share of it more than a patch off the object, with its 95 % interval over pictures; of one picture
            the interval is that picture.
        off_area: what chance would give.
        border: mean share along the border.
        rd5: mean relative drop when the strongest 5 % are covered, -2 to 2.
        background: the text whose erasure takes most off its probability, and how much, -1 to 1.
        suspect: whether all of the interval of ``off_object`` is above ``ALARM``.
    """

    name: str
    pictures: int
    accuracy: float | None
    calibration: float | None
    taken: int
    energy: float | None
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
    """A predicted class and its runner-up.

    Attributes:
        first: predicted as this.
        second: with this as the runner-up.
        pictures: so many.
        errors: of which so many show the second.
        doubt: the mean probability of the second, 0 to 1.
        map: the mean of what decided, in the frames of the objects.
        differences: in words.
        agreements: for each of those, how far its map is that of the decision: mean of Spearman's correlation, -1 to 1.
        shared: where the map of the first agrees with that of the decision, in the frames of the objects, -1 to 1; None
            without words.
        best, worst: names of the pictures with the least and the most doubt.
    """

    first: str
    second: str
    pictures: int
    errors: int
    doubt: float
    map: Float[Tensor, "side side"]
    differences: tuple[Difference, ...]
    agreements: tuple[float, ...]
    shared: Float[Tensor, "side side"] | None
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
        batches: files with the tensors of ``looking.Looker.look``, in the order of the rows.
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
    def skipped(self) -> int:
        """How many pictures could not be used: with ``good``, all that the data set has."""
        return len(self.dataset.examples) - len(self.good) + len(self.dataset.problems)

    @property
    def settings(self) -> dict[str, Any]:
        """What the rows depend on: options, digests of all that was looked at, versions; as in ``run.json``."""
        return read_settings(self.folder)

    @property
    def among(self) -> str:
        """Among how many of how many classes the model decides."""
        return told_among(self.looker.localizer.backbone, self.looker.classes)

    @property
    def accuracy(self) -> float | None:
        """Of all pictures, 0 to 1; None of none."""
        return _mean(self.good, "right")

    @property
    def calibration(self) -> float | None:
        """Expected calibration error of all pictures, 0 to 1; None of none."""
        return _calibration(self.good)

    @cached_property
    def classes(self) -> list[ClassAudit]:
        """Those that a picture shows or is predicted as, in the order of the data set; then those of the model alone."""
        shown, taken = _grouped(self.good, "label"), _grouped(self.good, "predicted")
        effects = self._sums("effects", lambda row: row["predicted"])
        found = []
        for name in dict.fromkeys((*self.dataset.classes, *self.looker.classes)):
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
                    len(theirs),
                    _mean(theirs, "energy"),
                    mean_interval(torch.tensor(off, dtype=torch.float64, device="cpu")) if off else None,
                    _mean(theirs, "off_area"),
                    _mean(theirs, "border"),
                    _mean(theirs, "rd5"),
                    None if moved is None else (self.looker.backgrounds[int(moved.argmax())], float(moved.max())),
                )
            )
        return found

    @property
    def suspects(self) -> list[ClassAudit]:
        """Classes whose deciding evidence lies off the object: the first of those that are ranked."""
        return [one for one in self.ranked if one.suspect]

    @cached_property
    def ranked(self) -> list[ClassAudit]:
        """Classes by the share of their deciding evidence that is surely off the object, the lower end of its interval.

        The largest first; those for which it is known.
        """
        known = [(one.off_object.low, one) for one in self.classes if one.off_object]
        return [one for _, one in sorted(known, key=lambda pair: -pair[0])]

    def pairs(self, count: int = 8) -> list[Pair]:
        """The pairs that are most confused: by errors first, then by the mean probability of the second."""
        grouped: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for row in self.good:
            grouped[_pair(row)].append(row)

        def confusion(pair: tuple[str, str]) -> tuple[int, float]:
            rows = grouped[pair]
            return sum(row["label"] == pair[1] for row in rows), sum(row["doubt"] for row in rows) / len(rows)

        chosen = sorted(grouped, key=confusion, reverse=True)[:count]
        maps, shared, agreements = (self._sums(kind, _pair, set(chosen)) for kind in ("aligned", "shared", "agreements"))
        found = []
        for first, second in chosen:
            pair = first, second
            rows = sorted(grouped[pair], key=lambda row: row["doubt"])
            ours, theirs = self.looker.bank.vectors_of(pair)
            told = self.looker.words.difference(ours - theirs)
            found.append(
                Pair(
                    first,
                    second,
                    len(rows),
                    *confusion(pair),
                    maps[pair] / len(rows),
                    told,
                    tuple((agreements[pair] / len(rows)).tolist()),
                    shared[pair] / len(rows) if told else None,
                    rows[0]["picture"],
                    rows[-1]["picture"],
                )
            )
        return found

    def backgrounds(self) -> list[tuple[str, str, float]]:
        """(class, background, mean effect) of each, the largest effect first."""
        sums, counts = self._sums("effects", lambda row: row["predicted"]), Counter(row["predicted"] for row in self.good)
        texts = self.looker.backgrounds
        found = [(n, texts[i], float(x) / counts[n]) for n, total in sums.items() for i, x in enumerate(total)]
        return sorted(found, key=lambda one: -one[2])

    def tensors(self, kind: str) -> Iterator[tuple[Row, Tensor]]:
        """Each good row with one of its tensors, see ``looking.Looker.look``; a batch at a time.

        Raises:
            OutputError: a file of theirs cannot be read.
        """
        rows = iter(self.good)
        for file in self.batches:
            try:
                held = load_file(file)
            except (OSError, SafetensorError) as error:
                raise OutputError(
                    f"{file}: not the maps of an audit ({error}); delete the folder and run it again."
                ) from error
            for tensor in held.get(kind, ()):
                yield next(rows), tensor.double()

    def _sums(self, kind: str, key: Callable[[Row], K], wanted: Container[K] | None = None) -> dict[K, Tensor]:
        """The sum of a tensor of each picture over those of one key; of all keys, or of those that are wanted."""
        sums: dict[K, Tensor] = {}
        for row, tensor in self.tensors(kind):
            name = key(row)
            if wanted is None or name in wanted:
                sums[name] = sums[name] + tensor if name in sums else tensor
        return sums


def _pair(row: Row) -> tuple[str, str]:
    return row["predicted"], row["runner_up"]


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
    confidence = torch.tensor([row["confidence"] for row in rows], dtype=torch.float64, device="cpu")
    return calibration_error(confidence, torch.tensor([bool(row["right"]) for row in rows], dtype=torch.bool, device="cpu"))
