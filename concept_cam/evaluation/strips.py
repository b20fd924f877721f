"""Images of an evaluation with their maps: where references help most, as usual, and least."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Bool
from PIL import Image
from torch import Tensor

from concept_cam.datasets import Dataset
from concept_cam.drawing import map_on
from concept_cam.evaluation.columns import GridRow
from concept_cam.evaluation.contrasts import BASE
from concept_cam.evaluation.grid import Grid
from concept_cam.evaluation.page import chosen
from concept_cam.evaluation.report import Measured
from concept_cam.explorer import Beside, has_field
from concept_cam.explorer.beside import CONCEPTS
from concept_cam.field import ConceptField
from concept_cam.methods import as_method
from concept_cam.page import Strip, Thumbnail
from concept_cam.passes import Pass
from concept_cam.provenance import provenance_of
from concept_cam.reading import seen
from concept_cam.runs import Skipped
from concept_cam.views import View, each_view

EXPLORER = "explore.html"
"""The file beside the report."""

_NEAREST = 50
"""So many neighbours of a class are in the explorer, where that has not all classes."""

_SIDE = 320
_DIM = (40, 40, 40)
_TITLES = ("The largest gain", "The median gain", "The smallest gain")


def strips(grid: Grid, dataset: Dataset, rows: Sequence[GridRow | Skipped], explorer: Path) -> tuple[Strip, ...]:
    """Three images with the base map and the best contrastive map; none where nothing is compared.

    Args:
        grid: what was run.
        dataset: on what.
        rows: what came of it.
        explorer: a page with these images, to be written and linked to; not of a method that is not linear.

    Raises:
        OutputError: the explorer cannot be written.
    """
    found = chosen(rows)
    gains = [] if found is None else sorted(_gains(rows, *found).items(), key=lambda item: -item[1])
    if found is None or not gains:
        return ()
    metric, top = found
    # Of few images the first title is that of one place.
    places = dict(zip((len(gains) - 1, (len(gains) - 1) // 2, 0), _TITLES[::-1], strict=True))
    if gains[-1][1] < 0:
        places[len(gains) - 1] = "The largest loss" if len(gains) > 1 else "A loss"
    titles = {gains[at][0]: f"{places[at]}: {gains[at][0][1]}, {metric} {gains[at][1]:+.2f}" for at in sorted(places)}
    examples = {(one.name, one.label): one for one in dataset.examples if (one.name, one.label) in titles}
    asked = [examples[name] for name in titles if name in examples]
    beside = None
    if has_field(grid.settings.named[top.method]):
        around = (name for one in asked for name in (one.label, *grid.bank.neighbours(one.label, _NEAREST)))
        beside = Beside(explorer, grid.bank.select(list(dict.fromkeys([*around, *grid.bank.names]))[:CONCEPTS]))
    drawn = each_view(asked, grid.view, grid.passes, partial(_drawn, grid, top, beside), lambda example, error: ())
    if beside is not None:
        beside.write()
    return tuple(Strip(titles[one.name, one.label], images) for one, images in zip(asked, drawn, strict=True) if images)


def _gains(rows: Sequence[GridRow | Skipped], metric: str, top: Measured) -> dict[tuple[str, str], float]:
    """Of each image the gain of the best combination over its base map."""
    values: dict[tuple[str, float], dict[tuple[str, str], float]] = {}
    for row in rows:
        if isinstance(row, GridRow) and row.method == top.method and (value := getattr(row, metric)) is not None:
            values.setdefault((row.references, row.strength), {})[row.image, row.label] = value
    base, ours = values.get((BASE, 0.0), {}), values.get((top.references, top.strength), {})
    return {name: value - base[name] for name, value in ours.items() if name in base}


def _drawn(grid: Grid, top: Measured, beside: Beside | None, one: Pass, views: Sequence[View]) -> list[tuple[Thumbnail, ...]]:
    """Of each image itself, where the evidence should lie, and its two maps."""
    contrasts = [grid.contrasts(view.example, scores) for view, scores in zip(views, one.scores(grid.bank), strict=True)]
    wanted = top.references, top.strength
    asked = [next(each for each in of_one if (each.references, each.strength) == wanted) for of_one in contrasts]
    pairs = [torch.stack([of_one[0].direction, each.direction]) for of_one, each in zip(contrasts, asked, strict=True)]
    method = grid.settings.named[top.method]
    evidence = one.maps(method, torch.stack(pairs, 1)).single()
    about = provenance_of(one.trace, as_method(method), grid.localizer.preprocess, grid.localizer.templates)
    fields = ConceptField.of(one.trace, method, one.placements, about) if beside is not None else ()
    found = []
    for b, (view, contrast) in enumerate(zip(views, asked, strict=True)):
        image = seen(view.example.read())
        small = image.copy()
        small.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
        placement = one.placements[b].scaled((small.height, small.width))
        base, contrastive = (map_on(small, placement, evidence.of(k, b).grid) for k in (0, 1))
        panels = [(small, f"image {view.example.name}")]
        panels += [(_lit(small, view.region), "mask: where the evidence should lie")] if view.region is not None else []
        panels += [(base, "base map, without comparison")]
        panels += [(contrastive, f"contrastive map, against {', '.join(contrast.against)}")]
        explore = None
        if beside is not None:
            look = partial(_pair, image, fields[b])
            key = view.example.name, view.example.label
            explore = beside.link(view.example.name, look, view.example.label, contrast.against, contrast.strength, key)
        found.append(
            tuple(Thumbnail(panel, text, None, explore if panel is contrastive else None, _SIDE) for panel, text in panels)
        )
    return found


def _pair(image: Image.Image, field: ConceptField) -> tuple[Image.Image, ConceptField]:
    return image, field


def _lit(image: Image.Image, region: Bool[Tensor, "height width"]) -> Image.Image:
    """The image with all but a region dimmed."""
    mask = Image.fromarray(region.to(torch.uint8).mul(255).cpu().numpy()).resize(image.size)
    dimmed = Image.blend(image.convert("L").convert("RGB"), Image.new("RGB", image.size, _DIM), 0.6)
    dimmed.paste(image, mask=mask)
    return dimmed
