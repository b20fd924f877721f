"""What is asked of some images: a target for each, and with what it is compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias, final

import torch
from jaxtyping import Float
from torch import Tensor

from concept_cam.comparison import Comparison, check_for_all, compare
from concept_cam.concepts import ConceptBank
from concept_cam.errors import ConceptCamError, OptionError
from concept_cam.methods import AnyMethod, name_of, sees_score
from concept_cam.passes import Pass
from concept_cam.result import Localization
from concept_cam.selectors import Named, Selector, as_selector, nearest, sees_scores
from concept_cam.targets import References, Targets, as_references, for_each
from concept_cam.weightings import Weighting

Variants: TypeAlias = Callable[[Comparison], list[Comparison]]
"""A function that replaces a comparison by several, such as one for each strength."""


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
        own: the vocabulary as a set.
        variants: of each comparison; by default it is asked as it is.
    """

    targets: tuple[str | None, ...]
    choices: tuple[str, ...]
    vocabulary: tuple[str, ...]
    selector: Selector | None
    strength: float
    weighting: Weighting | None
    own: frozenset[str]
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
        own: frozenset[str] | None = None,
    ) -> Question:
        """A question about no image yet; see ``about``.

        By default the references are the three nearest of the vocabulary; variants are always those of a comparison.

        Args:
            method: makes the maps.
            choices: as in the attributes, and so are vocabulary, strength, weighting and variants.
            vocabulary: those among which references are chosen.
            against: names, numbers or a selector of references.
            strength: 0 is the base method.
            weighting: of the references.
            variants: of each comparison.
            own: the vocabulary as a set, where that is at hand.

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
        own = frozenset(vocabulary) if own is None else own
        return cls((), choices, vocabulary, selector, strength, weighting, own, variants)

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
    def others(self) -> tuple[str, ...]:
        """All that a bank has to hold after the vocabulary."""
        choices = self.choices if None in self.targets and self.choices is not self.vocabulary else ()
        targets = (target for target in self.targets if target is not None)
        return tuple(dict.fromkeys(name for name in (*choices, *targets, *self._named) if name not in self.own))

    def answers(
        self, seen: Pass, method: AnyMethod, bank: ConceptBank, provenance: Mapping[str, Any], on_device: bool = False
    ) -> list[list[Localization] | ConceptCamError]:
        """For each image of a pass a result for each variant of its comparison, or what is wrong with its maps.

        Args:
            seen: of the images that the question is about, or of some of them.
            method: makes the maps.
            bank: of the vocabulary and ``others``.
            provenance: kept with each result.
            on_device: leave maps where the model is, in its precision.

        Raises:
            ComparisonError, UnknownConcept: see ``compare``.
        """
        # Where scores choose nothing, they are those of the concepts alone that are compared.
        chosen = None in self.targets or sees_scores(self.selector)
        scores = seen.scores(bank) if chosen else [None] * len(seen.which)
        pairs = zip(seen.embedding, scores, seen.which, strict=True)
        asked, known = zip(*(self._compared(bank, *of_one) for of_one in pairs), strict=True)
        most = max(map(len, asked))
        base = bank.vectors_of([of_one[0].target for of_one in asked])[None]
        # As many for each image: where references are fewer, the last comparison stands again.
        filled = [of_one + of_one[-1:] * (most - len(of_one)) for of_one in asked]
        contrastive = torch.stack([torch.stack([one.direction(bank) for one in of_one]) for of_one in filled], 1)
        maps = seen.maps(method, torch.cat([base, contrastive]))
        maps = maps if on_device else maps.single()
        found: list[list[Localization] | ConceptCamError] = []
        for image, of_one in enumerate(asked):
            results = []
            for number, one in enumerate(of_one, 1):
                about = {name: known[image][name] for name in one.names}
                results.append(Localization(maps.of(number, image), maps.of(0, image), one, about, provenance))
            found.append(maps.error(image) or results)
        return found

    def _compared(
        self, bank: ConceptBank, embedding: Float[Tensor, " E"], scores: Float[Tensor, " K"] | None, image: int
    ) -> tuple[list[Comparison], dict[str, float]]:
        """The comparisons of one image, and how the concepts in them score."""
        target, selector = self.targets[image], self.selector
        if target is None:
            assert scores is not None
            target = self.choices[int(self._of_choices(bank, scores).argmax())]
        own = self._bank_of(target, bank)
        if scores is None:
            unknown = own.vectors.new_zeros(len(own.names))
            references = selector(own, target, unknown) if selector else ()
            scores, selector, known = unknown, selector and Named(references), own.select((target, *references))
            scores[[own.index(name) for name in known.names]] = known.scores(embedding[None])[0]
        elif own is not bank:
            scores = scores[[bank.index(name) for name in own.names]]
        comparison = compare(own, target, selector, scores, self.strength, self.weighting)
        found = {name: float(scores[own.index(name)]) for name in comparison.names}
        return [comparison] if self.variants is None else self.variants(comparison), found

    def check(self, bank: ConceptBank) -> None:
        """Raise what is wrong with the question for any image.

        Args:
            bank: of the vocabulary and ``others``.

        Raises:
            ComparisonError, UnknownConcept: see ``compare``.
        """
        for target in filter(None, dict.fromkeys(self.targets)):
            check_for_all(self._bank_of(target, bank), target, self.selector, self.strength)

    def _bank_of(self, target: str, bank: ConceptBank) -> ConceptBank:
        """An image is compared as it would be alone, whatever the targets of the others are."""
        extra = dict.fromkeys(name for name in (target, *self._named) if name not in self.own)
        alone = len(self.own) + len(extra) == len(bank.names)
        return bank if alone else bank.select((*self.vocabulary, *extra))

    @property
    def _named(self) -> tuple[str, ...]:
        return self.selector.names if isinstance(self.selector, Named) else ()

    def _of_choices(self, bank: ConceptBank, scores: Float[Tensor, " K"]) -> Float[Tensor, " choices"]:
        """The scores of the choices, which as a rule come first in the bank."""
        if self.choices is self.vocabulary:
            return scores[: len(self.choices)]
        return scores[[bank.index(name) for name in self.choices]]
