"""MAP: an EvidenceMap is a signed grid and its placement: where on an image the evidence for a concept is, and how much."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from concept_cam.errors import BackboneError, ConceptCamError, NoSpatialGradient, OptionError
from concept_cam.images import Placement
from concept_cam.regions import Box, bounding_boxes

Flaw = Literal["blank", "not finite"]
"""Why a map cannot be used."""


@final
@dataclass(frozen=True, eq=False)
class EvidenceMap:
    """A signed grid, and where its cells lie on the image.

    Cells that lie in padding are part of the grid, but no peak is found there.

    Attributes:
        grid: evidence for each cell, neither clipped nor scaled; above 0 it is for the concept, below 0 against it.
        placement: which window of the image the cells cover.

    Example:
        >>> import torch
        >>> from concept_cam.evidence import EvidenceMap
        >>> from concept_cam.images import Placement
        >>> evidence = EvidenceMap(torch.tensor([[0.0, 3.0], [-1.0, 1.0]]), Placement((0, 0, 8, 8), (8, 8)))
        >>> evidence.peak(), evidence.boxes(), evidence.is_blank
        ((6.0, 3.0), ((4, 0, 8, 5),), False)
    """

    grid: Float[Tensor, "rows cols"]
    placement: Placement

    def to(self, device: str | torch.device) -> EvidenceMap:
        """The map on a device."""
        return EvidenceMap(self.grid.to(device), self.placement)

    @property
    def is_blank(self) -> bool:
        """Whether all cells are 0."""
        return not bool(self.grid.any())

    @cached_property
    def shown(self) -> Bool[Tensor, "rows cols"]:
        """The cells that lie, at least in part, on what the model saw of the image; the others lie in padding."""
        return self.placement.shown(self.grid.shape).to(self.grid.device)

    def heatmap(self) -> Float[Tensor, "height width"]:
        """The grid in the pixels of the image, bilinear; NaN where the model did not see the image.

        On the device of the grid, in float32 at least.
        """
        return self.placement.project(self._precise)

    def mask(self, threshold: float = 0.5, floor: float = 0.0) -> Bool[Tensor, "height width"]:
        """The pixels whose evidence reaches the share ``threshold`` of the way from ``floor`` to the strongest pixel.

        Args:
            threshold: above 0, at most 1.
            floor: evidence that counts as none.

        Returns:
            The pixels of the image; none of them if no evidence is above 0.

        Raises:
            OptionError: the threshold is not above 0 and at most 1.
        """
        peaks = [strip.nan_to_num(nan=float("-inf")).max() for _, strip in self.placement.strips(self._precise)]
        bar = _bar(threshold, floor, float(torch.stack(peaks).max()))
        mask = torch.empty(self.placement.image_size, dtype=torch.bool, device=self.grid.device)
        for rows, strip in self.placement.strips(self._precise):
            # What was not seen is NaN, which is no more than anything.
            mask[rows.start : rows.stop] = strip >= bar
        return mask

    def boxes(self, threshold: float = 0.5) -> tuple[Box, ...]:
        """The connected regions of ``mask(threshold)`` as half-open (left, top, right, bottom), the strongest first."""
        return self.regions(threshold)[1]

    def regions(self, threshold: float = 0.5) -> tuple[Bool[Tensor, "height width"], tuple[Box, ...]]:
        """``mask(threshold)`` and ``boxes(threshold)``, of one heat map."""
        heatmap = self.heatmap()
        bar = _bar(threshold, 0.0, float(heatmap.nan_to_num(nan=float("-inf")).max()))
        mask = heatmap >= bar
        return mask, bounding_boxes(mask, heatmap)

    def peak_cell(self) -> tuple[int, int]:
        """(row, column) of the cell with the strongest evidence, among those that are shown."""
        visible = self.grid.masked_fill(~self.shown, float("-inf"))
        return divmod(int(visible.argmax()), self.grid.shape[1])

    def peak(self, floor: float = 0.0) -> tuple[float, float]:
        """(x, y) on the image: the mean place of the positive evidence in the strongest cell and the eight cells around it.

        What is looked for is often smaller than a cell, and lies between the centres of cells. Without positive evidence it is
        the centre of the strongest cell.

        Args:
            floor: evidence that counts as none.
        """
        row, column = self.peak_cell()
        rows, columns = (slice(max(at - 1, 0), at + 2) for at in (row, column))
        evidence = self.grid.cpu().double() - floor  # not every device has this precision
        weights = evidence.masked_fill(~self.shown.cpu(), 0.0)[rows, columns].clamp(min=0)
        total = float(weights.sum())
        if not 0 < total < float("inf"):
            return self.locate(row, column)
        mean_row, mean_column = (
            sum(k * float(part) for k, part in enumerate(weights.sum(1 - axis))) / total for axis in (0, 1)
        )
        return self.locate(rows.start + mean_row, columns.start + mean_column)

    def locate(self, row: float, column: float) -> tuple[float, float]:
        """(x, y) of the centre of a cell; of one that lies in part in padding, the nearest point of the image."""
        x, y = self.placement.locate(row, column, self.grid.shape)
        height, width = self.placement.image_size
        return min(max(x, 0.0), float(width)), min(max(y, 0.0), float(height))

    @property
    def strongest(self) -> float:
        """The evidence at the peak."""
        return float(self.grid[self.peak_cell()])

    def pointing(self, inside: Callable[[Float[Tensor, "cells 2"]], Bool[Tensor, " cells"]]) -> tuple[bool, float]:
        """The pointing game: whether the peak is a hit, and chance, the share of the cells that would be one.

        Args:
            inside: says of the centres (x, y) of cells which are hits; a centre may lie beside the image, in padding.
        """
        centres = [self.placement.locate(row, column, self.grid.shape) for row, column in self.shown.nonzero().tolist()]
        hits = inside(torch.tensor(centres, dtype=torch.float32, device="cpu"))
        row, column = self.peak_cell()
        peak = int(self.shown[:row].sum() + self.shown[row, :column].sum())
        return bool(hits[peak]), float(hits.double().mean())

    @property
    def _precise(self) -> Float[Tensor, "rows cols"]:
        return self.grid.to(torch.promote_types(self.grid.dtype, torch.float32))


@final
@dataclass(frozen=True, eq=False)
class EvidenceMaps:
    """The maps of K directions on the B images of one pass, stacked; each image with its own flaws.

    Attributes:
        stacked: all of them.
        placements: of the maps of each image.
        site: where the tokens were read.
        precision: in which the maps were made.
    """

    stacked: Float[Tensor, "K B rows cols"]
    placements: tuple[Placement, ...]
    site: str
    precision: torch.dtype

    def of(self, direction: int, image: int) -> EvidenceMap:
        """The map of one direction on one image."""
        return EvidenceMap(self.stacked[direction, image], self.placements[image])

    def single(self) -> EvidenceMaps:
        """The same on the CPU, in float32."""
        return EvidenceMaps(self.stacked.float().cpu(), self.placements, self.site, self.precision)

    def flaw(self, direction: int, image: int) -> Flaw | None:
        """``blank`` if all cells of a map are 0, ``not finite`` if one is NaN or infinite, else None."""
        finite, any_ = self._state[direction][image]
        return "not finite" if not finite else None if any_ else "blank"

    def error(self, image: int, directions: Sequence[int] | None = None, *, some: bool = False) -> ConceptCamError | None:
        """The error of an image whose maps cannot be used, to be raised or reported for this image alone; else None.

        Args:
            image: its number in the pass.
            directions: those that matter; by default all.
            some: one map that is not blank is enough; by default no map may be blank.
        """
        wanted = range(len(self.stacked)) if directions is None else directions
        flaws = [self.flaw(direction, image) for direction in wanted]
        if "not finite" in flaws:
            return BackboneError(
                f"The map at {self.site} is not finite: the model holds NaN, or overflows in {self.precision}; try float32."
            )
        if flaws and (all if some else any)(flaw == "blank" for flaw in flaws):
            return NoSpatialGradient(f"No patch at {self.site} is evidence for or against the target: the map is blank.")
        return None

    @cached_property
    def _state(self) -> list[list[tuple[bool, bool]]]:
        """For each direction and image: whether the map is finite, and whether a cell differs from 0. By one transfer."""
        flat = self.stacked.flatten(2)
        both = torch.stack([flat.isfinite().all(-1), flat.any(-1)], -1)
        return [[(finite, any_) for finite, any_ in of_one] for of_one in both.tolist()]


def _bar(threshold: float, floor: float, strongest: float) -> float:
    """The smallest evidence of a marked pixel; infinite if no evidence is above 0.

    Raises:
        OptionError: the threshold is not above 0 and at most 1.
    """
    if not 0 < threshold <= 1:
        raise OptionError(f"threshold is {threshold}; expected a share of the maximum, above 0 and at most 1.")
    return floor + threshold * (strongest - floor) if strongest > 0 else float("inf")
