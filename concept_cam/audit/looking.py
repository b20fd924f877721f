"""What a model goes by on each picture: one forward pass, one row, one aligned map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias, final

import torch
from jaxtyping import Float
from torch import Tensor

from concept_cam.audit.place import Place
from concept_cam.audit.words import Difference, Words, without
from concept_cam.concepts import ConceptBank, embed
from concept_cam.datasets import Example
from concept_cam.errors import ConceptCamError
from concept_cam.evaluation.grid import Doubt, View
from concept_cam.evaluation.judge import Judge, own_scale
from concept_cam.gradients import Trace
from concept_cam.localizer import Localizer
from concept_cam.methods import explain
from concept_cam.metrics import rank_correlation
from concept_cam.parts import PartVocabulary
from concept_cam.result import checked_maps

Row: TypeAlias = dict[str, Any]

COLUMNS = (
    "picture",
    "label",
    "predicted",
    "runner_up",
    "right",
    "confidence",
    "doubt",
    "off_object",
    "off_area",
    "border",
    "rd5",
    "words",
    "agreement",
    "background",
    "sensitivity",
    "problem",
)
"""What a row holds; what does not apply is empty. See docs/audit.md."""


@final
@dataclass(frozen=True, eq=False)
class Looker:
    """What looks at pictures, and the texts that it asks about.

    Attributes:
        localizer: model, method, preprocessing; its vocabulary is not used.
        classes: among which the model decides.
        parts: whose attributes tell classes apart in words; none leaves words out.
        backgrounds: texts that should not matter.
        part_templates, scene_templates: sentences around phrases of parts, and around backgrounds; the localizer's by default.
        strength: of the runner-up in the map of a decision; at 1 it is the decision itself.
    """

    localizer: Localizer
    classes: tuple[str, ...]
    parts: PartVocabulary | None = None
    backgrounds: tuple[str, ...] = ()
    part_templates: tuple[str, ...] | None = None
    scene_templates: tuple[str, ...] | None = None
    strength: float = 1.0

    @cached_property
    def bank(self) -> ConceptBank:
        """The classes."""
        return self.localizer.bank(self.classes)

    @cached_property
    def words(self) -> Words:
        """The phrases among which differences are told."""
        backbone, own = self.localizer.backbone, self.localizer.templates
        phrases = embed(backbone, self.parts.texts(), self.part_templates or own) if self.parts else None
        scenes = embed(backbone, self.backgrounds, self.scene_templates or own) if self.backgrounds else None
        return Words.of(self.parts, phrases, scenes)

    @cached_property
    def scene_localizer(self) -> Localizer:
        """The localizer with the sentences of backgrounds."""
        own = self.localizer
        templates = self.scene_templates or own.templates
        return Localizer(own.backbone, templates=templates, method=own.method, site=own.site, form=own.form)

    @cached_property
    def scale(self) -> float:
        """The inverse temperature of confidences."""
        return own_scale(self.localizer.backbone)

    def look(self, examples: Sequence[Example]) -> tuple[list[Row], dict[str, Tensor]]:
        """A row for each example; and for all that could be used, in order, ``maps`` aligned by object and ``effects``.

        ``effects`` (N, backgrounds) is how much each background, erased, takes off the probability of what was predicted.
        An example that cannot be used has a row that says why.
        """
        with torch.inference_mode(False), torch.no_grad():
            rows: dict[int, Row] = {}
            views: dict[int, View] = {}
            for index, example in enumerate(examples):
                try:
                    self.bank.index(example.label)
                    views[index] = View.of(example, self.localizer.preprocess)
                except ConceptCamError as error:
                    rows[index] = {"picture": example.name, "label": example.label, "problem": str(error)}
            usable = list(views)
            maps: dict[int, Tensor] = {}
            effects: dict[int, Tensor] = {}
            for seen, alike, _ in self.localizer.traces([views[i].frame for i in usable]):
                which = [usable[i] for i in alike]
                with torch.autocast(self.localizer.backbone.device.type, enabled=False):
                    decisions = self._decide(seen, [views[i] for i in which])
                for i, (row, aligned, effect) in zip(which, decisions, strict=True):
                    rows[i], maps[i], effects[i] = row, aligned, effect
        stacks = {"maps": maps, "effects": effects}
        tensors = {name: torch.stack([of[i] for i in usable]).half() for name, of in stacks.items() if usable}
        return [rows[i] for i in range(len(examples))], tensors

    def _decide(self, seen: Trace, views: Sequence[View]) -> list[tuple[Row, Tensor, Tensor]]:
        """Why each picture was taken for what it was taken for, and not for the runner-up."""
        bank, judge = self.bank, Judge(self.localizer.backbone, self.bank, self.scale)
        before = judge.of_embedding(seen.embedding)
        first, second = bank.scores(seen.embedding).topk(2, dim=1).indices.T
        base, other = bank.vectors[first], bank.vectors[second]
        told = [self.words.difference(direction) for direction in base - other] if self.words.groups else []
        asked = [base - self.strength * other]
        asked += [torch.stack([one.direction(self.words.bank) for one in of_all]) for of_all in zip(*told, strict=True)]
        maps = explain(self.localizer.method, seen, torch.stack(asked)).float()
        checked_maps(maps[0], seen.site.name)
        doubt = Doubt(judge, seen.pixels, before, first, second).about(maps[0], steps=0)
        agreements = rank_correlation(maps[1:], maps[:1].expand_as(maps[1:])) if told else torch.zeros(0, len(views))
        effects = self._effects(seen.embedding, judge, before, first)
        found = []
        for b, view in enumerate(views):
            place = Place.of(maps[0, b].cpu(), view.frame.placement, view.region)
            predicted, runner_up = bank.names[int(first[b])], bank.names[int(second[b])]
            row: Row = {
                "picture": view.example.name,
                "label": view.example.label,
                "predicted": predicted,
                "runner_up": runner_up,
                "right": int(predicted == view.example.label),
                "confidence": float(before[b, first[b]]),
                "doubt": float(before[b, second[b]]),
                "off_object": place.off_object,
                "off_area": place.off_area,
                "border": place.border,
                "rd5": float(doubt["rd5"][b]),
            }
            if told:
                row["words"] = "; ".join(_told(one) for one in told[b])
                row["agreement"] = float(agreements[0, b])
            if self.backgrounds:
                strongest = int(effects[b].argmax())
                row |= {"background": self.backgrounds[strongest], "sensitivity": float(effects[b, strongest])}
            found.append(({key: value for key, value in row.items() if value is not None}, place.aligned, effects[b].cpu()))
        return found

    def _effects(
        self, embedding: Float[Tensor, "B E"], judge: Judge, before: Float[Tensor, "B K"], first: Tensor
    ) -> Float[Tensor, "B backgrounds"]:
        if len(self.backgrounds) < 2:
            return torch.zeros(len(embedding), 0)
        erased = without(embedding, self.words.bank.vectors_of(self.backgrounds))
        after = torch.stack([judge.of_embedding(self.localizer.backbone.normalize(of_one)) for of_one in erased])
        rows = torch.arange(len(first), device=first.device)
        return (before[rows, first] - after[:, rows, first]).T.cpu()


def _told(difference: Difference) -> str:
    return f"{difference.ours} (not {difference.theirs})"
