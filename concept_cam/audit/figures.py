"""What an audit says of a class, of a pair of classes, and of a background; and when that is enough for an alarm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from concept_cam.audit.words import Difference
from concept_cam.metrics import Interval

ALARM = 0.3
"""The share of a class's evidence off its object above which it is a suspect."""

LEAST = 0.01
"""The effect of a background below which it is not worth a look."""

ERROR = 0.05
"""The probability that any class is a suspect by chance, or any interval misses: of all classes of an audit together."""

SHOWN = 12
"""How many classes, pairs and backgrounds have thumbnails in a report."""

OF_PAIR = 6
"""How many images of a pair its page shows."""


@final
@dataclass(frozen=True)
class Effect:
    """What a background does to a class.

    Attributes:
        name: of the class.
        text: of the background.
        effect: how far the probability of the class falls when the background is erased from the embeddings of the images
            that are predicted as it: their mean, -1 to 1.
        chance: the largest such effect of random directions in the place of the background.
    """

    name: str
    text: str
    effect: float
    chance: float

    @property
    def moves(self) -> bool:
        """Whether the effect is worth a look, and more than chance."""
        return self.effect >= LEAST and self.effect > self.chance


@final
@dataclass(frozen=True, kw_only=True)
class ClassAudit:
    """One class; shares from 0 to 1.

    Attributes:
        name: of the class.
        images: with that label.
        errors: of those, predicted as another class.
        accuracy: of those.
        calibration: expected calibration error of those.
        predicted: images predicted as this class, whatever their label; what follows is of those.
        means: of each figure of a row; None where it is not known of any. See ``AuditRow``.
        off_object: mean share of the evidence more than a patch off the object, with its interval from ``bounded_interval``;
            with a probability of 95 % those of all classes hold at once.
        judged: whether there are enough images for an alarm; with fewer, the interval always reaches below ``ALARM``.
        background: the one whose erasure takes most off its probability; None without backgrounds.
    """

    name: str
    images: int
    errors: int
    accuracy: float | None
    calibration: float | None
    predicted: int
    means: Mapping[str, float | None]
    off_object: Interval | None
    judged: bool
    background: Effect | None

    @property
    def suspect(self) -> bool:
        """Whether all of the interval of ``off_object`` is above ``ALARM``."""
        return self.off_object is not None and self.off_object.low > ALARM


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Pair:
    """A predicted class and its runner-up.

    Attributes:
        first: predicted as this.
        second: with this as the runner-up.
        images: so many.
        errors: of which so many show another class than the first; over all pairs, all errors.
        swapped: of the errors, so many show the second.
        runner_up_probability: the mean probability of the second, 0 to 1.
        map: the mean of the evidence, in the frames of the objects.
        differences: in words, those with the largest weights; ``described`` are those that mean something.
        agreements: for each of those, the mean rank correlation of its map with the evidence, -1 to 1.
        shared: where the map of the first agrees with the evidence, in the frames of the objects, -1 to 1; None
            without words.
        best, worst: names of the images on which the runner-up is least and most likely.
        shown: the positions of the rows of some of its images, from the one to the other.
        plainest: the position of the row of the image on which masking the evidence changes the decision most.
        off_object: the mean share of the evidence off the object, 0 to 1; None where it is not known.
    """

    first: str
    second: str
    images: int
    errors: int
    swapped: int
    runner_up_probability: float
    map: Float[Tensor, "side side"]
    differences: tuple[Difference, ...]
    agreements: tuple[float, ...]
    shared: Float[Tensor, "side side"] | None
    best: str
    worst: str
    shown: tuple[int, ...]
    plainest: int
    off_object: float | None = None

    @property
    def described(self) -> list[tuple[Difference, float]]:
        """The differences that explain the texts and the maps, with their agreements."""
        return [(one, x) for one, x in zip(self.differences, self.agreements, strict=True) if one.describes(x)]


def counted(count: int, noun: str) -> str:
    """``1 class``, ``2 classes``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}{'es' if noun.endswith('s') else 's'}"


def spread(places: Sequence[int]) -> tuple[int, ...]:
    """The first and the last, and some between them at equal distances: ``OF_PAIR`` at most."""
    last = min(len(places), OF_PAIR) - 1
    return tuple(places[round(k * (len(places) - 1) / max(1, last))] for k in range(last + 1))
