"""The directions of one image: the base, and each combination of references and strengths."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from jaxtyping import Float
from torch import Tensor

from concept_cam.comparison import compare
from concept_cam.concepts import ConceptBank
from concept_cam.errors import ComparisonError
from concept_cam.evaluation.columns import GridRow
from concept_cam.selectors import Selector

BASE = "none"
"""The references of a base map."""


@final
@dataclass(frozen=True, eq=False)
class Contrast:
    """One direction of one example.

    Attributes:
        references: as they were asked for.
        strength: 0 for the base.
        against: names.
        similarity: mean cosine of those and the target.
        direction: what is explained; the base's where there is a problem, and has no row then.
        problem: why there is no such contrast, if there is none; nothing to say where the data set names no twin.
    """

    references: str
    strength: float
    against: tuple[str, ...]
    similarity: float
    direction: Float[Tensor, " E"]
    problem: str | None = None

    def row(self, image: str, label: str, method: str, correct: bool, figures: Mapping[str, Any]) -> GridRow:
        """The row of a map of this direction.

        Args:
            image: the name of the example.
            label: its class.
            method: that made the map.
            correct: whether the model is right.
            figures: the metrics of the map, by the names of their columns.
        """
        return GridRow(
            image=image,
            label=label,
            method=method,
            references=self.references,
            strength=self.strength,
            against="; ".join(self.against),
            similarity=self.similarity if self.against else None,
            correct=correct,
            **figures,
        )


def contrasts_of(
    bank: ConceptBank,
    target: str,
    scores: Float[Tensor, " K"],
    selectors: Mapping[str, Selector | None],
    strengths: Sequence[float],
) -> list[Contrast]:
    """The base and all combinations of references and strengths, in one order for each example.

    Args:
        bank: the classes.
        target: the class that is explained.
        scores: of the image and every class.
        selectors: by the names that the references were asked for; None where an example has no such references.
        strengths: above 0.
    """
    own = bank.vectors_of([target])[0]
    contrasts = [Contrast(BASE, 0.0, (), 0.0, own)]
    for text, selector in selectors.items():
        for strength in strengths:
            if selector is None:
                contrasts.append(Contrast(text, strength, (), 0.0, own, problem=""))
                continue
            try:
                with warnings.catch_warnings():
                    # That some references are not alike is what an evaluation wants to see.
                    warnings.simplefilter("ignore", UserWarning)
                    chosen = compare(bank, target, selector, scores, strength)
            except ComparisonError as error:
                contrasts.append(Contrast(text, strength, (), 0.0, own, problem=f"{text}: {error}"))
                continue
            alike = sum(chosen.similarities) / len(chosen.similarities)
            contrasts.append(Contrast(text, strength, chosen.references, alike, chosen.direction(bank)))
    return contrasts
