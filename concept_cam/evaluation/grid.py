"""Methods x references x strengths on the images of a data set: one forward pass for each image, one row for each map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from concept_cam.backbones.backbone import Backbone
from concept_cam.backbones.site import TokenLayout
from concept_cam.concepts import ConceptBank
from concept_cam.datasets import Example
from concept_cam.evaluation.columns import GridRow
from concept_cam.evaluation.contrasts import Contrast, contrasts_of
from concept_cam.evaluation.references import read_references
from concept_cam.evaluation.sanity import SanityChecks, shuffled
from concept_cam.evaluation.settings import Settings
from concept_cam.evidence import EvidenceMap
from concept_cam.images import WHOLE, Frame, Span
from concept_cam.localizer import Localizer
from concept_cam.methods import sees_score
from concept_cam.metrics import (
    area_under,
    average_precision,
    best_iou,
    box_overlaps,
    constant,
    deletion_curve,
    energy_inside,
    iou,
    pointing_hit,
    relative_drop,
    strongest,
)
from concept_cam.passes import Pass
from concept_cam.probabilities import ClassProbabilities
from concept_cam.runs import Skipped
from concept_cam.views import View, each_view

_SHARES = {"rd5": 0.05, "rd10": 0.1}
_GREY = constant()


@final
@dataclass(frozen=True, eq=False)
class Grid:
    """Everything that a run needs to know.

    Attributes:
        localizer: model, preprocessing, site and form of the gradient; its own method is not used.
        bank: the classes, as texts or as a linear probe.
        scale: the inverse temperature of confidences.
        settings: what is run.
    """

    localizer: Localizer
    bank: ConceptBank
    scale: float
    settings: Settings

    @cached_property
    def randomized(self) -> Backbone:
        """The model with its parameters shuffled."""
        return shuffled(self.localizer.backbone)

    def rows(self, examples: Sequence[Example]) -> list[GridRow | Skipped]:
        """All rows of some examples, in their order; an example that cannot be used has one row that says why."""
        rows = each_view(examples, self.view, self.passes, self._of_pass, _unusable)
        return [row for of_one in rows for row in of_one]

    def passes(self, frames: Sequence[Frame]) -> Iterator[Pass]:
        """Frames through the model, with what the methods need."""
        return self.localizer.passes(frames, self.settings.named.values())

    def view(self, example: Example) -> View:
        """An example as the model sees it."""
        self.bank.vectors_of([example.label, example.twin or example.label])
        return View.of(example, self.localizer.preprocess)

    def _of_pass(self, seen: Pass, views: Sequence[View]) -> list[list[GridRow | Skipped]]:
        """Rows of images that went through the model together."""
        bank, settings = self.bank, self.settings
        scores = seen.scores(bank)
        asked = [self.contrasts(view.example, of_one) for view, of_one in zip(views, scores, strict=True)]
        examples = [view.example for view in views]
        probabilities = ClassProbabilities(self.localizer.backbone, bank, self.scale)
        # Of one class a model is always sure: that its score rests on something cannot be seen.
        occluded = OcclusionScores.of(probabilities, seen, examples) if len(bank.names) > 1 else None
        labels = _indices(bank, [example.label for example in examples])
        checks = SanityChecks.of(seen, self.randomized, bank, labels) if settings.sanity else None
        correct = [best == label for best, label in zip(scores.argmax(1).tolist(), labels.tolist(), strict=True)]
        rows: list[list[GridRow | Skipped]] = [[] for _ in views]
        for name, method in settings.named.items():
            count = len(asked[0]) if sees_score(method) else 1
            directions = torch.stack([torch.stack([c.direction for c in of_one[:count]]) for of_one in asked], 1)
            maps = seen.maps(method, directions)
            grids, evidence = maps.stacked.float(), maps.single()
            sane = checks.about(method, grids, directions) if checks else {}
            for k in range(count):
                rests_on = occluded.about(grids[k], settings.deletion) if occluded else {}
                rests_on |= {key: of_all[k] for key, of_all in sane.items()}
                for b, view in enumerate(views):
                    contrast = asked[b][k]
                    if contrast.problem is not None:
                        continue
                    if flaw := evidence.flaw(k, b):
                        text = f"{name} against {contrast.references}: the map is {flaw}"
                        rows[b].append(_problem(view.example, text))
                        continue
                    figures = where(view, evidence.of(k, b)) | {key: float(of_all[b]) for key, of_all in rests_on.items()}
                    rows[b].append(contrast.row(view.example.name, view.example.label, name, correct[b], figures))
        for view, of_one, own in zip(views, asked, rows, strict=True):
            own += [_problem(view.example, text) for text in dict.fromkeys(c.problem for c in of_one) if text]
        return rows

    def contrasts(self, example: Example, scores: Float[Tensor, " K"]) -> list[Contrast]:
        """The directions of an example, as many for each and in one order.

        Args:
            example: one of the data set.
            scores: of its image and every class.
        """
        selectors = {text: read_references(text)(example) for text in self.settings.references}
        return contrasts_of(self.bank, example.label, scores, selectors, self.settings.strengths)


def _unusable(example: Example, error: Exception) -> list[GridRow | Skipped]:
    return [_problem(example, error)]


def _problem(example: Example, text: BaseException | str) -> Skipped:
    return Skipped.of(example.name, example.label, text)


def _indices(bank: ConceptBank, names: Sequence[str]) -> Int[Tensor, " B"]:
    return torch.tensor([bank.index(name) for name in names], dtype=torch.int64, device="cpu")


def where(view: View, evidence: EvidenceMap, tolerance: float | None = None) -> dict[str, Any]:
    """Metrics of localization of a map; none where it is not known where the evidence should lie.

    Args:
        view: the example.
        evidence: the map on it.
        tolerance: how far from the region a peak may lie, in pixels of the image; by default the height of a cell.
    """
    if view.region is None:
        return {}
    region, boxes, heatmap = view.region, view.example.boxes, evidence.heatmap()
    reach = evidence.placement.cell_size(evidence.grid.shape)[0] if tolerance is None else tolerance
    hit, chance = evidence.pointing(lambda cells: pointing_hit(cells, region.expand(len(cells), -1, -1), reach))
    row: dict[str, Any] = {
        "energy": float(energy_inside(heatmap, region)),
        "area": float(region.double().mean()),
        "hit": float(hit),
        "chance": chance,
        "iou": float(iou(heatmap, region)),
        "best_iou": float(best_iou(heatmap, region)),
        "average_precision": float(average_precision(heatmap, region)),
    }
    if boxes:
        row["best_box"] = float(box_overlaps(heatmap, torch.tensor(boxes, dtype=torch.float64, device="cpu")).amax())
    return row


@final
@dataclass(frozen=True, eq=False)
class OcclusionScores:
    """Class probabilities before and after masking, and the faithfulness metrics that follow (RD, deletion).

    Attributes:
        probabilities: the model.
        pixels: the images.
        before: confidences with nothing masked.
        target, twin: the label of each image, and the class most easily confused with it.
        span: of the pixels that maps cover.
    """

    probabilities: ClassProbabilities
    pixels: Float[Tensor, "B 3 height width"]
    before: Float[Tensor, "B K"]
    target: Int[Tensor, " B"]
    twin: Int[Tensor, " B"]
    span: Span = WHOLE

    @classmethod
    def of(cls, probabilities: ClassProbabilities, seen: Pass, examples: Sequence[Example]) -> OcclusionScores:
        """The class probabilities of images with nothing masked.

        Where the data set names no twin, the class whose text is nearest to the label takes its place.

        Args:
            probabilities: of the classes, by the model.
            seen: the pass over the images.
            examples: the images of that pass, in its order.
        """
        bank = probabilities.bank
        twins = [example.twin or bank.neighbours(example.label, 1)[0] for example in examples]
        target, twin = (_indices(bank, names) for names in ([e.label for e in examples], twins))
        return cls(probabilities, seen.pixels, probabilities.of_embedding(seen.embedding), target, twin, seen.layout.span)

    def about(self, grids: Float[Tensor, "B rows cols"], steps: int) -> dict[str, Float[Tensor, " B"]]:
        """Metrics of faithfulness, one map for each image; with a deletion curve of so many steps, if any."""
        size = (int(self.pixels.shape[2]), int(self.pixels.shape[3]))
        heatmaps = TokenLayout(0, grids.shape[1], grids.shape[2], self.span).enlarged(grids, size)
        found = {}
        for key, share in _SHARES.items():
            after = self.probabilities(_GREY(self.pixels, strongest(heatmaps, share)))
            found[key] = relative_drop(self.before, after, self.target, self.twin)
        if steps:
            found["deletion"] = area_under(
                deletion_curve(self.probabilities, self.pixels, heatmaps, self.target, steps, _GREY)
            )
        return found
