"""What answers a visitor: one localizer for each method, all with the same model and the same embedded texts."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import final

from PIL import Image

from concept_cam.concepts import ConceptBank
from concept_cam.demo.limits import LETTERS, REFERENCES
from concept_cam.errors import ComparisonError, OptionError
from concept_cam.explorer import has_field
from concept_cam.field import ConceptField
from concept_cam.localizer import Localizer
from concept_cam.methods import CARDS, AnyMethod, as_method, name_of, sees_score, usual_method
from concept_cam.result import Localization
from concept_cam.selectors import Named, Selector, nearest


@final
@dataclass(frozen=True)
class Wanted:
    """A comparison as a visitor asks for it; what no comparison can be is refused.

    Attributes:
        target: the concept to look for.
        references: what it is compared with; none is the three nearest of the vocabulary.
        strength: of the references.

    Raises:
        OptionError: a text is too long, or there are too many references.
        ComparisonError: there is no target.
    """

    target: str
    references: tuple[str, ...]
    strength: float

    def __post_init__(self) -> None:
        if not self.target:
            raise ComparisonError("There is no target; name the concept to look for.")
        if len(self.references) > REFERENCES:
            raise OptionError(f"There are {len(self.references)} references; give {REFERENCES} or fewer.")
        if any(len(name) > LETTERS for name in (self.target, *self.references)):
            raise OptionError(f"A target or reference has more than {LETTERS} letters; make it shorter.")

    @classmethod
    def of(cls, target: object, references: object, strength: object) -> Wanted:
        """From what a browser or a script sends.

        Args:
            target: a text, or nothing.
            references: a list of texts, or nothing.
            strength: a number.

        Raises:
            OptionError: it is something else.
        """
        names = [] if references is None else references
        if not isinstance(target, str | None) or not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise OptionError("The target is a text and the references are a list of texts; something else was given.")
        if isinstance(strength, bool) or not isinstance(strength, int | float):
            raise OptionError(f"strength is {strength!r}; expected a number.")
        stripped = dict.fromkeys(name.strip() for name in names)
        return cls((target or "").strip(), tuple(name for name in stripped if name), float(strength))


@final
class Explainer:
    """Answers about images, from the field of a linear method where that is at hand.

    Args:
        localizer: model, vocabulary, templates and the method to begin with.
    """

    def __init__(self, localizer: Localizer) -> None:
        self._own = localizer
        self.vocabulary = localizer.vocabulary
        first = localizer.method
        self.first = name_of(first).strip("_")
        self._methods: dict[str, AnyMethod] = {self.first: first}
        # Perturbation takes hundreds of passes for one map.
        some = {name: card for name, card in CARDS.items() if card.compares != "no" and card.kind != "perturbation"}
        self._methods |= {name: card.method for name, card in some.items() if name != self.first}
        self.live = tuple(name for name, method in self._methods.items() if has_field(method))

    @property
    def methods(self) -> tuple[str, ...]:
        """The names of the methods, those first that follow at once."""
        return (*self.live, *(name for name in self._methods if name not in self.live))

    def localizer(self, method: str) -> Localizer:
        """The localizer of a method.

        Raises:
            OptionError: there is no such method.
        """
        if method not in self._methods:
            raise OptionError(f"There is no method {str(method)[:LETTERS]!r} here; expected one of {', '.join(self.methods)}.")
        if method == self.first:
            return self._own
        other = copy(self._own)
        other.method = self._methods[method]
        return other

    def look(self, image: Image.Image, method: str) -> tuple[ConceptField, str]:
        """The field of an image, and the method that it is of: this one if it is linear, else the usual one.

        Raises:
            NoSpatialGradient, BackboneError, OptionError: the method does not work with this model, or there is none such.
        """
        used = method if method in self.live else self.first if self.first in self.live else None
        localizer = self.localizer(method) if used is None else self.localizer(used)
        if used is None:
            localizer, used = copy(localizer), name_of(usual_method(self._own.backbone, False))
            localizer.method = as_method(used)
        (field,) = localizer.fields([image])
        return field, used

    def bank(self, wanted: Wanted | None = None) -> ConceptBank:
        """The vocabulary, and the names of a comparison after it.

        Raises:
            UnknownConcept: the encoder does not know a word, or the classifier no such class.
        """
        names = () if wanted is None else (wanted.target, *wanted.references)
        return self._own.bank_around([name for name in dict.fromkeys(names) if name not in self._own.kept.names])

    def from_field(self, field: ConceptField, bank: ConceptBank, wanted: Wanted) -> Localization:
        """The answer without a forward pass.

        Args:
            field: of the image.
            bank: of the comparison.
            wanted: the comparison.

        Raises:
            ComparisonError, UnknownConcept, NoSpatialGradient, BackboneError: see ``ConceptField.localize``.
        """
        against, strength = self._against(wanted)
        return field.localize(bank, wanted.target, against, strength=strength)

    def from_image(self, image: Image.Image, method: str, wanted: Wanted) -> Localization:
        """The answer of any method, from a forward pass.

        Args:
            image: upright.
            method: its name.
            wanted: the comparison.

        Raises:
            OptionError: there is no such method.
            ComparisonError, UnknownConcept, NoSpatialGradient, BackboneError: see ``Localizer.batch``.
        """
        localizer = self.localizer(method)
        if not sees_score(localizer.method):
            return localizer(image, wanted.target, strength=0)
        against, strength = self._against(wanted)
        return localizer(image, wanted.target, against, strength=strength)

    def first_two(self, field: ConceptField) -> tuple[str, ...]:
        """The predicted name of the vocabulary, and the runner-up; none where there are fewer."""
        if not self.vocabulary:
            return ()
        scores = self.bank().select(self.vocabulary).scores(field.embedding[None])[0]
        return tuple(self.vocabulary[k] for k in scores.argsort(descending=True).tolist()[:2])

    def rivals(self, field: ConceptField, target: str, count: int) -> list[str]:
        """The names of the vocabulary that score highest on an image, without the target.

        Args:
            field: of the image.
            target: a name.
            count: how many.
        """
        bank = self.bank(Wanted(target, (), 0.0))
        return list(bank.ranked(bank.scores(field.embedding[None])[0], target, count))

    def suggested(self, target: str, count: int) -> list[str]:
        """The names of the vocabulary, those first that are most similar to the target.

        Raises:
            UnknownConcept: the encoder does not know a word of the target.
        """
        if not self.vocabulary or not target:
            return list(self.vocabulary[:count])
        return list(self.bank(Wanted(target, (), 0.0)).neighbours(target, count))

    def _against(self, wanted: Wanted) -> tuple[Selector | None, float]:
        """Without references and a vocabulary there is the base map alone."""
        if wanted.references:
            return Named(wanted.references), wanted.strength
        others = len(self._own.kept.names - {wanted.target})
        return (nearest(min(3, others)), wanted.strength) if others else (None, 0.0)
