"""Methods x references x strengths on the images of a data set: one forward pass for each image, one row for each map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from concept_cam.backbones.backbone import Backbone
from concept_cam.backbones.site import TokenLayout
from concept_cam.concepts import ConceptBank
from concept_cam.datasets import Example
from concept_cam.errors import DatasetError
from concept_cam.evaluation.columns import GridRow
from concept_cam.evaluation.contrasts import Contrast, contrasts_of
from concept_cam.evaluation.probabilities import ClassProbabilities
from concept_cam.evaluation.references import read_references
from concept_cam.evaluation.sanity import SanityChecks, shuffled
from concept_cam.evaluation.settings import Settings
from concept_cam.gradients import Trace, trace
from concept_cam.images import WHOLE, Frame, Size, Span, by_size
from concept_cam.localizer import Localizer
from concept_cam.methods import explain, sees_score
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
from concept_cam.metrics.localization import check_masks
from concept_cam.preprocess import Preparation
from concept_cam.result import checked_maps
from concept_cam.runs import Skipped

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
        with torch.inference_mode(False), torch.no_grad():
            found: dict[int, list[GridRow | Skipped]] = {}
            views: dict[int, View] = {}
            for index, example in enumerate(examples):
                try:
                    self.bank.vectors_of([example.label, example.twin or example.label])
                    views[index] = View.of(example, self.localizer.preprocess)
                except MemoryError:
                    raise
                except Exception as error:  # noqa: BLE001  (whatever is wrong with an example is its row)
                    found[index] = [_problem(example, error)]
            usable = list(views)
            for size, alike in by_size([views[i].frame for i in usable]).items():
                which = [usable[i] for i in alike]
                found |= dict(zip(which, self._of_views([views[i] for i in which], size), strict=True))
        return [row for index in range(len(examples)) for row in found[index]]

    def _of_views(self, views: Sequence[View], size: Size) -> list[list[GridRow | Skipped]]:
        """Rows of images that go through the model together."""
        localizer, bank = self.localizer, self.bank
        pixels = torch.stack([view.frame.pixels for view in views]).to(localizer.backbone.device, localizer.backbone.dtype)
        seen = trace(localizer.backbone.at_size(size), pixels, localizer.site, localizer.form)
        with torch.autocast(localizer.backbone.device.type, enabled=False):
            scores = bank.scores(seen.embedding)
            asked = [self._contrasts(view.example, of_one) for view, of_one in zip(views, scores, strict=True)]
            probabilities = ClassProbabilities(localizer.backbone, bank, self.scale)
            # Of one class a model is always sure: that its score rests on something cannot be seen.
            occluded = (
                OcclusionScores.of(probabilities, seen, [view.example for view in views]) if len(bank.names) > 1 else None
            )
            target = _indices(bank, [view.example.label for view in views])
            sanity = self.settings.sanity
            alike = SanityChecks.of(localizer, self.randomized, seen, bank, target) if sanity else None
            rows: list[list[GridRow | Skipped]] = [[] for _ in views]
            for name, method in self.settings.named.items():
                count = len(asked[0]) if sees_score(method) else 1
                directions = torch.stack([torch.stack([c.direction for c in of_one[:count]]) for of_one in asked], 1)
                maps = explain(method, seen, directions).float()
                # One map may be blank, of a method that is never negative; where all are, the site is blind.
                checked_maps(maps.abs().sum((0, 1)), seen.site.name)
                sane = alike.about(method, maps, directions) if alike else {}
                for k, grids in enumerate(maps):
                    rests_on = occluded.about(grids, self.settings.deletion) if occluded else {}
                    rests_on |= {key: of_all[k] for key, of_all in sane.items()}
                    for b, (view, grid) in enumerate(zip(views, grids.cpu(), strict=True)):
                        contrast = asked[b][k]
                        if contrast.problem is None and not grid.any():
                            text = f"{name} against {contrast.references}: the map is blank"
                            rows[b].append(_problem(view.example, text))
                        elif contrast.problem is None:
                            drops: dict[str, Any] = {key: float(of_all[b]) for key, of_all in rests_on.items()}
                            row = GridRow(
                                image=view.example.name,
                                label=view.example.label,
                                method=name,
                                references=contrast.references,
                                strength=contrast.strength,
                                against="; ".join(contrast.against),
                                similarity=contrast.similarity if contrast.against else None,
                                correct=bool(scores[b].argmax() == bank.index(view.example.label)),
                                **view.where(grid, span=seen.layout.span),
                                **drops,
                            )
                            rows[b].append(row)
        for view, of_one, own in zip(views, asked, rows, strict=True):
            own += [_problem(view.example, text) for text in dict.fromkeys(c.problem for c in of_one) if text]
        return rows

    def _contrasts(self, example: Example, scores: Float[Tensor, " K"]) -> list[Contrast]:
        """As many for each example, in one order."""
        selectors = {text: read_references(text)(example) for text in self.settings.references}
        return contrasts_of(self.bank, example.label, scores, selectors, self.settings.strengths)


def _problem(example: Example, text: BaseException | str) -> Skipped:
    return Skipped.of(example.name, example.label, text)


def _indices(bank: ConceptBank, names: Sequence[str]) -> Int[Tensor, " B"]:
    return torch.tensor([bank.index(name) for name in names], dtype=torch.int64, device="cpu")


@final
@dataclass(frozen=True, eq=False)
class View:
    """An example as the model sees it, and its truth."""

    example: Example
    frame: Frame
    region: Bool[Tensor, "height width"] | None

    @classmethod
    def of(cls, example: Example, preprocess: Preparation) -> View:
        """Read image and region.

        Raises:
            ImageError, DatasetError: one cannot be read, or they do not fit.
        """
        frame = Frame.of(example.read(), preprocess)
        region = example.region() if example.region else None
        if region is not None:
            height, width = frame.placement.image_size
            if tuple(region.shape) != (height, width):
                raise DatasetError(
                    f"{example.name}: the mask is {region.shape[0]} x {region.shape[1]}, the image {height} x {width}."
                )
            check_masks(region)
        return cls(example, frame, region)

    def where(self, grid: Float[Tensor, "rows cols"], patches: int | None = None, span: Span = WHOLE) -> dict[str, Any]:
        """Metrics of localization.

        Args:
            grid: a map.
            patches: how many rows of patches the model has, for a map that is finer.
            span: of the frame that the map covers, as ``TokenLayout`` has it.
        """
        if self.region is None:
            return {}
        placement, region, boxes = self.frame.placement.covering(span), self.region, self.example.boxes
        heatmap = placement.project(grid)
        shown = placement.shown(grid.shape)
        row, column = divmod(int(grid.masked_fill(~shown, -torch.inf).argmax()), grid.shape[1])
        cells = torch.tensor(
            [placement.locate(r, c, grid.shape) for r, c in shown.nonzero().tolist()], dtype=torch.float32, device="cpu"
        )
        side, _ = placement.cell_size((patches or grid.shape[0], grid.shape[1]))
        hits = pointing_hit(cells, region.expand(len(cells), -1, -1), side)
        peak = int(shown[:row].sum() + shown[row, :column].sum())
        return {
            "energy": float(energy_inside(heatmap, region)),
            "area": float(region.double().mean()),
            "hit": float(hits[peak]),
            "chance": float(hits.double().mean()),
            "iou": float(iou(heatmap, region)),
            "best_iou": float(best_iou(heatmap, region)),
            "average_precision": float(average_precision(heatmap, region)),
            **(
                {"best_box": float(box_overlaps(heatmap, torch.tensor(boxes, dtype=torch.float64, device="cpu")).amax())}
                if boxes
                else {}
            ),
        }


@final
@dataclass(frozen=True, eq=False)
class OcclusionScores:
    """What the model says of images when something is covered.

    Attributes:
        probabilities: the model.
        pixels: the images.
        before: confidences with nothing covered.
        target, twin: the label of each image, and the class that it is most easily taken for.
        span: of the pixels that maps cover.
    """

    probabilities: ClassProbabilities
    pixels: Float[Tensor, "B 3 height width"]
    before: Float[Tensor, "B K"]
    target: Int[Tensor, " B"]
    twin: Int[Tensor, " B"]
    span: Span = WHOLE

    @classmethod
    def of(cls, probabilities: ClassProbabilities, seen: Trace, examples: Sequence[Example]) -> OcclusionScores:
        """The twin is the data set's, or the nearest by text."""
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
