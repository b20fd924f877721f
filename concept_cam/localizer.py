"""The whole flow in one call: text and image in, Localization out. No maths here."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import TypeAlias, TypeVar, final

import torch

from concept_cam.backbones.backbone import Backbone
from concept_cam.backbones.transforms import preprocess_for
from concept_cam.comparison import Comparison
from concept_cam.concepts import ConceptBank, embed
from concept_cam.errors import ConceptCamError
from concept_cam.field import ConceptField
from concept_cam.gradients import Form, Trace, trace
from concept_cam.images import Fit, Frame, Size, by_size, read_image
from concept_cam.kept import Kept
from concept_cam.methods import AnyMethod, as_method, explain, hires_cam
from concept_cam.options import templates_of, vocabulary_of
from concept_cam.prefetch import one_by_one, tell, together
from concept_cam.provenance import provenance_of
from concept_cam.question import Question, Variants
from concept_cam.result import Localization, checked_maps
from concept_cam.targets import Names, References, Targets, in_step, is_one
from concept_cam.tensors import Given, Several, as_file, as_images, frame_of
from concept_cam.weightings import Weighting

S = TypeVar("S", bound=Given)
_Batch: TypeAlias = Sequence[tuple[tuple[Given, str | None], Frame]]

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Those that a sweep goes through."""


@final
class Localizer:
    """Finds where an image shows the target and not the concepts it is confused with.

    Args:
        backbone: from ``load`` or ``wrap``.
        vocabulary: concepts among which ``nearest`` and ``rivals`` choose, or the name of a file in ``prompts/vocabularies/``;
            by default those that the model was made for, if it is a classifier.
        templates: sentences with a ``{}``, or the name of a file in ``prompts/templates/``: ``photo``. Not of a classifier.
        method: makes the map; any of ``concept_cam.methods``, by itself or by its name, or a function of your own.
        site: the name of one of ``backbone.sites``; the first by default.
        form: of the gradient; closed form where it exists and is exact.
        fit: ``crop``, ``pad``, ``squash`` or ``native``, see ``Preprocess``; by default as the model was trained.
        size: (height, width) of the model's input, or the side of a square; a larger one gives a finer map. At native aspect
            it says how many patches there are at most. By default the model's own.
        on_device: leave maps where the model is, in its precision; by default they come to the CPU, in float32.

    Raises:
        OptionError: no such fit or method, or templates for a classifier.
        UnknownConcept: a classifier has no such class as one of the vocabulary.
        BackboneError: no such site, or a size that the model cannot take.

    Example:
        >>> from concept_cam import world
        >>> localizer = world.localizer()
        >>> plate = world.draw_species("ember finch", seed=3)
        >>> result = localizer(plate.image, "ember finch", against="frost finch")
        >>> result.comparison.references
        ('frost finch',)
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        vocabulary: Names = (),
        templates: str | Sequence[str] | None = None,
        method: AnyMethod = hires_cam,
        site: str | None = None,
        form: Form = "auto",
        fit: Fit | None = None,
        size: int | Size | None = None,
        on_device: bool = False,
    ) -> None:
        self.backbone, self.method, self.form = backbone, as_method(method), form
        self.site = backbone.site(site).name
        self.preprocess = preprocess_for(backbone, fit, size)
        self.vocabulary = vocabulary_of(vocabulary, backbone)
        self.templates = templates_of(templates, backbone)
        self.on_device = on_device
        self._told = tuple(key for key, value in (("fit", fit), ("size", size)) if value is not None)
        self._kept = Kept(self.vocabulary)

    def __call__(
        self,
        image: Given,
        target: Targets = None,
        against: References = None,
        *,
        strength: float = 0.6,
        weighting: Weighting | None = None,
    ) -> Localization:
        """Localize in one image; see ``batch``."""
        return self.batch([image], target, against, strength=strength, weighting=weighting)[0]

    def batch(
        self,
        images: Several,
        target: Targets = None,
        against: References = None,
        *,
        strength: float = 0.6,
        weighting: Weighting | None = None,
    ) -> list[Localization]:
        """Localize in several images, in one forward pass for each input size.

        Args:
            images: paths or PIL images; or a tensor (B, 3, height, width), or several (3, height, width), which are the
                model's input as they are: the map lies in their own pixels.
            target: the concept looked for, or the number of a class (of a dual encoder: of the vocabulary); a list has one for
                each image. By default the predicted class: of all classes, or of the vocabulary, the one that scores highest.
            against: names or numbers to compare with, or ``nearest(k)``, ``rivals(k)`` or a selector of your own; by default
                the three nearest of the vocabulary.
            strength: 0 is the base method; the paper uses 0.6.
            weighting: of the references; uniform by default.

        Raises:
            ImageError: an image cannot be read, or a tensor is no input of a model.
            OptionError: a target is neither a name nor a number in range, or there are not as many as images.
            UnknownConcept: the text encoder has never seen a word.
            ComparisonError: see ``compare``.
            NoSpatialGradient, BackboneError: a map is blank, or not finite; the model does not take a tensor of that size.
        """
        question, given = self._question(against, strength, weighting), as_images(images)
        asked = question.about(target, len(given))
        items = list(zip(zip(given, asked.targets, strict=True), map(self.frame, given), strict=True))
        return together(partial(self._answer, question), items, lambda: self._check(asked))

    def sweep(
        self,
        image: Given,
        target: Targets = None,
        against: References = None,
        *,
        strengths: Sequence[float] = STRENGTHS,
        weighting: Weighting | None = None,
    ) -> list[Localization]:
        """One comparison at several strengths, from one forward pass; of a linear method at the price of one map.

        Raises:
            OptionError: the method does not look at the score.
            ComparisonError: a strength is negative or not finite, or see ``batch``.

        Example:
            >>> from concept_cam import world
            >>> plate = world.draw_species("ember finch", seed=3)
            >>> results = world.localizer().sweep(plate.image, "ember finch", "frost finch")
            >>> [result.comparison.strength for result in results]
            [0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0]
        """
        question = self._question(against, max(strengths), weighting, lambda one: one.at_each(strengths))
        return self._localize([self.frame(image)], question.about(target, 1))[0]

    def against_each(
        self,
        image: Given,
        target: Targets = None,
        against: References = None,
        *,
        strength: float = 1.0,
    ) -> list[Localization]:
        """The target against each of its references alone, from one forward pass: which patch speaks against which?

        ``drawing.by_reference`` colours each place by the reference that it speaks against most.

        Raises:
            OptionError: the method does not look at the score.
            ComparisonError, UnknownConcept: see ``batch``.

        Example:
            >>> from concept_cam import world
            >>> plate = world.draw_species("ember finch", seed=3)
            >>> results = world.localizer().against_each(plate.image, "ember finch", ["frost finch", "royal jay"])
            >>> [result.comparison.references for result in results]
            [('frost finch',), ('royal jay',)]
        """
        question = self._question(against, strength, None, Comparison.with_each)
        return self._localize([self.frame(image)], question.about(target, 1))[0]

    def stream(
        self,
        images: Iterable[S],
        target: Targets = None,
        against: References = None,
        *,
        strength: float = 0.6,
        weighting: Weighting | None = None,
        batch_size: int = 8,
        workers: int = 2,
        on_error: Callable[[S, ConceptCamError], None] | None = None,
    ) -> Generator[tuple[S, Localization], None, None]:
        """Localize in many images, each with its result, in the order given.

        Images are read ahead of the model by threads, two batches at most, so that memory does not grow. To leave early is
        enough to stop them. Whatever ends a stream, the results of the images before that are given first.

        Args:
            images: paths, PIL images or tensors (3, height, width); a generator will do.
            target: one for all, the predicted class by default, or an iterable of one for each image; see ``batch``.
            against: names to compare with, or a selector; see ``batch``.
            strength: 0 is the base method; the paper uses 0.6.
            weighting: of the references; uniform by default.
            batch_size: how many go through the model at once.
            workers: threads that read and prepare images.
            on_error: called with an image that fails, and why; it is skipped. Without it the error is raised. What is wrong
                with the question, whatever the image, is always raised.

        Raises:
            OptionError: the batch size or the number of workers is below one, or see ``batch``.
            ImageError, NoSpatialGradient, BackboneError: an image fails, and nobody listens; see ``batch``.
            ComparisonError, UnknownConcept: see ``batch``.

        Example:
            >>> from concept_cam import world
            >>> plates = (world.draw_species("ember finch", seed).image for seed in range(3))
            >>> [result.map.shape for _, result in world.localizer().stream(plates, "ember finch", "frost finch")]
            [torch.Size([12, 12]), torch.Size([12, 12]), torch.Size([12, 12])]
        """
        question = self._question(against, strength, weighting)
        pairs = in_step(images, target, question.choices)
        if is_one(target):
            self._check(question.about(target, 1))
        read, fail = lambda pair: self.frame(pair[0]), lambda pair, error: tell(pair[0], error, on_error)
        found = one_by_one(pairs, read, partial(self._answer, question), batch_size, workers, fail)
        with closing(found):
            yield from ((image, result) for (image, _), result in found)

    def fields(self, images: Several) -> list[ConceptField]:
        """The fields of several images, which answer any text without the model; for methods that are linear.

        Raises:
            OptionError: the method is not linear in the direction.
            ImageError: an image cannot be read.

        Example:
            >>> from concept_cam import world
            >>> (field,) = world.localizer().fields([world.draw_species("ember finch").image])
            >>> field.vectors.shape
            torch.Size([12, 12, 192])
        """
        frames = [self.frame(image) for image in as_images(images)]
        results: dict[int, ConceptField] = {}
        with torch.inference_mode(False), torch.no_grad():
            for seen, alike, provenance in self.traces(frames):
                placements = [frames[i].placement for i in alike]
                fields = ConceptField.of(seen, self.method, placements, provenance)
                results |= dict(zip(alike, fields, strict=True))
        return [results[i] for i in range(len(frames))]

    def frame(self, image: Given) -> Frame:
        """An image as the model gets it; a tensor is that already.

        Raises:
            ImageError: it cannot be read, or the tensor is no input of a model.
            OptionError: it is a tensor, and the localizer was told another size, or how to fit images.
        """
        if isinstance(image, torch.Tensor):
            return frame_of(image, self.preprocess, self._told, self.backbone.device, self.backbone.dtype)
        return Frame.of(read_image(as_file(image)), self.preprocess)

    def traces(self, frames: Sequence[Frame]) -> Iterator[tuple[Trace, list[int], dict[str, object]]]:
        """One forward pass for each input size: what it keeps, of which frames, and where it comes from.

        For those who ask more of a pass than one comparison; call it without gradients and out of inference mode.
        """
        for size, alike in by_size(frames).items():
            pixels = torch.stack([frames[i].pixels.to(self.backbone.device, self.backbone.dtype) for i in alike])
            seen = trace(self.backbone.at_size(size), pixels, self.site, self.form)
            yield seen, alike, provenance_of(seen, self.method, self.preprocess, self.templates)

    def _question(
        self, against: References, strength: float, weighting: Weighting | None, variants: Variants | None = None
    ) -> Question:
        choices = self.backbone.classes or self.vocabulary
        return Question.of(self.method, choices, self.vocabulary, against, strength, weighting, variants)

    def _answer(self, question: Question, batch: _Batch) -> list[Localization]:
        asked = question.about([target for (_, target), _ in batch], len(batch))
        return [result for (result,) in self._localize([frame for _, frame in batch], asked)]

    def _check(self, question: Question) -> None:
        """Raise what is wrong with a question whatever the image: a word, a reference."""
        with self.backbone.evaluating():
            question.check(self.bank(question.names))

    def _localize(self, frames: Sequence[Frame], question: Question) -> list[list[Localization]]:
        """For each image a result for each variant of its comparison; the same number for all images."""
        results: dict[int, list[Localization]] = {}
        # One look at the model for the texts and the passes; out of the caller's inference mode, so that results are ordinary.
        with self.backbone.evaluating():
            bank = self.bank(question.names)
            for seen, alike, provenance in self.traces(frames):
                # The caller's autocast is for the model, not for the algebra.
                with torch.autocast(self.backbone.device.type, enabled=False):
                    scores = bank.scores(seen.embedding)
                    asked = [question.comparisons(bank, row, i) for row, i in zip(scores, alike, strict=True)]
                    finer = torch.stack([torch.stack([c.direction(bank) for c in of_one]) for of_one in asked], 1)
                    base = bank.vectors_of([of_one[0].target for of_one in asked])[None]
                    maps = checked_maps(explain(self.method, seen, torch.cat([base, finer])), seen.site.name)
                    maps = maps if self.on_device else maps.float().cpu()
                for b, (i, of_one) in enumerate(zip(alike, asked, strict=True)):
                    results[i] = []
                    for one, map_ in zip(of_one, maps[1:, b], strict=True):
                        placement = frames[i].placement.covering(seen.layout.span)
                        found = {name: float(scores[b, bank.index(name)]) for name in one.names}
                        results[i].append(Localization(map_, maps[0, b], placement, one, found, provenance))
        return [results[i] for i in range(len(frames))]

    def bank(self, names: Iterable[str]) -> ConceptBank:
        """The bank of some concepts, to be read and not written to; what was embedded before is not embedded again.

        Kept are the vocabulary and the last 4,096 other concepts, as long as the model and the templates are what they were.
        """
        # Out of the caller's inference mode: what is kept are ordinary tensors. Other threads wait: they ask for banks too.
        with self.backbone.evaluating():
            state = (self.templates, self.backbone.text_state())
            return self._kept.bank(names, state, lambda fresh: embed(self.backbone, fresh, self.templates))
