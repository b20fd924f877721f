"""The whole flow in one call: text and picture in, Localization out. No maths here."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from importlib.metadata import version
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from concept_cam.backbones.backbone import Backbone
from concept_cam.comparison import Named, Selector, Weighting, compare, nearest
from concept_cam.concepts import ConceptBank, embed
from concept_cam.errors import BackboneError, NoSpatialGradient, OptionError
from concept_cam.gradients import FactoredTrace, Form, Trace, trace
from concept_cam.images import Fit, Frame, Preprocess, Size, Source, check_fit, read_picture
from concept_cam.methods import Method, hires_cam
from concept_cam.prompts import read_templates, read_vocabulary
from concept_cam.result import Localization


@final
class Localizer:
    """Finds where a picture shows the target and not the concepts it is confused with.

    Args:
        backbone: from ``load`` or ``wrap``.
        vocabulary: concepts among which ``nearest`` and ``rivals`` choose, or the name of a file in ``prompts/vocabularies/``;
            by default those that the model was made for, if it is a classifier.
        templates: sentences with a ``{}``, or the name of a file in ``prompts/templates/``.
        method: makes the map of the gradient.
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
        self.preprocess = _preprocess(backbone, fit, size)
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
        if not pictures:
            return []
        selector, names = _selector(against, choose=bool(self.vocabulary), strength=strength)
        # Out of the caller's inference mode: results are ordinary tensors, and so is the bank that is kept.
        with torch.inference_mode(False), torch.no_grad():
            bank = self.bank((*self.vocabulary, target, *names))
            frames = [Frame.of(read_picture(picture), self.preprocess) for picture in pictures]
            results: dict[int, Localization] = {}
            for size, alike in _by_size(frames).items():
                pixels = torch.stack([frames[i].pixels for i in alike]).to(self.backbone.device, self.backbone.dtype)
                seen = trace(self.backbone.at_size(size), pixels, self.site, self.form)
                # The caller's autocast is for the model, not for the algebra.
                with torch.autocast(self.backbone.device.type, enabled=False):
                    scores = bank.scores(seen.embedding)
                    comparisons = [compare(bank, target, selector, row, strength, weighting) for row in scores]
                    finer = torch.stack([comparison.direction(bank) for comparison in comparisons])
                    base = bank.vectors_of([target]).expand_as(finer)
                    maps = _checked(self.method(seen.gradient(torch.stack([base, finer]))), seen).float().cpu()
                provenance = self._provenance(seen, size)
                for i, base_map, map_, comparison, row in zip(alike, *maps, comparisons, scores, strict=True):
                    found = {name: float(row[bank.index(name)]) for name in comparison.names}
                    results[i] = Localization(map_, base_map, frames[i].placement, comparison, found, provenance)
        return [results[i] for i in range(len(frames))]

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
            "method": getattr(self.method, "__name__", repr(self.method)),
            "input": {"fit": self.preprocess.fit, "size": list(size)},
            "templates": list(self.templates),
            "versions": {"concept-cam": version("concept-cam"), **self.backbone.versions},
        }


def _preprocess(backbone: Backbone, fit: Fit | None, size: int | Size | None) -> Preprocess:
    """The model's own, with what the user wants otherwise; a size that the model cannot take is found now."""
    own = backbone.preprocess
    if fit is not None:
        check_fit(fit)
    wanted = own.size if size is None else (size, size) if isinstance(size, int) else (size[0], size[1])
    if min(wanted) < 1:
        raise OptionError(f"size is {size}; expected the side of a square, or (height, width), in pixels.")
    if wanted != own.size:
        own = backbone.at_size(wanted).preprocess
    return own if fit is None else own.fitted(fit)


def _by_size(frames: Sequence[Frame]) -> dict[Size, list[int]]:
    """Which frames can go through the model together."""
    groups: dict[Size, list[int]] = {}
    for i, frame in enumerate(frames):
        groups.setdefault(frame.size, []).append(i)
    return groups


def _selector(
    wanted: Selector | str | Iterable[str] | None, *, choose: bool, strength: float
) -> tuple[Selector | None, tuple[str, ...]]:
    """The selector that is meant, and the names that it needs in the bank."""
    if isinstance(wanted, Named):
        return wanted, wanted.names
    if callable(wanted):
        return wanted, ()
    if wanted is None:
        return (nearest(3) if choose and strength > 0 else None), ()
    names = (wanted,) if isinstance(wanted, str) else tuple(dict.fromkeys(wanted))
    return (Named(names) if names else None), names


def _checked(maps: Float[Tensor, "K B rows cols"], seen: Trace) -> Float[Tensor, "K B rows cols"]:
    """The maps, if each says something."""
    if not maps.isfinite().all():
        raise BackboneError(
            f"The map at {seen.site.name} is not finite: the model holds NaN, or overflows in {maps.dtype}; try float32."
        )
    if not maps.flatten(2).any(-1).all():
        raise NoSpatialGradient(f"Nothing at {seen.site.name} speaks for or against the target: the map is blank.")
    return maps
