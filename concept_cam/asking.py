"""A question put to images: one, several at once, or a stream of them, from one decode and one forward pass of each."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeAlias, TypeVar, final, runtime_checkable

from PIL import Image
from torch import Tensor

from concept_cam.backbones.backbone import Backbone
from concept_cam.concepts import ConceptBank
from concept_cam.errors import ConceptCamError
from concept_cam.exploration import Exploration, Plan
from concept_cam.images import Frame
from concept_cam.kept import Kept
from concept_cam.methods import Method
from concept_cam.passes import Pass, each_frame
from concept_cam.prefetch import one_by_one, tell, together
from concept_cam.question import Question, Variants
from concept_cam.result import Localization
from concept_cam.targets import References, Targets, in_step, is_one
from concept_cam.tensors import Given, Read, Several, as_images
from concept_cam.weightings import Weighting

R = TypeVar("R")
S = TypeVar("S", bound=Given)

_Batch: TypeAlias = Sequence[tuple[tuple[Given, str | None], Read]]


@runtime_checkable
class Asked(Protocol):
    """What is needed to answer a question; ``Localizer`` has it."""

    backbone: Backbone
    kept: Kept
    on_device: bool

    @property
    def method(self) -> Method:
        """What makes the maps."""

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The concepts among which references are chosen."""

    def read(self, image: Given) -> Read:
        """The frame of an image, and the image."""

    def passes(self, frames: Sequence[Frame]) -> Iterator[Pass]:
        """One forward pass for each input size."""

    def provenance(self, seen: Pass) -> dict[str, object]:
        """What is kept with each result."""

    def bank_around(self, others: Sequence[str]) -> ConceptBank:
        """The bank of the vocabulary and of other concepts after it."""


@final
@dataclass(frozen=True)
class Asking(Generic[R]):
    """A question with the localizer that answers it, and the function that makes the results.

    Attributes:
        asked: the localizer.
        question: references, strength and weighting, without targets yet.
        make: called with an image and the localizations of all variants of its comparison; returns the result.
        keep: whether ``make`` gets the decoded image; by default it is released once it is a frame.
    """

    asked: Asked
    question: Question
    make: Callable[[Image.Image | None, Sequence[Localization]], R]
    keep: bool = False

    def one(self, image: Given, target: Targets) -> R:
        """The result for one image."""
        return self.batch([image], target)[0]

    def batch(self, images: Several, target: Targets) -> list[R]:
        """The results for several images, by one forward pass per input size; an error names the first image that fails."""
        given = as_images(images)
        about = self.question.about(target, len(given))
        items = list(zip(zip(given, about.targets, strict=True), map(self._read, given), strict=True))
        return together(self._look, items, lambda: self._check(about))

    def stream(
        self,
        images: Iterable[S],
        target: Targets,
        batch_size: int,
        workers: int,
        on_error: Callable[[S, ConceptCamError], None] | None,
    ) -> Generator[tuple[S, R], None, None]:
        """Answer for many images, in the order given; see ``Localizer.stream``.

        Args:
            images: paths, PIL images or tensors.
            target: one for all, or one for each image.
            batch_size: how many go through the model at once.
            workers: threads that read and prepare images.
            on_error: called with an image that fails, and why.
        """
        pairs = in_step(images, target, self.question.choices)
        if is_one(target):
            self._check(self.question.about(target, 1))

        def read(pair: tuple[S, str | None]) -> Read:
            return self._read(pair[0])

        def fail(pair: tuple[S, str | None], error: ConceptCamError) -> None:
            tell(pair[0], error, on_error)

        with closing(one_by_one(pairs, read, self._look, batch_size, workers, fail)) as found:
            yield from ((image, result) for (image, _), result in found)

    def _read(self, image: Given) -> Read:
        frame, read = self.asked.read(image)
        return frame, read if self.keep else None

    def _check(self, question: Question) -> None:
        """Raise what is wrong with a question whatever the image: a word, a reference."""
        with self.asked.backbone.evaluating():
            question.check(self.asked.bank_around(question.others))

    def _look(self, batch: _Batch) -> list[R | ConceptCamError]:
        question = self.question.about([target for (_, target), _ in batch], len(batch))
        found = self._localize([frame for _, (frame, _) in batch], question)
        return [
            results if isinstance(results, ConceptCamError) else self.make(read, _of_image(given, results))
            for ((given, _), (_, read)), results in zip(batch, found, strict=True)
        ]

    def _localize(self, frames: Sequence[Frame], question: Question) -> list[list[Localization] | ConceptCamError]:
        """For each image a result for each variant of its comparison, or what is wrong with its maps."""
        asked = self.asked
        # One look at the model for the texts and the passes.
        with asked.backbone.evaluating():
            bank = asked.bank_around(question.others)

            def of_pass(seen: Pass) -> list[list[Localization] | ConceptCamError]:
                return question.answers(seen, asked.method, bank, asked.provenance(seen), asked.on_device)

            return each_frame(asked.passes(frames), of_pass)


def _of_image(given: Given, found: Sequence[Localization]) -> list[Localization]:
    """The results with the image that they are of, unless it is a tensor."""
    return [one if isinstance(given, Tensor) else replace(one, image=given) for one in found]


def results(asked: Asked, against: References, strength: float, weighting: Weighting | None) -> Asking[Localization]:
    """Asks for the result of one comparison on each image.

    Args:
        asked: answers.
        against: names, numbers or a selector of references.
        strength: 0 is the base method.
        weighting: of the references.

    Raises:
        OptionError: the references are none, or the method does not look at the score.
    """
    return Asking(asked, _question(asked, against, strength, weighting, None), lambda _, found: found[0])


def variations(
    asked: Asked, against: References, strength: float, weighting: Weighting | None, variants: Variants
) -> Asking[list[Localization]]:
    """Asks for the results of several variants of one comparison on each image.

    Args:
        asked: the localizer.
        against: names, numbers or a selector of references.
        strength: the largest of the variants.
        weighting: of the references.
        variants: one or more, in the place of the comparison.

    Raises:
        OptionError: the references are none, or the method does not look at the score.
    """
    return Asking(asked, _question(asked, against, strength, weighting, variants), lambda _, found: list(found))


def explorations(asked: Asked, against: References, weighting: Weighting | None, plan: Plan) -> Asking[Exploration]:
    """Asks for all the comparisons of a plan on each image.

    Args:
        asked: answers.
        against: names, numbers or a selector of references.
        weighting: of the references.
        plan: which comparisons.

    Raises:
        OptionError: the references are none, or the method does not look at the score.
    """
    variants = plan.comparisons if plan.varies else None
    question = _question(asked, against, plan.strongest, weighting, variants)
    return Asking(asked, question, plan.exploration, keep=True)


def _question(
    asked: Asked, against: References, strength: float, weighting: Weighting | None, variants: Variants | None
) -> Question:
    choices = asked.backbone.classes or asked.vocabulary
    return Question.of(asked.method, choices, asked.vocabulary, against, strength, weighting, variants, own=asked.kept.names)
