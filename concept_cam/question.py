"""What is asked of some images: a target for each, and with what it is compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias, final

from jaxtyping import Float
from torch import Tensor

from concept_cam.comparison import Comparison, Named, Selector, as_selector, check_for_all, compare, nearest
from concept_cam.concepts import ConceptBank
from concept_cam.errors import OptionError
from concept_cam.methods import AnyMethod, name_of, sees_score
from concept_cam.targets import References, Targets, as_references, for_each
from concept_cam.weightings import Weighting

Variants: TypeAlias = Callable[[Comparison], list[Comparison]]
"""What is made of a comparison: several that are asked in its place."""


@final
@dataclass(frozen=True)
class Question:
    """What is asked of some images.

    Attributes:
        targets: a name for each image; None for the class that the model predicts.
        choices: those among which it predicts, and in which numbers count: the classes of a classifier, or the vocabulary.
        vocabulary: those among which references are chosen.
        selector: of references, as in ``compare``, and so are strength and weighting.
        strength: 0 is the base method.
        weighting: of the references.
        variants: of each comparison; by default it is asked as it is.
    """

    targets: tuple[str | None, ...]
    choices: tuple[str, ...]
    vocabulary: tuple[str, ...]
    selector: Selector | None
    strength: float
    weighting: Weighting | None = None
    variants: Variants | None = None

    @classmethod
    def of(
        cls,
        method: AnyMethod,
        choices: tuple[str, ...],
        vocabulary: tuple[str, ...],
        against: References,
        strength: float,
        weighting: Weighting | None = None,
        variants: Variants | None = None,
    ) -> Question:
        """A question about no image yet; see ``about``.

        By default the references are the three nearest of the vocabulary; variants are always those of a comparison.

        Raises:
            OptionError: the references are none, or the method does not look at the score.
        """
        selector = as_selector(as_references(against, choices))
        if not sees_score(method):
            if selector is not None or variants is not None:
                name = name_of(method)
                raise OptionError(f"{name} does not look at the score, so it cannot compare; remove the references.")
            strength = 0.0
        elif selector is None and vocabulary and (strength > 0 or variants is not None):
            selector = nearest(3)
        return cls((), choices, vocabulary, selector, strength, weighting, variants)

    def about(self, wanted: Targets, count: int) -> Question:
        """The same of so many images, with one target for all or one for each, as ``for_each`` knows them.

        Raises:
            OptionError: one is no target, there are more or fewer than images, or there is nothing to predict one from.
        """
        targets = for_each(wanted, count, self.choices)
        if None in targets and not self.choices:
            raise OptionError(
                "No target, and no vocabulary to predict it from; give a target, or a vocabulary of names to predict among."
            )
        return replace(self, targets=tuple(targets))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All that a bank has to hold."""
        choices = self.choices if None in self.targets else ()
        targets = (target for target in self.targets if target is not None)
        return tuple(dict.fromkeys((*self.vocabulary, *choices, *targets, *self._named)))

    def comparisons(self, bank: ConceptBank, scores: Float[Tensor, " K"], image: int) -> list[Comparison]:
        """Those of one image.

        Args:
            bank: of ``names``.
            scores: of the image and the concepts of the bank.
            image: its number.

        Raises:
            ComparisonError, UnknownConcept: see ``compare``.
        """
        target = self.targets[image]
        if target is None:
            rows = [bank.index(name) for name in self.choices]
            target = self.choices[int(scores[rows].argmax())]
        own = self._bank_of(target, bank)
        if own is not bank:
            scores = scores[[bank.index(name) for name in own.names]]
        comparison = compare(own, target, self.selector, scores, self.strength, self.weighting)
        return [comparison] if self.variants is None else self.variants(comparison)

    def check(self, bank: ConceptBank) -> None:
        """Raise what is wrong with the question for any image.

        Args:
            bank: of ``names``.

        Raises:
            ComparisonError, UnknownConcept: see ``compare``.
        """
        for target in filter(None, dict.fromkeys(self.targets)):
            check_for_all(self._bank_of(target, bank), target, self.selector, self.strength)

    def _bank_of(self, target: str, bank: ConceptBank) -> ConceptBank:
        """An image is compared as it would be alone, whatever the targets of the others are."""
        extra = dict.fromkeys(name for name in (target, *self._named) if name not in self._own)
        alone = len(self._own) + len(extra) == len(bank.names)
        return bank if alone else bank.select((*self.vocabulary, *extra))

    @property
    def _named(self) -> tuple[str, ...]:
        return self.selector.names if isinstance(self.selector, Named) else ()

    @cached_property
    def _own(self) -> frozenset[str]:
        return frozenset(self.vocabulary)
