"""MAP: one image, every text. A field answers any concept, reference set and strength by one product, without the model."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor

from concept_cam.comparison import compare
from concept_cam.concepts import ConceptBank
from concept_cam.errors import OptionError
from concept_cam.evidence import EvidenceMaps
from concept_cam.files import write_file
from concept_cam.gradients import Trace
from concept_cam.gradients.tolerance import relative_error
from concept_cam.images import Placement
from concept_cam.methods import AnyMethod, field_vectors, hires_cam, name_of
from concept_cam.result import Localization
from concept_cam.selectors import as_selector
from concept_cam.stored import MOST_CELLS, MOST_NUMBERS, exactly, mapping, number, placed, read_stored, refused, sides
from concept_cam.targets import References, Target, as_references, named
from concept_cam.weightings import Weighting


@final
@dataclass(frozen=True, eq=False)
class ConceptField:
    """A vector in text space for each patch: its inner product with a direction is the map there.

    For methods that are linear in the direction, of which every map is a row of d F, with F = L J^T (docs/definition.md).
    Maps are linear too: those of ``t - strength * r`` are ``field(t) - strength * field(r)``, so that a sweep of the strength
    or another reference costs a subtraction.

    Attributes:
        vectors: for each patch, in float32 unless the model is in another precision.
        embedding: of the image, from which scores come.
        placement: which window of the image the grid shows.
        provenance: model, site, form of the gradient, method, templates, versions.

    Example:
        >>> from concept_cam import world
        >>> localizer, plate = world.localizer(), world.draw_species("ember finch", seed=3)
        >>> (field,) = localizer.fields([plate.image])
        >>> field
        <ConceptField: 12 x 12 vectors of 192 numbers, of a 384 x 384 image>
        >>> bank = localizer.bank(world.species())
        >>> field(bank).shape, field.localize(bank, "ember finch", "frost finch").comparison.references
        (torch.Size([48, 12, 12]), ('frost finch',))
    """

    vectors: Float[Tensor, "rows cols E"]
    embedding: Float[Tensor, " E"]
    placement: Placement
    provenance: Mapping[str, Any]

    def __repr__(self) -> str:
        (rows, cols, width), (high, wide) = self.vectors.shape, self.placement.image_size
        return f"<ConceptField: {rows} x {cols} vectors of {width} numbers, of a {wide} x {high} image>"

    def to(self, device: str | torch.device) -> ConceptField:
        """The field with its tensors on a device."""
        return replace(self, vectors=self.vectors.to(device), embedding=self.embedding.to(device))

    @classmethod
    def of(
        cls,
        trace: Trace,
        method: AnyMethod = hires_cam,
        placements: Sequence[Placement] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> tuple[ConceptField, ...]:
        """The fields of the images of one trace.

        Args:
            trace: of B images.
            method: linear in the direction; which is tested on random numbers.
            placements: of each image's frame; by default a patch is one pixel.
            provenance: kept with the fields.

        Raises:
            OptionError: the method is not linear in the direction.
        """
        found = field_vectors(method, trace)
        if found is None:
            name = name_of(method)
            raise OptionError(f"{name} is not linear in the direction, so it has no field; ask for one map at a time.")
        rows, cols = trace.layout.rows, trace.layout.cols
        vectors = found.unflatten(1, (rows, cols))
        bare = Placement((0, 0, cols, rows), (rows, cols))
        places = [one.covering(trace.layout.span) for one in placements or ()] or [bare] * len(vectors)
        known = provenance or {}
        return tuple(cls(*of_one, known) for of_one in zip(vectors, trace.embedding, places, strict=True))

    def __call__(self, directions: Float[Tensor, "*K E"] | ConceptBank) -> Float[Tensor, "*K rows cols"]:
        """The signed maps of some directions, or of all concepts of a bank; of one direction, one map.

        Raises:
            OptionError: the directions are not of this field's text space.
        """
        wanted = directions.vectors if isinstance(directions, ConceptBank) else directions
        rows, cols, width = self.vectors.shape
        if wanted.shape[-1] != width:
            raise OptionError(f"Directions have {wanted.shape[-1]} numbers; those of this field have {width}.")
        maps: Tensor = wanted.to(self.vectors) @ self.vectors.flatten(0, 1).T
        return maps.reshape(*maps.shape[:-1], rows, cols)

    def localize(
        self,
        bank: ConceptBank,
        target: Target | None = None,
        against: References = None,
        *,
        strength: float = 0.6,
        weighting: Weighting | None = None,
    ) -> Localization:
        """As a Localizer does, among the concepts of a bank.

        Args:
            bank: holds the target and the references, embedded by the model of the image.
            target: the concept looked for, or its number in the bank; by default the one that scores highest.
            against: names or numbers to compare with, or a selector that chooses from the bank.
            strength: 0 is the base method; the paper uses 0.6.
            weighting: of the references; uniform by default.

        Raises:
            OptionError: the target or a reference is neither a name nor a number in range.
            ComparisonError, UnknownConcept: see ``compare``.
            NoSpatialGradient, BackboneError: a map is blank, or not finite.
        """
        scores = bank.scores(self.embedding[None])[0]
        wanted = bank.names[int(scores.argmax())] if target is None else named(target, bank.names)
        selector = as_selector(as_references(against, bank.names))
        comparison = compare(bank, wanted, selector, scores, strength, weighting)
        directions = torch.stack([bank.vectors[bank.index(wanted)], comparison.direction(bank)])
        site = str(self.provenance.get("site", "the site"))
        maps = EvidenceMaps(self(directions)[:, None], (self.placement,), site, self.vectors.dtype).single()
        if (error := maps.error(0)) is not None:
            raise error
        found = {name: float(scores[bank.index(name)]) for name in comparison.names}
        return Localization(maps.of(1, 0), maps.of(0, 0), comparison, found, self.provenance)

    def save(self, path: str | os.PathLike[str], rank: int | None = None) -> Path:
        """Write to one ``.safetensors`` file: 2 bytes a number, scaled so that the largest is 1.

        Args:
            path: of the file.
            rank: keep so many singular vectors alone; (rows cols + E) rank numbers instead of rows cols E.

        Raises:
            OptionError: the rank is not from 1 to the lesser of rows x cols and E.
            OutputError: it cannot be written; an older file of that name is as it was.
        """
        whole = self.vectors.detach().float().cpu().flatten(0, 1)
        if rank is not None and not 1 <= rank <= min(whole.shape):
            raise OptionError(f"rank is {rank}; expected 1 to {min(whole.shape)}.")
        parts = {"vectors": whole} if rank is None else _low_rank(whole, rank)
        scales = {name: float(part.abs().max()) or 1.0 for name, part in parts.items()}
        tensors = {name: (part / scales[name]).half().contiguous() for name, part in parts.items()}
        about = {
            "grid": self.vectors.shape[:2],
            "scales": scales,
            "placement": self.placement.as_dict(),
            "provenance": {**self.provenance, "stored": {"rank": rank, "error": _error(tensors, scales, whole)}},
        }
        tensors["embedding"] = self.embedding.detach().float().cpu().contiguous()
        return write_file(path, save(tensors, {"field": json.dumps(about)}))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ConceptField:
        """Read what ``save`` wrote; ``provenance["stored"]`` states the rank and the relative error of the vectors.

        Raises:
            OutputError: it cannot be read, or something of it is not what ``save`` could have written.
        """
        with refused(path, "field"):
            about, tensors = read_stored(path, "field")
            exactly(about, ("grid", "scales", "placement", "provenance"), "the field")
            scales = mapping(about["scales"], "scales")
            exactly(scales, _LOW_RANK if "left" in scales else _FULL, "scales")
            exactly(tensors, ("embedding", *scales), "the file")
            grid = sides(about["grid"], "grid", MOST_CELLS)
            scale = {name: number(one, "a scale", 1e-45, 1e30) for name, one in scales.items()}
            vectors = _put_together(tensors, scale, grid)
            place = placed(about["placement"], grid)
            return cls(vectors, tensors["embedding"], place, mapping(about["provenance"], "provenance"))


_FULL, _LOW_RANK = ("vectors",), ("left", "right")
"""Names of the tensors of a field, and of one that is stored in a lower rank."""


def _put_together(tensors: Mapping[str, Tensor], scales: Mapping[str, float], grid: tuple[int, int]) -> Tensor:
    """The vectors of a stored field.

    Raises:
        ValueError: the shapes do not fit, or it would be too large.
    """
    cells, width = grid[0] * grid[1], tensors["embedding"].numel()
    rank = tensors["left"].numel() // cells if "left" in tensors else 0
    shapes = {"embedding": (width,), "vectors": (cells, width), "left": (cells, rank), "right": (rank, width)}
    # In this order: a file gives its tensors in any.
    for name, shape in shapes.items():
        if name in tensors and tensors[name].shape != shape:
            raise ValueError(f"{name} is {tuple(tensors[name].shape)}; expected {shape}")
    if cells * width > MOST_NUMBERS:
        raise ValueError(f"{cells:,} vectors of {width:,} numbers; at most {MOST_NUMBERS:,} numbers are read")
    vectors = _whole({name: tensors[name] for name in scales}, scales)
    if not vectors.isfinite().all():
        raise ValueError("its vectors are not finite")
    return vectors.reshape(*grid, width)


def _low_rank(whole: Float[Tensor, "N E"], rank: int) -> dict[str, Tensor]:
    left, values, right = torch.linalg.svd(whole, full_matrices=False)
    return {"left": left[:, :rank] * values[:rank], "right": right[:rank]}


def _whole(tensors: Mapping[str, Tensor], scales: Mapping[str, float]) -> Float[Tensor, "N E"]:
    parts = {name: tensor.float() * scales[name] for name, tensor in tensors.items()}
    return parts["vectors"] if "vectors" in parts else parts["left"] @ parts["right"]


def _error(tensors: Mapping[str, Tensor], scales: Mapping[str, float], whole: Tensor) -> float:
    """Of the vectors as they are read back, relative (Frobenius)."""
    return relative_error(_whole(tensors, scales), whole) if whole.any() else 0.0
