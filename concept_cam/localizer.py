"""The whole flow in one call: text and picture in, Localization out. No maths here."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from contextlib import closing
from importlib.metadata import version
from itertools import islice
from typing import TypeVar, final

import torch

from concept_cam.backbones.backbone import Backbone
from concept_cam.backbones.transforms import preprocess_for
from concept_cam.comparison import Comparison, Named, Selector, Weighting, as_selector, compare, nearest
from concept_cam.concepts import ConceptBank, embed
from concept_cam.errors import OptionError, PictureError
from concept_cam.field import ConceptField
from concept_cam.gradients import FactoredTrace, Form, Trace, trace
from concept_cam.images import Fit, Frame, Size, Source, by_size, read_picture
from concept_cam.methods import Method, explain, hires_cam, name_of, sees_score
from concept_cam.prefetch import finished, read_ahead
from concept_cam.prompts import read_templates, read_vocabulary
from concept_cam.result import Localization, checked_maps

S = TypeVar("S", bound=Source)

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Those that a sweep goes through."""


@final
class Localizer:
    """Finds where a picture shows the target and not the concepts it is confused with.

    Args:
        backbone: from ``load`` or ``wrap``.
        vocabulary: concepts among which ``nearest`` and ``rivals`` choose, or the name of a file in ``prompts/vocabularies/``;
            by default those that the model was made for, if it is a classifier.
        templates: sentences with a ``{}``, or the name of a file in ``prompts/templates/``.
        method: makes the map; any of ``concept_cam.methods``, or a function of your own.
        site: the name of one of ``backbone.sites``; the first by default.
        form: of the gradient; closed form where it exists and is exact.
        fit: ``crop``, ``pad``, ``squash`` or ``native``, see ``Preprocess``; by default as the model was trained.
        size: (height, width) of the model's input, or the side of a square; a larger one gives a finer map. At native aspect
            it says how many patches there are at most. By default the model's own.

    Raises:
        OptionError: no such fit.
        BackboneError: no such site, or a size that the model cannot take.

    Example:
        >>> from concept_cam import fieldguide
        >>> localizer = fieldguide.localizer()
        >>> plate = fieldguide.draw_species("ember finch", seed=3)
        >>> result = localizer(plate.picture, "ember finch", against="frost finch")
        >>> result.comparison.references
        ('frost finch',)
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        vocabulary: str | Iterable[str] = (),
        templates: str | Sequence[str] = "photo",
        method: Method = hires_cam,
        site: str | None = None,
        form: Form = "auto",
        fit: Fit | None = None,
        size: int | Size | None = None,
    ) -> None:
        self.backbone, self.method, self.form = backbone, method, form
        self.site = backbone.site(site).name
        self.preprocess = preprocess_for(backbone, fit, size)
        names = read_vocabulary(vocabulary).names if isinstance(vocabulary, str) else vocabulary
        self.vocabulary = tuple(dict.fromkeys(names)) or backbone.classes
        self.templates = read_templates(templates) if isinstance(templates, str) else tuple(templates)
        self._known: tuple[Hashable, ConceptBank] | None = None

    def __call__(
        self,
        picture: Source,
        target: str,
        against: Selector | str | Iterable[str] | None = None,
        *,
        strength: float = 0.6,
        weighting: Weighting | None = None,
    ) -> Localization:
        """Localize in one picture; see ``batch``."""
        return self.batch([picture], target, against, strength=strength, weighting=weighting)[0]

    def batch(
        self,
        pictures: Sequence[Source],
        target: str,
        against: Selector | str | Iterable[str] | None = None,
        *,
        strength: float = 0.6,
        weighting: Weighting | None = None,
    ) -> list[Localization]:
        """Localize in several pictures, in one forward pass for each input size.

        Args:
            pictures: paths or PIL images.
            target: the concept looked for.
            against: names to compare with, or ``nearest(k)``, ``rivals(k)`` or a selector of your own; by default the three
                nearest of the vocabulary.
            strength: 0 is the base method; the paper uses 0.6.
            weighting: of the references; uniform by default.

        Raises:
            PictureError: a picture cannot be read.
            UnknownConcept: the text encoder has never seen a word.
            ComparisonError: see ``compare``.
            NoSpatialGradient, BackboneError: a map is blank, or not finite.
        """
        frames = [self.frame(picture) for picture in pictures]
        results = self._localize(frames, target, as_selector(against), strength, weighting)
        return [result for (result,) in results]

    def sweep(
        self,
        picture: Source,
        target: str,
        against: Selector | str | Iterable[str] | None = None,
        *,
        strengths: Sequence[float] = STRENGTHS,
        weighting: Weighting | None = None,
    ) -> list[Localization]:
        """One comparison at several strengths, from one forward pass; of a linear method at the price of one map.

        Raises:
            OptionError: the method does not look at the score.
            ComparisonError: a strength is negative or not finite, or see ``batch``.

        Example:
            >>> from concept_cam import fieldguide
            >>> plate = fieldguide.draw_species("ember finch", seed=3)
            >>> results = fieldguide.localizer().sweep(plate.picture, "ember finch", "frost finch")
            >>> [result.comparison.strength for result in results]
            [0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0]
        """
        selector, frames = self._comparing(as_selector(against)), [self.frame(picture)]
        (results,) = self._localize(
            frames, target, selector, max(strengths), weighting, lambda comparison: comparison.at_each(strengths)
        )
        return results

    def against_each(
        self,
        picture: Source,
        target: str,
        against: Selector | str | Iterable[str] | None = None,
        *,
        strength: float = 1.0,
    ) -> list[Localization]:
        """The target against each of its references alone, from one forward pass: which patch speaks against which?

        ``drawing.by_reference`` colours each place by the reference that it speaks against most.

        Raises:
            OptionError: the method does not look at the score.
            ComparisonError, UnknownConcept: see ``batch``.

        Example:
            >>> from concept_cam import fieldguide
            >>> plate = fieldguide.draw_species("ember finch", seed=3)
            >>> results = fieldguide.localizer().against_each(plate.picture, "ember finch", ["frost finch", "royal jay"])
            >>> [result.comparison.references for result in results]
            [('frost finch',), ('royal jay',)]
        """
        selector, frames = self._comparing(as_selector(against)), [self.frame(picture)]
        (results,) = self._localize(frames, target, selector, strength, None, Comparison.with_each)
        return results

    def stream(
        self,
        pictures: Iterable[S],
        target: str,
        against: Selector | str | Iterable[str] | None = None,
        *,
        strength: float = 0.6,
        weighting: Weighting | None = None,
        batch_size: int = 8,
        workers: int = 2,
        on_error: Callable[[S, PictureError], None] | None = None,
    ) -> Generator[tuple[S, Localization], None, None]:
        """Localize in many pictures, each with its result, in the order given.

        Pictures are read ahead of the model by threads, two batches at most, so that memory does not grow. To leave early is
        enough to stop them.

        Args:
            pictures: paths or PIL images; a generator will do.
            target: the concept looked for.
            against: names to compare with, or a selector; see ``batch``.
            strength: 0 is the base method; the paper uses 0.6.
            weighting: of the references; uniform by default.
            batch_size: how many go through the model at once.
            workers: threads that read and prepare pictures.
            on_error: called with a picture that cannot be read, and why; it is left out. Without it the error is raised.

        Raises:
            OptionError: the batch size or the number of workers is below one.
            PictureError: a picture cannot be read, and nobody listens.
            ComparisonError, UnknownConcept, NoSpatialGradient, BackboneError: see ``batch``.

        Example:
            >>> from concept_cam import fieldguide
            >>> plates = (fieldguide.draw_species("ember finch", seed).picture for seed in range(3))
            >>> [result.map.shape for _, result in fieldguide.localizer().stream(plates, "ember finch", "frost finch")]
            [torch.Size([12, 12]), torch.Size([12, 12]), torch.Size([12, 12])]
        """
        if batch_size < 1 or workers < 1:
            raise OptionError(f"batch_size is {batch_size} and workers is {workers}; expected at least 1 of each.")
        selector = as_selector(against)
        with closing(read_ahead(self.frame, pictures, workers, 2 * batch_size)) as read:
            good = finished(read, PictureError, on_error)
            while batch := list(islice(good, batch_size)):
                results = self._localize([frame for _, frame in batch], target, selector, strength, weighting)
                yield from ((picture, result) for (picture, _), (result,) in zip(batch, results, strict=True))

    def fields(self, pictures: Sequence[Source]) -> list[ConceptField]:
        """The fields of several pictures, which answer any text without the model; for methods that are linear.

        Raises:
            OptionError: the method is not linear in the direction.
            PictureError: a picture cannot be read.

        Example:
            >>> from concept_cam import fieldguide
            >>> (field,) = fieldguide.localizer().fields([fieldguide.draw_species("ember finch").picture])
            >>> field.vectors.shape
            torch.Size([12, 12, 192])
        """
        frames = [self.frame(picture) for picture in pictures]
        results: dict[int, ConceptField] = {}
        with torch.inference_mode(False), torch.no_grad():
            for seen, alike, provenance in self.traces(frames):
                placements = [frames[i].placement for i in alike]
                fields = ConceptField.of(seen, self.method, placements, provenance)
                results |= dict(zip(alike, fields, strict=True))
        return [results[i] for i in range(len(frames))]

    def frame(self, picture: Source) -> Frame:
        """A picture as the model gets it.

        Raises:
            PictureError: it cannot be read.
        """
        return Frame.of(read_picture(picture), self.preprocess)

    def traces(self, frames: Sequence[Frame]) -> Iterator[tuple[Trace, list[int], dict[str, object]]]:
        """One forward pass for each input size: what it keeps, of which frames, and where it comes from.

        For those who ask more of a pass than one comparison; call it without gradients and out of inference mode.
        """
        for size, alike in by_size(frames).items():
            pixels = torch.stack([frames[i].pixels for i in alike]).to(self.backbone.device, self.backbone.dtype)
            seen = trace(self.backbone.at_size(size), pixels, self.site, self.form)
            yield seen, alike, self._provenance(seen, size)

    def _localize(
        self,
        frames: Sequence[Frame],
        target: str,
        selector: Selector | None,
        strength: float,
        weighting: Weighting | None,
        variants: Callable[[Comparison], list[Comparison]] = lambda comparison: [comparison],
    ) -> list[list[Localization]]:
        """For each picture a result for each variant of its comparison; the same number for all pictures."""
        if selector is not None or (self.vocabulary and strength > 0 and sees_score(self.method)):
            selector = self._comparing(selector)
        elif not sees_score(self.method):
            strength = 0.0
        names = selector.names if isinstance(selector, Named) else ()
        results: dict[int, list[Localization]] = {}
        # Out of the caller's inference mode: results are ordinary tensors, and so is the bank that is kept.
        with torch.inference_mode(False), torch.no_grad():
            bank = self.bank((*self.vocabulary, target, *names))
            for seen, alike, provenance in self.traces(frames):
                # The caller's autocast is for the model, not for the algebra.
                with torch.autocast(self.backbone.device.type, enabled=False):
                    scores = bank.scores(seen.embedding)
                    asked = [variants(compare(bank, target, selector, row, strength, weighting)) for row in scores]
                    finer = torch.stack([torch.stack([c.direction(bank) for c in of_one]) for of_one in asked], 1)
                    base = bank.vectors_of([target]).expand_as(finer[:1])
                    maps = explain(self.method, seen, torch.cat([base, finer]))
                    maps = checked_maps(maps, seen.site.name).float().cpu()
                for b, (i, of_one) in enumerate(zip(alike, asked, strict=True)):
                    results[i] = []
                    for comparison, map_ in zip(of_one, maps[1:, b], strict=True):
                        found = {name: float(scores[b, bank.index(name)]) for name in comparison.names}
                        kept = frames[i].placement.covering(seen.layout.span), comparison, found, provenance
                        results[i].append(Localization(map_, maps[0, b], *kept))
        return [results[i] for i in range(len(frames))]

    def _comparing(self, selector: Selector | None) -> Selector | None:
        """References, by default the three nearest of the vocabulary."""
        if not sees_score(self.method):
            name = name_of(self.method)
            raise OptionError(f"{name} does not look at the score, so it has no finer form; leave the references out.")
        return nearest(3) if selector is None and self.vocabulary else selector

    def bank(self, names: Iterable[str]) -> ConceptBank:
        """The bank of some concepts; what was embedded before is not embedded again, unless the model has changed."""
        names = tuple(names)
        state = (self.templates, self.backbone.state())
        held = self._known[1] if self._known and self._known[0] == state else None
        known = embed(self.backbone, (*(held.names if held else ()), *names), self.templates, held)
        self._known = state, known
        return known.select(names)

    def _provenance(self, seen: Trace, size: Size) -> dict[str, object]:
        return {
            "model": self.backbone.name,
            "site": seen.site.name,
            "gradient": "factored" if isinstance(seen, FactoredTrace) else "dense",
            "method": name_of(self.method),
            "input": {"fit": self.preprocess.fit, "size": list(size)},
            "templates": list(self.templates),
            "versions": {"concept-cam": version("concept-cam"), **self.backbone.versions},
        }
