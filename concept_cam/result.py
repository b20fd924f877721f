"""RESULT: a Localization, in the pixels of the image that was given, with all that went into it."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, final

from jaxtyping import Bool, Float
from safetensors.torch import save
from torch import Tensor, device as Device

from concept_cam.comparison import Comparison
from concept_cam.errors import ConceptCamError, one_line
from concept_cam.evidence import EvidenceMap
from concept_cam.files import write_file
from concept_cam.heat import resized, upright
from concept_cam.images import Placement, Source, read_image
from concept_cam.legend import with_legend
from concept_cam.regions import Box
from concept_cam.stored import MOST_CELLS, exactly, mapping, number, numbers, placed, read_stored, refused, sides, texts

_LARGEST = 1e30
"""Of a strength and of a score, in either direction."""

_SHOWN = 640
"""The longer side of an image in a notebook, at most."""


@final
@dataclass(frozen=True, eq=False)
class Localization:
    """Where the target is told from its references.

    Attributes:
        evidence: the map of the target against its references, on the CPU and in float32, unless the localizer was told to
            leave maps on the model's device and in its precision.
        base: the same at strength 0: the map of the target alone.
        comparison: target, references, weights, similarities, strength.
        scores: of the target and each reference on the image: cosines, -1 to 1, or logits of a classifier.
        provenance: model, site, form of the gradient, method, templates, versions.
        image: the path or the PIL image that was given; None of a tensor, and of a result that was loaded. A notebook shows
            the map on it.

    Example:
        >>> from concept_cam import world
        >>> plate = world.draw_species("ember finch", seed=3)
        >>> result = world.localizer()(plate.image, "ember finch", "frost finch")
        >>> result
        <Localization: ember finch against frost finch (strength 0.6), 12 x 12 map of a 384 x 384 image, peak at (133, 126)>
        >>> result.map.shape, result.heatmap().shape, result.mask().shape
        (torch.Size([12, 12]), torch.Size([384, 384]), torch.Size([384, 384]))
    """

    evidence: EvidenceMap
    base: EvidenceMap
    comparison: Comparison
    scores: Mapping[str, float]
    provenance: Mapping[str, Any]
    image: Source | None = None

    def __repr__(self) -> str:
        asked, (height, width), (rows, cols) = self.comparison, self.placement.image_size, self.map.shape
        others = f" against {', '.join(asked.references)} (strength {asked.strength:g})" if asked.references else ""
        about = f"{asked.target}{others}, {rows} x {cols} map of a {width} x {height} image"
        peak = "" if self.map.is_meta else ", peak at ({:.0f}, {:.0f})".format(*self.peak())
        return one_line(f"<Localization: {about}{peak}>")

    def _repr_png_(self) -> bytes | None:
        """The map on the image with its legend, for a notebook; None if the image is not known, or is gone or another now."""
        if self.image is None:
            return None
        try:
            image, placement = upright(read_image(self.image), self.placement), self.placement
        except ConceptCamError:
            return None
        if max(image.size) > _SHOWN:
            image, placement = resized(image, placement, _SHOWN)
        stream = io.BytesIO()
        with_legend(image, placement, self.map, self.comparison).save(stream, "PNG")
        return stream.getvalue()

    def to(self, device: str | Device) -> Localization:
        """The result with its maps on a device."""
        return replace(self, evidence=self.evidence.to(device), base=self.base.to(device))

    @property
    def map(self) -> Float[Tensor, "rows cols"]:
        """The grid of ``evidence``: signed, neither clipped nor scaled."""
        return self.evidence.grid

    @property
    def base_map(self) -> Float[Tensor, "rows cols"]:
        """The grid of ``base``."""
        return self.base.grid

    @property
    def placement(self) -> Placement:
        """Which window of the image the maps show."""
        return self.evidence.placement

    def heatmap(self, *, base: bool = False) -> Float[Tensor, "height width"]:
        """The signed map, or the base map, in the pixels of the image; see ``EvidenceMap.heatmap``."""
        return (self.base if base else self.evidence).heatmap()

    def mask(self, threshold: float = 0.5) -> Bool[Tensor, "height width"]:
        """The pixels with at least ``threshold`` (0 to 1) of the strongest evidence; none if no evidence is for the target.

        Raises:
            OptionError: the threshold is not above 0 and at most 1.
        """
        return self.evidence.mask(threshold)

    def boxes(self, threshold: float = 0.5) -> tuple[Box, ...]:
        """The connected regions of ``mask(threshold)`` as half-open (left, top, right, bottom), the strongest first."""
        return self.evidence.boxes(threshold)

    def peak(self) -> tuple[float, float]:
        """(x, y) on the image: the mean place of the positive evidence in the strongest patch and the eight around it."""
        return self.evidence.peak()

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
            placement = placed(about["placement"], grid)
            return cls(
                EvidenceMap(tensors["map"], placement),
                EvidenceMap(tensors["base_map"], placement),
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
