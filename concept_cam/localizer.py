"""The whole flow in one call: text and picture in, Localization out. No maths here."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from importlib.metadata import version
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from concept_cam.backbones.backbone import Backbone
from concept_cam.comparison import Comparison, Named, Selector, Weighting, compare, nearest
from concept_cam.concepts import ConceptBank, embed
from concept_cam.errors import BackboneError, NoSpatialGradient
from concept_cam.gradients import FactoredTrace, Form, Trace, trace
from concept_cam.images import Frame, Source, read_picture
from concept_cam.methods import Method, hires_cam
from concept_cam.prompts import read_templates, read_vocabulary
from concept_cam.result import Localization


@final
class Localizer:
    """Finds where a picture shows the target and not the concepts it is confused with.

    Args:
        backbone: from ``load`` or ``wrap``.
        vocabulary: concepts among which ``nearest`` and ``rivals`` choose, or the name of a file in ``prompts/vocabularies/``.
        templates: sentences with a ``{}``, or the name of a file in ``prompts/templates/``.
        method: makes the map of the gradient.
        site: the name of one of ``backbone.sites``; the first by default.
        form: of the gradient; closed form where it exists and is exact.

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
    ) -> None:
        self.backbone, self.method, self.form = backbone, method, form
        self.site = backbone.site(site).name
        names = read_vocabulary(vocabulary).names if isinstance(vocabulary, str) else vocabulary
        self.vocabulary = tuple(dict.fromkeys(names))
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
        """Localize in several pictures, in one forward pass.

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
            frames = [Frame.of(read_picture(picture), self.backbone.preprocess) for picture in pictures]
            pixels = torch.stack([frame.pixels for frame in frames]).to(self.backbone.device, self.backbone.dtype)
            seen = trace(self.backbone, pixels, self.site, self.form)
            # The caller's autocast is for the model, not for the algebra.
            with torch.autocast(self.backbone.device.type, enabled=False):
                scores = seen.embedding.to(bank.vectors) @ bank.vectors.T
                comparisons = [compare(bank, target, selector, row, strength, weighting) for row in scores]
                finer = torch.stack([comparison.direction(bank) for comparison in comparisons])
                base = bank.vectors_of([target]).expand_as(finer)
                base_maps, maps = _checked(self.method(seen.gradient(torch.stack([base, finer]))), seen).float().cpu()
        provenance = self._provenance(seen)
        return [
            Localization(maps[i], base_maps[i], frame.placement, comparison, _named(scores[i], bank, comparison), provenance)
            for i, (frame, comparison) in enumerate(zip(frames, comparisons, strict=True))
        ]

    def bank(self, names: Iterable[str]) -> ConceptBank:
        """The bank of some concepts; what was embedded before is not embedded again, unless the model has changed."""
        names = tuple(names)
        state = (self.templates, self.backbone.state())
        held = self._known[1] if self._known and self._known[0] == state else None
        known = embed(self.backbone, (*(held.names if held else ()), *names), self.templates, held)
        self._known = state, known
        return known.select(names)

    def _provenance(self, seen: Trace) -> dict[str, object]:
        return {
            "model": self.backbone.name,
            "site": seen.site.name,
            "gradient": "factored" if isinstance(seen, FactoredTrace) else "dense",
            "method": getattr(self.method, "__name__", repr(self.method)),
            "templates": list(self.templates),
            "versions": {"concept-cam": version("concept-cam"), **self.backbone.versions},
        }


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


def _named(scores: torch.Tensor, bank: ConceptBank, comparison: Comparison) -> dict[str, float]:
    names = (comparison.target, *comparison.references)
    return {name: float(scores[bank.index(name)]) for name in names}
