"""What the rows and maps of an audit come to: classes, pairs, backgrounds. No model is needed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from concept_cam.address import address_of, files_in
from concept_cam.audit.columns import FIGURES, AuditRow
from concept_cam.audit.figures import ALARM, ERROR, LEAST, SHOWN, ClassAudit, Effect, Pair, spread
from concept_cam.audit.maps import Drawing, Sums, read_drawings, read_kind, read_sums
from concept_cam.audit.setup import Setup
from concept_cam.errors import OutputError
from concept_cam.metrics import Interval, bounded_interval, calibration_error, fewest_images
from concept_cam.provenance import Provenance
from concept_cam.runs import Skipped, read_rows, read_settings


@final
@dataclass(frozen=True, eq=False)
class Audit:
    """An audit that was run. It needs no model, and images only to draw thumbnails.

    Attributes:
        setup: what it is of.
        folder: where it lies.
        rows: one for each image, in the order of the data set.
        batches: files with the tensors of ``Examiner.examine``, in the order of the rows.
        made: how; a page and a summary tell it.
    """

    setup: Setup
    folder: Path
    rows: Sequence[AuditRow | Skipped]
    batches: Sequence[Path]
    made: Provenance | None = None
    _drawings: dict[int, Drawing] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def load(cls, folder: str | Path) -> Audit:
        """Read a finished audit from its folder.

        Args:
            folder: in which ``audit`` has written it.

        Raises:
            OutputError: there is none, it is not finished, or a file of it is damaged.

        Example:
            >>> import tempfile
            >>> from concept_cam import world
            >>> from concept_cam.audit import Audit, audit
            >>> from concept_cam.world.dataset import birds_dataset
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     _ = audit(world.localizer(), birds_dataset(4), folder)
            ...     found = Audit.load(folder)
            >>> found.accuracy, found.setup.model
            (1.0, 'world')
        """
        folder = address_of(folder)
        setup, file = Setup.read(folder), folder / "rows.csv"
        rows = read_rows(file, AuditRow)
        known, scenes = set(setup.competing), {"", *setup.backgrounds}
        for row in rows:
            if isinstance(row, Skipped):
                continue
            unknown = {row.predicted, row.runner_up} - known | {row.background} - scenes
            if unknown or (row.predicted, row.runner_up) not in setup.differences:
                raise OutputError(
                    f"{file}: its rows do not belong to this audit ({row.image}: {row.predicted}, not {row.runner_up})."
                )
        batches = files_in(folder / "batches", ".safetensors")
        return cls(setup, folder, rows, batches, Provenance.load(folder))

    @cached_property
    def good(self) -> list[AuditRow]:
        """The rows of images that could be used."""
        return [row for row in self.rows if isinstance(row, AuditRow)]

    @cached_property
    def numbers(self) -> list[int]:
        """Of each good row, which of all rows it is."""
        return [number for number, row in enumerate(self.rows) if isinstance(row, AuditRow)]

    @property
    def problems(self) -> list[str]:
        """What was skipped, and why; a line each."""
        return [*self.setup.problems, *(f"{row.image}: {row.problem}" for row in self.rows if isinstance(row, Skipped))]

    @property
    def skipped(self) -> int:
        """How many images could not be used: with ``good``, all that the data set has."""
        return len(self.problems)

    @property
    def settings(self) -> dict[str, Any]:
        """What the rows depend on: options, digests of model, texts and images, versions; as in ``run.json``."""
        return read_settings(self.folder)

    @property
    def accuracy(self) -> float | None:
        """Of all images, 0 to 1; None of none."""
        return _mean(self.good, "correct")

    @property
    def errors(self) -> int:
        """How many images are predicted as another class than their label."""
        return sum(not row.correct for row in self.good)

    @property
    def swapped(self) -> int:
        """How many of the errors show the runner-up."""
        return sum(row.label == row.runner_up for row in self.good)

    @property
    def calibration(self) -> float | None:
        """Expected calibration error of all images, 0 to 1; None of none."""
        return _calibration(self.good)

    @cached_property
    def classes(self) -> list[ClassAudit]:
        """Those that an image shows or is predicted as, in the order of the data set; then those of the model alone."""
        shown, predicted = _grouped(self.good, "label"), _grouped(self.good, "predicted")
        strongest: dict[str, Effect] = {}
        for one in self.backgrounds():
            strongest.setdefault(one.name, one)
        return [
            ClassAudit(
                name=name,
                images=len(shown[name]),
                errors=sum(not row.correct for row in shown[name]),
                accuracy=_mean(shown[name], "correct"),
                calibration=_calibration(shown[name]),
                predicted=len(predicted[name]),
                means={figure: _mean(predicted[name], figure) for figure in FIGURES},
                off_object=self._off_object.get(name),
                judged=_known(predicted[name]) >= self.fewest,
                background=strongest.get(name),
            )
            for name in dict.fromkeys((*self.setup.classes, *self.setup.competing))
            if shown[name] or predicted[name]
        ]

    @cached_property
    def _off_object(self) -> dict[str, Interval]:
        """The share of the evidence off the object, for the classes of which it is known."""
        predicted = _grouped(self.good, "predicted")
        known = {name: [row.off_object for row in rows if row.off_object is not None] for name, rows in predicted.items()}
        names = dict.fromkeys((*self.setup.classes, *self.setup.competing))
        return {name: bounded_interval(known[name], self._error) for name in names if known.get(name)}

    @property
    def _error(self) -> float:
        """Of one interval, so that those of all classes hold at once."""
        return ERROR / max(1, len({row.predicted for row in self.good if row.off_object is not None}))

    @cached_property
    def fewest(self) -> int:
        """How many images, predicted as a class and with a known object, it takes before that class can be a suspect."""
        return fewest_images(ALARM, self._error)

    @property
    def suspects(self) -> list[ClassAudit]:
        """Classes whose evidence lies off the object: the first of those that are ranked."""
        return [one for one in self.ranked if one.suspect]

    @property
    def judged(self) -> list[ClassAudit]:
        """Classes of which there are enough images to say whether they are suspects."""
        return [one for one in self.ranked if one.judged]

    @cached_property
    def ranked(self) -> list[ClassAudit]:
        """Classes by the lower end of the interval of ``off_object``, the largest first; those for which it is known."""
        known = [(one.off_object.low, one) for one in self.classes if one.off_object]
        return [one for _, one in sorted(known, key=lambda pair: -pair[0])]

    def pairs(self, count: int | None = 8) -> list[Pair]:
        """The pairs that are most confused: by errors first, then by the mean probability of the runner-up.

        Args:
            count: how many at most; None: all.
        """
        return self._pairs[:count]

    def backgrounds(self) -> list[Effect]:
        """The mean effect of each background on each class that is predicted, the largest first."""
        return self._effects

    def drawings(self, positions: Sequence[int]) -> dict[int, Drawing]:
        """What thumbnails of some images are drawn from; those that a report shows are at hand.

        Args:
            positions: of their rows in ``good``.
        """
        others = [at for at in positions if at not in self._sums.drawings and at not in self._drawings]
        if others:
            self._drawings.update(read_drawings(self.batches, self._sums.starts, others))
        return {at: self._sums.drawings.get(at) or self._drawings[at] for at in positions}

    def tensors(self, kind: str) -> Iterator[tuple[AuditRow, Tensor]]:
        """Each good row with one of its tensors, see ``Examiner.examine``; a batch at a time.

        Raises:
            OutputError: a file of theirs cannot be read.
        """
        return read_kind(self.batches, self.good, kind)

    @cached_property
    def plainest(self) -> dict[str, int]:
        """Of each class the image, predicted as it and with a known object, that masking changes most: its row's position."""
        places = sorted(range(len(self.good)), key=self._change)
        return {self.good[at].predicted: at for at in places if self.good[at].off_object is not None}

    def _change(self, at: int) -> tuple[float, str]:
        """How much masking the evidence changes the decision; of images that are equal in this the name decides."""
        return self.good[at].rd5, self.good[at].image

    @cached_property
    def clearest(self) -> dict[tuple[str, str], int]:
        """Of each class and background the image which that background, of all, moves most: the position of its row."""
        found: dict[tuple[str, str], int] = {}
        for at, row in enumerate(self.good):
            if row.sensitivity is not None and row.sensitivity >= LEAST:
                before = self.good[found.setdefault((row.predicted, row.background), at)]
                if before.sensitivity is not None and row.sensitivity > before.sensitivity:
                    found[row.predicted, row.background] = at
        return found

    @cached_property
    def _of_pairs(self) -> list[tuple[tuple[str, str], tuple[int, int, float], list[int]]]:
        """The pairs, the most confused first; how much each is confused, and the positions of its images, the surest first."""
        grouped: dict[tuple[str, str], list[int]] = defaultdict(list)
        for at, row in enumerate(self.good):
            grouped[row.predicted, row.runner_up].append(at)
        found = []
        for pair, places in grouped.items():
            rows = [self.good[at] for at in places]
            wrong, swapped = sum(not row.correct for row in rows), sum(row.label == row.runner_up for row in rows)
            probability = sum(row.runner_up_probability for row in rows) / len(rows)
            by_probability = sorted(places, key=lambda at: self.good[at].runner_up_probability)
            found.append((pair, (wrong, swapped, probability), by_probability))
        return sorted(found, key=lambda one: one[1], reverse=True)

    @cached_property
    def _sums(self) -> Sums:
        """One pass over the disk, with what the thumbnails of a report are drawn from."""
        by_share = sorted(self._off_object, key=lambda name: -self._off_object[name].low)
        suspects = [self.plainest[name] for name in by_share if self._off_object[name].low > ALARM]
        wanted = {self.plainest[name] for name in by_share[:SHOWN]} | set(self.clearest.values())
        # That of all suspects which masking changes most comes first, whatever its share.
        wanted |= {max(suspects, key=lambda at: self.good[at].rd5)} if suspects else set()
        # The page of a pair shows the pair the other way round too.
        shown = {name for pair, _, _ in self._of_pairs[:SHOWN] for name in (pair, pair[::-1])}
        wanted |= {at for pair, _, p in self._of_pairs if pair in shown for at in (*spread(p), max(p, key=self._change))}
        return read_sums(self.batches, self.good, self.setup, wanted)

    @cached_property
    def _pairs(self) -> list[Pair]:
        found = []
        for pair, (errors, swapped, probability), places in self._of_pairs:
            sums, told = self._sums.by_pair[pair], self.setup.differences[pair]
            found.append(
                Pair(
                    first=pair[0],
                    second=pair[1],
                    images=len(places),
                    errors=errors,
                    swapped=swapped,
                    runner_up_probability=probability,
                    map=sums["aligned"] / len(places),
                    differences=told,
                    agreements=tuple((sums["agreements"] / len(places)).tolist()),
                    shared=sums["shared"] / len(places) if told else None,
                    best=self.good[places[0]].image,
                    worst=self.good[places[-1]].image,
                    shown=spread(places),
                    plainest=max(places, key=self._change),
                    off_object=_mean([self.good[at] for at in places], "off_object"),
                )
            )
        return found

    @cached_property
    def _effects(self) -> list[Effect]:
        if not self.setup.backgrounds:
            return []
        counts = Counter(row.predicted for row in self.good)
        found = [
            Effect(name=name, text=text, effect=float(total) / counts[name], chance=float(sums["chance"].max()) / counts[name])
            for name, sums in self._sums.by_class.items()
            for text, total in zip(self.setup.backgrounds, sums["effects"], strict=True)
        ]
        return sorted(found, key=lambda one: -one.effect)


def _known(rows: Sequence[AuditRow]) -> int:
    """Of how many rows the object is known."""
    return sum(row.off_object is not None for row in rows)


def _grouped(rows: Sequence[AuditRow], key: str) -> dict[str, list[AuditRow]]:
    found: dict[str, list[AuditRow]] = defaultdict(list)
    for row in rows:
        found[getattr(row, key)].append(row)
    return found


def _mean(rows: Sequence[AuditRow], key: str) -> float | None:
    values = [value for row in rows if (value := getattr(row, key)) is not None]
    return sum(values) / len(values) if values else None


def _calibration(rows: Sequence[AuditRow]) -> float | None:
    if not rows:
        return None
    confidence = torch.tensor([row.confidence for row in rows], dtype=torch.float64, device="cpu")
    return calibration_error(confidence, torch.tensor([row.correct for row in rows], dtype=torch.bool, device="cpu"))
