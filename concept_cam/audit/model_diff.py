"""Two models, or two checkpoints, on the same images: what changed its mind, and where the evidence moved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from concept_cam.audit.findings import Audit
from concept_cam.errors import OptionError
from concept_cam.metrics import rank_correlation
from concept_cam.runs import Row


@final
@dataclass(frozen=True)
class Shift:
    """One image under two models.

    Attributes:
        image, label: which.
        before, after: what each predicted.
        agreement: Spearman's correlation of the two maps of what decided, over the whole image, -1 to 1.
        off_object: the share off the object before and after, 0 to 1; None where it is not known of both.
    """

    image: str
    label: str
    before: str
    after: str
    agreement: float
    off_object: tuple[float, float] | None

    @property
    def growth(self) -> float:
        """By how much the share off the object grew, -1 to 1; 0 where it is not known."""
        return self.off_object[1] - self.off_object[0] if self.off_object else 0.0


def moves(before: Audit, after: Audit) -> list[Shift]:
    """Every image that both could use, in the order of the data set.

    Raises:
        OptionError: the two audits are not of the same images.
    """
    if list(map(_of, before.rows)) != list(map(_of, after.rows)):
        raise OptionError(f"{before.folder} and {after.folder} are not of the same images, so nothing can have moved.")
    both = set(map(_of, before.good)) & set(map(_of, after.good))
    ours, theirs = ((pair for pair in one.tensors("whole") if _of(pair[0]) in both) for one in (before, after))
    return [
        _move(row, other, float(rank_correlation(map_, moved)))
        for (row, map_), (other, moved) in zip(ours, theirs, strict=True)
    ]


def _of(row: Row) -> tuple[str, str]:
    """An image may have several labels."""
    return row["image"], row["label"]


def _move(ours: Row, theirs: Row, agreement: float) -> Shift:
    both = "off_object" in ours and "off_object" in theirs
    off = (float(ours["off_object"]), float(theirs["off_object"])) if both else None
    return Shift(ours["image"], ours["label"], ours["predicted"], theirs["predicted"], agreement, off)
