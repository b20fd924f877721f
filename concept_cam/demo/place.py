"""A place on the image: which concepts have most evidence there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from concept_cam.concepts import ConceptBank
from concept_cam.errors import OptionError
from concept_cam.field import ConceptField
from concept_cam.result import Localization

_LISTED = 6


@final
@dataclass(frozen=True)
class Place:
    """What is said of a place.

    Attributes:
        point: (x, y) in pixels of the image.
        concepts: those with the most evidence there; 1 is the evidence at the peak of the target's base map.
        references: the evidence for the target against each of them alone, at strength 1, on the same scale.
    """

    point: tuple[float, float]
    concepts: tuple[tuple[str, float], ...]
    references: tuple[tuple[str, float], ...]

    @classmethod
    def of(cls, field: ConceptField, bank: ConceptBank, result: Localization, fraction: tuple[float, float]) -> Place:
        """What is said of the cell of the map at a place.

        Args:
            field: of the image.
            bank: of the vocabulary, the target and the references.
            result: the comparison.
            fraction: (x, y) of the image, from 0 to 1.

        Raises:
            OptionError: the model did not see the place.
        """
        evidence, (height, width) = result.evidence, field.placement.image_size
        point = fraction[0] * width, fraction[1] * height
        left, top, right, bottom = field.placement.window
        if not (left <= point[0] <= right and top <= point[1] <= bottom):
            raise OptionError("The model did not see this place: its input is a window of the image. Choose a brighter one.")
        cells = evidence.shown.nonzero()
        locate, grid = field.placement.locate, evidence.grid.shape
        high, wide = field.placement.cell_size(grid)

        def away(cell: list[int]) -> float:
            x, y = locate(cell[0], cell[1], grid)
            return math.hypot((x - point[0]) / wide, (y - point[1]) / high)

        row, column = min(cells.tolist(), key=away)
        at = bank.vectors.to(field.vectors) @ field.vectors[row, column]
        scale = max(result.base.strongest, 0.0) or float(at.abs().max()) or 1.0
        names = [bank.names[k] for k in at.argsort(descending=True).tolist()[:_LISTED]]
        target = at[bank.index(result.comparison.target)]
        against = [(name, float(target - at[bank.index(name)]) / scale) for name in result.comparison.references]
        listed = tuple((name, float(at[bank.index(name)]) / scale) for name in names)
        return cls(field.placement.locate(row, column, evidence.grid.shape), listed, tuple(against))
