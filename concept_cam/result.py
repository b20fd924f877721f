"""RESULT: a Localization, in the pixels of the image that was given, with all that went into it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Bool, Float
from safetensors.torch import save
from torch import Tensor

from concept_cam.comparison import Comparison
from concept_cam.errors import BackboneError, NoSpatialGradient, OptionError
from concept_cam.files import write_file
from concept_cam.images import Placement
from concept_cam.regions import Box, bounding_boxes
from concept_cam.stored import MOST_CELLS, exactly, mapping, number, numbers, placed, read_stored, refused, sides, texts

_LARGEST = 1e30
"""Of a strength and of a score, in either direction."""


def checked_maps(maps: Float[Tensor, "*K rows cols"], site: str) -> Float[Tensor, "*K rows cols"]:
    """The maps, if each says something.

    Raises:
        BackboneError: one is not finite.
        NoSpatialGradient: one is blank.
    """
    if not maps.isfinite().all():
        raise BackboneError(
            f"The map at {site} is not finite: the model holds NaN, or overflows in {maps.dtype}; try float32."
        )
    if not maps.flatten(-2).any(-1).all():
        raise NoSpatialGradient(f"Nothing at {site} speaks for or against the target: the map is blank.")
    return maps


@final
@dataclass(frozen=True, eq=False)
class Localization:
    """Where the target is told from its references.

    Attributes:
        map: signed evidence for each patch, neither clipped nor scaled; on the CPU and in float32, unless the localizer was
            told to leave it on the model's device and in its precision.
        base_map: the same at strength 0: the target alone.
        placement: which window of the image the map shows.
        comparison: target, references, weights, similarities, strength.
        scores: of the target and each reference on the image: cosines, -1 to 1, or logits of a classifier.
        provenance: model, site, form of the gradient, method, templates, versions.

    Example:
        >>> from concept_cam import world
        >>> plate = world.draw_species("ember finch", seed=3)
        >>> result = world.localizer()(plate.image, "ember finch", "frost finch")
        >>> result.map.shape, result.heatmap().shape, result.mask().shape
        (torch.Size([12, 12]), torch.Size([384, 384]), torch.Size([384, 384]))
    """

    map: Float[Tensor, "rows cols"]
    base_map: Float[Tensor, "rows cols"]
    placement: Placement
    comparison: Comparison
    scores: Mapping[str, float]
    provenance: Mapping[str, Any]

    def heatmap(self, *, base: bool = False) -> Float[Tensor, "height width"]:
        """The signed map in the pixels of the image, bilinear; NaN where the model did not see the image.

        Where the map is, in float32 at least.
        """
        grid = self.base_map if base else self.map
        return self.placement.project(grid.to(torch.promote_types(grid.dtype, torch.float32)))

    def mask(self, threshold: float = 0.5) -> Bool[Tensor, "height width"]:
        """The pixels with at least ``threshold`` (0 to 1) of the strongest evidence; none if nothing speaks for the target.

        Raises:
            OptionError: the threshold is not above 0 and at most 1.
        """
        if not 0 < threshold <= 1:
            raise OptionError(f"threshold is {threshold}; expected a share of the maximum, above 0 and at most 1.")
        grid = self.map.to(torch.promote_types(self.map.dtype, torch.float32))
        peaks = [strip.nan_to_num(nan=float("-inf")).max() for _, strip in self.placement.strips(grid)]
        strongest = torch.stack(peaks).max()
        bar = threshold * strongest if strongest > 0 else float("inf")
        mask = torch.empty(self.placement.image_size, dtype=torch.bool, device=grid.device)
        for rows, strip in self.placement.strips(grid):
            # What was not seen is NaN, which is no more than anything.
            mask[rows.start : rows.stop] = strip >= bar
        return mask

    def boxes(self, threshold: float = 0.5) -> tuple[Box, ...]:
        """The connected regions of ``mask(threshold)`` as half-open (left, top, right, bottom), the strongest first."""
        return bounding_boxes(self.mask(threshold), self.heatmap())

    def peak(self) -> tuple[float, float]:
        """(x, y) on the image: the centre of the patch with the strongest evidence."""
        # Where the input was padded, cells lie beside the image, or their centres do.
        shown = self.placement.shown(self.map.shape).to(self.map.device)
        visible = self.map.masked_fill(~shown, float("-inf"))
        row, column = divmod(int(visible.argmax()), self.map.shape[1])
        x, y = self.placement.locate(row, column, self.map.shape)
        height, width = self.placement.image_size
        return min(max(x, 0.0), float(width)), min(max(y, 0.0), float(height))

    def summary(self) -> dict[str, Any]:
        """All but the maps, as JSON knows it."""
        return {
            "comparison": asdict(self.comparison),
            "scores": dict(self.scores),
            "placement": self.placement.as_dict(),
            "provenance": dict(self.provenance),
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write maps and summary to one ``.safetensors`` file, whole or not at all.

        Raises:
            OutputError: it cannot be written; an older file of that name is as it was.
        """
        tensors = {"map": self.map.contiguous(), "base_map": self.base_map.contiguous().clone()}
        return write_file(path, save(tensors, {"localization": json.dumps(self.summary())}))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Localization:
        """Read what ``save`` wrote.

        Raises:
            OutputError: it cannot be read, or something of it is not what ``save`` could have written: shapes, numbers that
                are not finite, names, sizes.
        """
        with refused(path, "localization"):
            about, tensors = read_stored(path, "localization")
            exactly(about, ("comparison", "scores", "placement", "provenance"), "the localization")
            exactly(tensors, ("map", "base_map"), "the file")
            grid = sides(list(tensors["map"].shape), "map", MOST_CELLS)
            if tuple(tensors["base_map"].shape) != grid:
                raise ValueError(f"base_map is {tuple(tensors['base_map'].shape)}, map {grid}")
            comparison = _compared(mapping(about["comparison"], "comparison"))
            scores = mapping(about["scores"], "scores")
            exactly({name: scores[name] for name in scores if name in comparison.names}, comparison.names, "scores")
            return cls(
                **tensors,
                placement=placed(about["placement"], grid),
                comparison=comparison,
                scores={name: number(score, "a score", -_LARGEST, _LARGEST) for name, score in scores.items()},
                provenance=mapping(about["provenance"], "provenance"),
            )


def _compared(held: Mapping[str, Any]) -> Comparison:
    """A comparison as ``compare`` could have made it.

    Raises:
        ValueError: it is none.
    """
    exactly(held, (field.name for field in fields(Comparison)), "comparison")
    target, references = texts([held["target"]], "target")[0], texts(held["references"], "references")
    if len({target, *references}) <= len(references):
        raise ValueError("the target and the references are not all different")
    weights = numbers(held["weights"], "weights", 0, 1.001, len(references))
    if references and abs(sum(weights) - 1) > 1e-3:
        raise ValueError(f"weights have the sum {sum(weights):g}; expected 1")
    similarities = numbers(held["similarities"], "similarities", -1, 1, len(references))
    return Comparison(target, references, weights, similarities, number(held["strength"], "strength", 0, _LARGEST))
