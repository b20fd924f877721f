"""The whole flow in one call: text and image in, Localization out. No maths here."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import TypeVar, final

from concept_cam.asking import explorations, results, variations
from concept_cam.backbones.backbone import Backbone
from concept_cam.backbones.snapshot import text_state_of
from concept_cam.backbones.transforms import preprocess_for
from concept_cam.comparison import Comparison
from concept_cam.concepts import ConceptBank, embed
from concept_cam.errors import ConceptCamError, OptionError
from concept_cam.exploration import STRENGTHS, Exploration, Plan
from concept_cam.field import ConceptField
from concept_cam.gradients import Form
from concept_cam.images import Fit, Frame, Size
from concept_cam.kept import Kept
from concept_cam.methods import AnyMethod, Method, as_method, depth_of, usual_method
from concept_cam.options import templates_of, vocabulary_of
from concept_cam.passes import Pass, each_frame, run
from concept_cam.provenance import provenance_of
from concept_cam.result import Localization
from concept_cam.targets import Names, References, Targets
from concept_cam.tensors import Given, Read, Several, as_images, read_given
from concept_cam.weightings import Weighting

S = TypeVar("S", bound=Given)


@final
class Localizer:
    """Finds where an image shows the target and not the concepts it is confused with.

    Args:
        backbone: from ``load`` or ``wrap``.
        vocabulary: concepts among which ``nearest`` and ``rivals`` choose, or the name of a file in ``prompts/vocabularies/``;
            by default those that the model was made for, if it is a classifier.
        templates: sentences with a ``{}``, or the name of a file in ``prompts/templates/``: ``photo``. Not of a classifier.
        method: makes the map; any of ``concept_cam.methods``, by itself or by its name, or a function of your own; by default
            ``class_stream`` at the default site of a class token that attends in known blocks, else ``hires_cam``.
        site: the name of one of ``backbone.sites``; the first by default.
        form: of the gradient; closed form where it exists and is exact.
        fit: ``crop``, ``pad``, ``squash`` or ``native``, see ``Preprocess``; by default as the model was trained.
        size: (height, width) of the model's input, or the side of a square; a larger one gives more cells. At native aspect
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
        method: AnyMethod | None = None,
        site: str | None = None,
        form: Form = "auto",
        fit: Fit | None = None,
        size: int | Size | None = None,
        on_device: bool = False,
    ) -> None:
        self.backbone, self.form = backbone, form
        self.method = method
        self.site = backbone.site(site).name
        self.preprocess = preprocess_for(backbone, fit, size)
        self.templates = templates_of(templates, backbone)
        self.on_device = on_device
        self._told = tuple(key for key, value in (("fit", fit), ("size", size)) if value is not None)
        self.kept = Kept(vocabulary_of(vocabulary, backbone))

    @property
    def method(self) -> Method:
        """What makes the maps: as it was given, or what is usual for the model as it is now."""
        every_block = self.form == "auto" and self.site == self.backbone.sites[0].name
        return self._method or usual_method(self.backbone, every_block)

    @method.setter
    def method(self, method: AnyMethod | None) -> None:
        self._method = None if method is None else as_method(method)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The concepts among which ``nearest`` and ``rivals`` choose; another vocabulary takes another localizer."""
        return self.kept.vocabulary

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
        return results(self, against, strength, weighting).batch(images, target)

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

        Args:
            image: as in ``batch``, and so are target, against and weighting.
            target: the concept looked for; by default the predicted class.
            against: names to compare with, or a selector.
            strengths: each 0 or more.
            weighting: of the references; uniform by default.

        Raises:
            OptionError: the method does not look at the score.
            ComparisonError: a strength is negative or not finite, or see ``batch``.
        """
        if not strengths:
            raise OptionError("strengths is empty; expected one or more.")
        return variations(self, against, max(strengths), weighting, lambda one: one.at_each(strengths)).one(image, target)

    def against_each(
        self, image: Given, target: Targets = None, against: References = None, *, strength: float = 1.0
    ) -> list[Localization]:
        """The target against each of its references alone, from one forward pass: which patch is evidence against which?

        Args:
            image: as in ``batch``, and so are target and against.
            target: the concept looked for; by default the predicted class.
            against: names to compare with, or a selector.
            strength: of each comparison.

        Raises:
            OptionError: the method does not look at the score.
            ComparisonError, UnknownConcept: see ``batch``.
        """
        return variations(self, against, strength, None, Comparison.with_each).one(image, target)

    def explore(
        self,
        images: Iterable[S],
        target: Targets = None,
        against: References = None,
        *,
        strength: float = 0.6,
        strengths: Sequence[float] = STRENGTHS,
        each: float | None = 1.0,
        weighting: Weighting | None = None,
        batch_size: int = 8,
        workers: int = 2,
        on_error: Callable[[S, ConceptCamError], None] | None = None,
    ) -> Generator[tuple[S, Exploration], None, None]:
        """Result, sweep and each reference alone for many images: as ``stream``, each from one decode and one forward pass.

        Images are given back as they were read, to be drawn on; those of three batches at most are held.

        Args:
            images: as in ``stream``, and so are target, against, weighting, batch_size, workers and on_error.
            target: one for all, or one for each image; by default the predicted class.
            against: names to compare with, or a selector.
            strength: of the result.
            strengths: of the sweep; none leaves it out.
            each: the strength against each reference alone; None leaves that out.
            weighting: of the references of result and sweep.
            batch_size: how many go through the model at once.
            workers: threads that read and prepare images.
            on_error: called with an image that fails, and why.

        Raises:
            OptionError: the method does not look at the score, or see ``stream``.
            ComparisonError: a strength is negative or not finite, or see ``batch``.
            ImageError, NoSpatialGradient, BackboneError, UnknownConcept: see ``stream``.

        Example:
            >>> from concept_cam import world
            >>> plate = world.draw_species("ember finch", seed=3)
            >>> ((_, found),) = world.localizer().explore([plate.image], "ember finch", "frost finch", strengths=(0, 1))
            >>> found.result.comparison.strength, len(found.sweep), len(found.by_reference)
            (0.6, 2, 1)
        """
        plan = Plan(strength, tuple(strengths), each, bare=against is None and strength == 0)
        return explorations(self, against, weighting, plan).stream(images, target, batch_size, workers, on_error)

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
            >>> plates = (world.draw_species("ember finch", seed).image for seed in range(2))
            >>> [tuple(result.map.shape) for _, result in world.localizer().stream(plates, "ember finch", "frost finch")]
            [(12, 12), (12, 12)]
        """
        return results(self, against, strength, weighting).stream(images, target, batch_size, workers, on_error)

    def fields(self, images: Several) -> list[ConceptField]:
        """The fields of several images, which answer any text without the model; see ``ConceptField``.

        Raises:
            OptionError: the method is not linear in the direction.
            ImageError: an image cannot be read.
        """
        make = lambda seen: ConceptField.of(seen.trace, self.method, seen.placements, self.provenance(seen))  # noqa: E731
        return each_frame(self.passes([self.frame(image) for image in as_images(images)]), make)

    def frame(self, image: Given) -> Frame:
        """An image as the model gets it; a tensor is that already.

        Raises:
            ImageError: it cannot be read, or the tensor is no input of a model.
            OptionError: it is a tensor, and the localizer was told another size, or how to fit images.
        """
        return self.read(image)[0]

    def read(self, image: Given) -> Read:
        """What the model gets, and the image as it was read, upright and in RGB; None of a tensor. See ``frame``."""
        return read_given(image, self.preprocess, self._told, self.backbone)

    def passes(self, frames: Sequence[Frame], methods: Iterable[AnyMethod] | None = None) -> Iterator[Pass]:
        """One forward pass for each input size of some frames, for those who ask more of it than one comparison.

        Args:
            frames: of any sizes.
            methods: that will be asked for maps, so that all they read is kept; the localizer's own by default.
        """
        depth = depth_of(*([self.method] if methods is None else methods))
        return run(self.backbone, frames, self.site, self.form, depth)

    def provenance(self, seen: Pass) -> dict[str, object]:
        """What is kept of a pass with each result: model, site, form of the gradient, method, templates, versions."""
        return provenance_of(seen.trace, self.method, self.preprocess, self.templates)

    def bank(self, names: Iterable[str]) -> ConceptBank:
        """The bank of some concepts, to be read and not written to; what was embedded before is not embedded again.

        The vocabulary and the last 4,096 other concepts are kept, as long as the model and the templates stay the same.
        """
        with self.backbone.evaluating():
            return self.kept.bank(names, *self._how())

    def bank_around(self, others: Sequence[str]) -> ConceptBank:
        """The bank of the vocabulary and of others after it; what it costs does not depend on the size of the vocabulary."""
        with self.backbone.evaluating():
            return self.kept.around(others, *self._how())

    def _how(self) -> tuple[object, Callable[[Iterable[str]], ConceptBank]]:
        """What kept embeddings depend on, and how more are made."""
        state = text_state_of(self.backbone, self.backbone.text_state)
        return (self.templates, state), lambda names: embed(self.backbone, names, self.templates)
