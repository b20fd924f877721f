"""Two models, or two checkpoints, on the same images: which predictions changed, and where the evidence moved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final
from weakref import WeakKeyDictionary

from concept_cam.audit.columns import AuditRow
from concept_cam.audit.findings import Audit
from concept_cam.errors import OptionError
from concept_cam.metrics import rank_correlation
from concept_cam.runs import Row


@final
@dataclass(frozen=True, kw_only=True)
class Shift:
    """One image under two models.

    Attributes:
        image, label: which.
        before, after: what each predicted.
        agreement: rank correlation of the two maps of the evidence, over the whole image, -1 to 1.
        off_object: the share off the object before and after, 0 to 1; None where it is not known of both.
        shown: the positions of its rows before and after.
    """

    image: str
    label: str
    before: str
    after: str
    agreement: float
    off_object: tuple[float, float] | None
    shown: tuple[int, int]

    @property
    def growth(self) -> float:
        """By how much the share off the object grew, -1 to 1; 0 where it is not known."""
        return self.off_object[1] - self.off_object[0] if self.off_object else 0.0


def moves(before: Audit, after: Audit) -> list[Shift]:
    """Every image that both could use, in the order of the data set; read from disk once for two audits.

    Args:
        before: the audit of one model.
        after: of the other.

    Raises:
        OptionError: the two audits are not of the same images.
    """
    kept = _KEPT.setdefault(before, WeakKeyDictionary())
    if after not in kept:
        kept[after] = _moves(before, after)
    return kept[after]


_KEPT: WeakKeyDictionary[Audit, WeakKeyDictionary[Audit, list[Shift]]] = WeakKeyDictionary()


def _moves(before: Audit, after: Audit) -> list[Shift]:
    if list(map(_of, before.rows)) != list(map(_of, after.rows)):
        raise OptionError(
            f"{before.folder} and {after.folder} are audits of different images; run both on one data set to compare them."
        )
    both = set(map(_of, before.good)) & set(map(_of, after.good))
    ours, theirs = ((pair for pair in one.tensors("whole") if _of(pair[0]) in both) for one in (before, after))
    places = ([at for at, row in enumerate(one.good) if _of(row) in both] for one in (before, after))
    return [
        _move(row, other, float(rank_correlation(map_, moved)), shown)
        for (row, map_), (other, moved), shown in zip(ours, theirs, zip(*places, strict=True), strict=True)
    ]


def _of(row: Row) -> tuple[str, str]:
    """An image may have several labels."""
    return row.image, row.label


def _move(ours: AuditRow, theirs: AuditRow, agreement: float, shown: tuple[int, int]) -> Shift:
    known = ours.off_object is not None and theirs.off_object is not None
    return Shift(
        image=ours.image,
        label=ours.label,
        before=ours.predicted,
        after=theirs.predicted,
        agreement=agreement,
        off_object=(ours.off_object or 0.0, theirs.off_object or 0.0) if known else None,
        shown=shown,
    )
