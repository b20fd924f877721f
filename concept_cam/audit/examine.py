"""What a model relies on on each image: one forward pass, one row, some aligned maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias, final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from concept_cam.audit.columns import AuditRow
from concept_cam.audit.object_share import ObjectMask, shared
from concept_cam.audit.packing import numbers_of, packed
from concept_cam.audit.words import Words, erased, random_axes, without
from concept_cam.comparison import SAME, check_strength
from concept_cam.concepts import ConceptBank, embed
from concept_cam.datasets import Example
from concept_cam.errors import OptionError
from concept_cam.localizer import Localizer
from concept_cam.methods import name_of, sees_score
from concept_cam.metrics import constant, rank_correlation, relative_drop, strongest
from concept_cam.part_vocabulary import PartVocabulary
from concept_cam.passes import Pass, ordinary
from concept_cam.probabilities import ClassProbabilities, own_scale
from concept_cam.runs import Skipped
from concept_cam.views import View, each_view

_DIRECTIONS = 100
"""How many random directions are erased beside the backgrounds."""

_MASKED = 0.05
_GREY = constant()

_Decision: TypeAlias = tuple[AuditRow | Skipped, dict[str, Tensor] | None]
"""A row, and the tensors of an image that could be used."""


@final
@dataclass(frozen=True, eq=False)
class Examiner:
    """What looks at images, and the texts that it asks about.

    Attributes:
        localizer: model, method, preprocessing; its vocabulary is not used.
        classes: two or more, among which the model decides.
        parts: whose attributes tell classes apart in words; none leaves words out.
        backgrounds: texts that should not matter, two or more; none leaves them out.
        part_templates, scene_templates: sentences around phrases of parts, and around backgrounds; the localizer's by default.
        strength: of the runner-up in the map of a decision, 0 or more; at 1 it is the decision itself.

    Raises:
        OptionError: there is one class or one background, or the method does not look at the score.
        ComparisonError: the strength is negative or not finite.
    """

    localizer: Localizer
    classes: tuple[str, ...]
    parts: PartVocabulary | None = None
    backgrounds: tuple[str, ...] = ()
    part_templates: tuple[str, ...] | None = None
    scene_templates: tuple[str, ...] | None = None
    strength: float = 1.0

    def __post_init__(self) -> None:
        if len(set(self.classes)) < 2:
            raise OptionError(
                f"The audit has the classes {list(self.classes)}; expected two or more: "
                "an audit asks why an image is predicted as one class and not as another."
            )
        if len(set(self.backgrounds)) == 1:
            raise OptionError(
                f"There is one background, {self.backgrounds[0]!r}; expected two or more: each is what the others are not."
            )
        if not sees_score(self.localizer.method):
            name = name_of(self.localizer.method)
            raise OptionError(f"{name} does not look at the score, so it cannot explain a decision; choose another method.")
        check_strength(self.strength)

    @cached_property
    def bank(self) -> ConceptBank:
        """The classes."""
        return self.localizer.bank(self.classes)

    @cached_property
    def words(self) -> Words:
        """The phrases that may describe differences."""
        backbone, own = self.localizer.backbone, self.localizer.templates
        phrases = embed(backbone, self.parts.texts(), self.part_templates or own) if self.parts else None
        scenes = embed(backbone, self.backgrounds, self.scene_templates or own) if self.backgrounds else None
        return Words.of(self.parts, phrases, scenes)

    @cached_property
    def _against_others(self) -> Float[Tensor, "backgrounds E"]:
        """For each background the direction that compares it with all others."""
        scenes = self.words.bank.vectors_of(self.backgrounds)
        others = (scenes.sum(0) - scenes) / (len(scenes) - 1)
        return scenes - self.strength * others

    @cached_property
    def scale(self) -> float:
        """The inverse temperature of confidences."""
        return own_scale(self.localizer.backbone)

    def sentences(self) -> tuple[str, ...]:
        """All that is embedded: the classes, phrases of parts and backgrounds, each in its templates."""
        own = self.localizer.templates
        asked = [(self.classes, own), (self.backgrounds, self.scene_templates or own)]
        asked += [(self.parts.texts(), self.part_templates or own)] if self.parts else []
        return tuple(template.replace("{}", name) for names, templates in asked for name in names for template in templates)

    def prepare(self) -> None:
        """Embed all texts now, so that a word that is not known is found before the first image.

        Raises:
            UnknownConcept: the text encoder has never seen a word, or the classifier has no such class.
        """
        with ordinary():
            _ = self.bank, self.words

    def examine(self, examples: Sequence[Example]) -> tuple[list[AuditRow | Skipped], dict[str, Tensor]]:
        """A row for each example, and tensors of all that could be used, in their order.

        An example that cannot be used has a row that says why. The tensors:

            aligned (N, side, side)    the evidence, in the frame of the object; see ``ObjectMask``
            whole (N, side, side)      the same in the frame of the image
            shared (N, side, side)     where the map of the first words agrees with it, in the frame of the object, -1 to 1
            agreements (N, words)      rank correlation of the map of each of the words with the evidence, -1 to 1
            effects (N, backgrounds)   what each background, erased, takes off the probability of what was predicted, -1 to 1
            chance (N, directions)     what random directions take off it
            decision (cells)           the evidence at the grid of the model, of one image after the other
            base (cells)               likewise the base map of the prediction
            scene (cells)              likewise the map of the background that moves the prediction most, against the others
            grids (N, 2)               the rows and columns of these two
            placements (N, 10)         where they lie, see ``numbers_of``
        """
        self.prepare()
        decisions = each_view(
            examples, self._view, self.localizer.passes, self._decide, lambda one, error: (_problem(one, error), None)
        )
        return [row for row, _ in decisions], packed([tensors for _, tensors in decisions if tensors is not None])

    def _view(self, example: Example) -> View:
        self.bank.index(example.label)
        return View.of(example, self.localizer.preprocess)

    def _decide(self, seen: Pass, views: Sequence[View]) -> list[_Decision]:
        """Why each image is predicted as its class, and not as the runner-up."""
        bank, probabilities = self.bank, ClassProbabilities(self.localizer.backbone, self.bank, self.scale)
        before = probabilities.of_embedding(seen.embedding)
        first, second = seen.scores(bank).topk(2, dim=1).indices.T
        base, other = bank.vectors[first], bank.vectors[second]
        told = [self.words.difference(direction) for direction in base - other]
        asked = [base - self.strength * other, base]
        asked += [torch.stack([one.direction(self.words.bank) for one in of_all]) for of_all in zip(*told, strict=True)]
        effects, chance = self._effects(seen.embedding, probabilities, before, first)
        asked += [self._against_others[effects.argmax(1)]] if self.backgrounds else []
        evidence = seen.maps(self.localizer.method, torch.stack(asked))
        same = (F.cosine_similarity(base, other) > SAME).tolist()
        drops = _drops(probabilities, seen, evidence.stacked[0].float(), before, first, second)
        before, first, second = (tensor.cpu() for tensor in (before, first, second))
        evidence = evidence.single()
        maps, scenes = evidence.stacked, evidence.stacked[0, :, :0, :0]
        if self.backgrounds:
            maps, scenes = maps[:-1], maps[-1].nan_to_num(0.0, 0.0, 0.0)
        # Other maps are only shown, or compared with that of the decision; one that overflows agrees with nothing.
        maps, bases = torch.cat([maps[:1], maps[2:].nan_to_num(0.0, 0.0, 0.0)]), maps[1].nan_to_num(0.0, 0.0, 0.0)
        agreements = rank_correlation(maps[1:], maps[:1].expand_as(maps[1:])).float()
        found: list[_Decision] = []
        for b, view in enumerate(views):
            predicted, runner_up = bank.names[int(first[b])], bank.names[int(second[b])]
            problem = None
            if same[b]:
                problem = f"predicted as {predicted!r}, which the model cannot tell from {runner_up!r}: leave one of them out"
            elif flaw := evidence.flaw(0, b):
                problem = f"no evidence for {predicted!r} against {runner_up!r}: the map is {flaw}"
            if problem is not None:
                found.append((_problem(view.example, problem), None))
                continue
            ground = ObjectMask.of(seen.placements[b], view.region, maps.shape[2:])
            means = [(one, x) for one, x in zip(told[b], agreements[:, b].tolist(), strict=True) if one.describes(x)]
            row = AuditRow(
                image=_spelt(view.example.name),
                label=view.example.label,
                predicted=predicted,
                runner_up=runner_up,
                correct=predicted == view.example.label,
                confidence=float(before[b, first[b]]),
                runner_up_probability=float(before[b, second[b]]),
                **vars(ground.shares(maps[0, b])),
                rd5=float(drops[b]),
                words="; ".join(str(one) for one, _ in means),
                agreement=means[0][1] if means else None,
                background=self.backgrounds[int(effects[b].argmax())] if self.backgrounds else "",
                sensitivity=float(effects[b].max()) if self.backgrounds else None,
            )
            where = (
                ground.aligned(shared(maps[0, b], maps[1, b]))
                if told[b]
                else torch.zeros(0, 0, dtype=torch.float32, device="cpu")
            )
            tensors = {"aligned": ground.aligned(maps[0, b]), "whole": ground.whole(maps[0, b]), "shared": where}
            tensors |= {"agreements": agreements[:, b], "effects": effects[b], "chance": chance[b]}
            tensors |= {"decision": maps[0, b], "base": bases[b], "scene": scenes[b]}
            tensors["placements"] = numbers_of(seen.placements[b])
            found.append((row, tensors))
        return found

    def _effects(
        self,
        embedding: Float[Tensor, "B E"],
        probabilities: ClassProbabilities,
        before: Float[Tensor, "B K"],
        first: Int[Tensor, " B"],
    ) -> tuple[Float[Tensor, "B backgrounds"], Float[Tensor, "B directions"]]:
        """What erasing takes off the probability of the prediction: each background, and random directions."""
        if not self.backgrounds:
            nothing = torch.zeros(len(embedding), 0, dtype=torch.float32, device="cpu")
            return nothing, nothing
        scenes = self.words.bank.vectors_of(self.backgrounds)
        rows = torch.arange(len(first), device=first.device, dtype=torch.int64)

        def lost(erased_: Float[Tensor, "K B E"]) -> Float[Tensor, "B K"]:
            after = [probabilities.of_embedding(self.localizer.backbone.normalize(of_one))[rows, first] for of_one in erased_]
            return (before[rows, first] - torch.stack(after)).T.float().cpu()

        chance = erased(embedding, scenes.mean(0), random_axes(scenes, _DIRECTIONS))
        return lost(without(embedding, scenes)), lost(chance)


def _drops(
    probabilities: ClassProbabilities,
    seen: Pass,
    maps: Float[Tensor, "B rows cols"],
    before: Float[Tensor, "B K"],
    first: Int[Tensor, " B"],
    second: Int[Tensor, " B"],
) -> Float[Tensor, " B"]:
    """How much more the first falls than the second when the strongest 5 % of the input are masked; see ``relative_drop``."""
    after = probabilities(_GREY(seen.pixels, strongest(seen.enlarged(maps), _MASKED)))
    return relative_drop(before, after, first, second).cpu()


def _problem(example: Example, text: BaseException | str) -> Skipped:
    return Skipped.of(_spelt(example.name), example.label, text)


def _spelt(name: str) -> str:
    """A file name that is not UTF-8 reaches Python with lone surrogates, which no table can hold."""
    return name.encode(errors="replace").decode()
