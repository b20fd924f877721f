"""RESULT: an Exploration is all that is asked of one image from one forward pass: a result, a sweep, each reference alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

from PIL import Image

from concept_cam.comparison import Comparison, check_strength
from concept_cam.result import Localization

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""The strengths of a sweep, unless others are asked for."""


@final
@dataclass(frozen=True, eq=False)
class Exploration:
    """What one image shows of a target, from one decode and one forward pass.

    Attributes:
        image: as it was read: upright, in RGB; None where a tensor was given.
        result: the target against its references.
        sweep: the same at several strengths, in the order asked for.
        by_reference: the target against each of its references alone.
    """

    image: Image.Image | None
    result: Localization
    sweep: tuple[Localization, ...]
    by_reference: tuple[Localization, ...]


@final
@dataclass(frozen=True)
class Plan:
    """Which comparisons an exploration makes of one.

    Attributes:
        strength: of the result.
        strengths: of the sweep; none leaves it out.
        each: the strength against each reference alone; None leaves that out.
        bare: whether a result at strength 0 names no references, as none were asked for.

    Raises:
        ComparisonError: a strength is negative or not finite.
    """

    strength: float
    strengths: tuple[float, ...]
    each: float | None
    bare: bool = False

    def __post_init__(self) -> None:
        for strength in (self.strength, *self.strengths, *(() if self.each is None else (self.each,))):
            check_strength(strength)

    @property
    def varies(self) -> bool:
        """Whether more is asked for than the result."""
        return bool(self.strengths) or self.each is not None

    @property
    def strongest(self) -> float:
        """The largest of all strengths."""
        return max(self.strength, *self.strengths, self.each or 0.0)

    def comparisons(self, comparison: Comparison) -> list[Comparison]:
        """The result's, then those of the sweep, then one for each reference."""
        (own,) = comparison.at_each([self.strength])
        if self.bare and self.strength == 0:
            own = replace(own, references=(), weights=(), similarities=())
        alone = [] if self.each is None else comparison.at_each([self.each])
        each = [one for same in alone if same.references for one in same.with_each()]
        return [own, *comparison.at_each(self.strengths), *each]

    def exploration(self, image: Image.Image | None, results: Sequence[Localization]) -> Exploration:
        """Of the results of ``comparisons``, in their order."""
        split = 1 + len(self.strengths)
        return Exploration(image, results[0], tuple(results[1:split]), tuple(results[split:]))
