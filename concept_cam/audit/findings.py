"""What the rows of an audit come to: classes, pairs, backgrounds."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Container, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, final

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from concept_cam.among import told_among
from concept_cam.audit.examine import Examiner
from concept_cam.audit.figures import ALARM, ERROR, ClassAudit, Effect, Pair
from concept_cam.datasets import Dataset
from concept_cam.errors import OutputError
from concept_cam.metrics import bounded_interval, calibration_error, fewest_images
from concept_cam.provenance import Provenance
from concept_cam.runs import Row, read_settings

K = TypeVar("K", bound=Hashable)


@final
@dataclass(frozen=True, eq=False)
class Audit:
    """An audit that was run.

    Attributes:
        examiner: model and texts.
        dataset: the images.
        folder: where it lies.
        rows: one for each image, see ``examine.COLUMNS``.
        batches: files with the tensors of ``examine.Examiner.examine``, in the order of the rows.
        made: how; a page and a summary tell it.
    """

    examiner: Examiner
    dataset: Dataset
    folder: Path
    rows: Sequence[Row]
    batches: Sequence[Path]
    made: Provenance | None = None

    @cached_property
    def good(self) -> list[Row]:
        """The rows of images that could be used."""
        return [row for row in self.rows if "problem" not in row]

    @property
    def problems(self) -> list[str]:
        """What was skipped, and why; a line each."""
        return [*self.dataset.problems, *(f"{row['image']}: {row['problem']}" for row in self.rows if "problem" in row)]

    @property
    def skipped(self) -> int:
        """How many images could not be used: with ``good``, all that the data set has."""
        return len(self.problems)

    @property
    def settings(self) -> dict[str, Any]:
        """What the rows depend on: options, digests of all that was looked at, versions; as in ``run.json``."""
        return read_settings(self.folder)

    @property
    def among(self) -> str:
        """Among how many of how many classes the model decides."""
        return told_among(self.examiner.localizer.backbone, self.examiner.classes)

    @property
    def accuracy(self) -> float | None:
        """Of all images, 0 to 1; None of none."""
        return _mean(self.good, "correct")

    @property
    def errors(self) -> int:
        """How many images are predicted as another class than their label."""
        return sum(not row["correct"] for row in self.good)

    @property
    def swapped(self) -> int:
        """How many of the errors show the runner-up."""
        return sum(row["label"] == row["runner_up"] for row in self.good)

    @property
    def calibration(self) -> float | None:
        """Expected calibration error of all images, 0 to 1; None of none."""
        return _calibration(self.good)

    @cached_property
    def classes(self) -> list[ClassAudit]:
        """Those that an image shows or is predicted as, in the order of the data set; then those of the model alone."""
        shown, predicted = _grouped(self.good, "label"), _grouped(self.good, "predicted")
        effects = self._sums("effects", lambda row: row["predicted"]) if self.examiner.backgrounds else {}
        found = []
        for name in dict.fromkeys((*self.dataset.classes, *self.examiner.classes)):
            ours, theirs = shown.get(name, []), predicted.get(name, [])
            if not ours and not theirs:
                continue
            off = [row["off_object"] for row in theirs if "off_object" in row]
            moved = effects[name] / len(theirs) if name in effects else None
            found.append(
                ClassAudit(
                    name,
                    len(ours),
                    sum(not row["correct"] for row in ours),
                    _mean(ours, "correct"),
                    _calibration(ours),
                    len(theirs),
                    _mean(theirs, "energy"),
                    bounded_interval(off, self._error) if off else None,
                    len(off) >= self.fewest,
                    _mean(theirs, "off_area"),
                    _mean(theirs, "border"),
                    _mean(theirs, "rd5"),
                    None if moved is None else (self.examiner.backgrounds[int(moved.argmax())], float(moved.max())),
                )
            )
        return found

    @property
    def _error(self) -> float:
        """Of one interval, so that those of all classes hold at once."""
        return ERROR / max(1, len({row["predicted"] for row in self.good if "off_object" in row}))

    @property
    def fewest(self) -> int:
        """How many images, predicted as a class and with a known object, it takes before that class can be a suspect."""
        return fewest_images(ALARM, self._error)

    @property
    def suspects(self) -> list[ClassAudit]:
        """Classes whose deciding evidence lies off the object: the first of those that are ranked."""
        return [one for one in self.ranked if one.suspect]

    @property
    def judged(self) -> list[ClassAudit]:
        """Classes of which there are enough images to say whether they are suspects."""
        return [one for one in self.ranked if one.judged]

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

        def confusion(pair: tuple[str, str]) -> tuple[int, int, float]:
            rows = grouped[pair]
            wrong, swapped = sum(not row["correct"] for row in rows), sum(row["label"] == pair[1] for row in rows)
            return wrong, swapped, sum(row["runner_up_probability"] for row in rows) / len(rows)

        chosen = sorted(grouped, key=confusion, reverse=True)[:count]
        maps, shared, agreements = (self._sums(kind, _pair, set(chosen)) for kind in ("aligned", "shared", "agreements"))
        found = []
        for first, second in chosen:
            pair = first, second
            rows = sorted(grouped[pair], key=lambda row: row["runner_up_probability"])
            ours, theirs = self.examiner.bank.vectors_of(pair)
            told = self.examiner.words.difference(ours - theirs)
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
                    rows[0]["image"],
                    rows[-1]["image"],
                )
            )
        return found

    def backgrounds(self) -> list[Effect]:
        """The mean effect of each background on each class that is predicted, the largest first."""
        counts = Counter(row["predicted"] for row in self.good)
        effects, chance = (self._sums(kind, lambda row: row["predicted"]) for kind in ("effects", "chance"))
        found = [
            Effect(name, text, float(total) / counts[name], float(chance[name].max()) / counts[name])
            for name, totals in effects.items()
            for text, total in zip(self.examiner.backgrounds, totals, strict=True)
        ]
        return sorted(found, key=lambda one: -one.effect)

    def tensors(self, kind: str) -> Iterator[tuple[Row, Tensor]]:
        """Each good row with one of its tensors, see ``examine.Examiner.examine``; a batch at a time.

        Raises:
            OutputError: a file of theirs cannot be read.
        """
        rows = iter(self.good)
        for file in self.batches:
            try:
                held = load(file.read_bytes())
            except (OSError, SafetensorError) as error:
                raise OutputError(
                    f"{file}: not the maps of an audit ({error}); delete the folder and run it again."
                ) from error
            for tensor in held.get(kind, ()):
                yield next(rows), tensor.double()

    def _sums(self, kind: str, key: Callable[[Row], K], wanted: Container[K] | None = None) -> dict[K, Tensor]:
        """The sum of a tensor of each image over those of one key; of all keys, or of those that are wanted."""
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
    return calibration_error(confidence, torch.tensor([bool(row["correct"]) for row in rows], dtype=torch.bool, device="cpu"))
