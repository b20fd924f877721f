"""The answer in words: what the model thinks, which reference is similar, where the evidence lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from concept_cam.concepts import ConceptBank
from concept_cam.field import ConceptField
from concept_cam.result import Localization

_THIRDS = (("top left", "top", "top right"), ("left", "middle", "right"), ("bottom left", "bottom", "bottom right"))


@final
@dataclass(frozen=True)
class Verdict:
    """Sentences about a result.

    Attributes:
        sentences: in order; plain text.
    """

    sentences: tuple[str, ...]

    @classmethod
    def of(cls, result: Localization, field: ConceptField, bank: ConceptBank, vocabulary: tuple[str, ...]) -> Verdict:
        """The sentences of a result.

        Args:
            result: the answer.
            field: of its image.
            bank: of the vocabulary, the target and the references.
            vocabulary: what the model may choose among; none leaves that sentence out.
        """
        found = [*_scored(result, field, bank, vocabulary), *_compared(result, bank), *_placed(result)]
        return cls(tuple(found))


def _scored(result: Localization, field: ConceptField, bank: ConceptBank, vocabulary: tuple[str, ...]) -> list[str]:
    """What the model thinks."""
    target = result.comparison.target
    own = result.scores[target]
    if not vocabulary:
        return [f"The score of {target!r} on this image is {own:.3f}."]
    scores = bank.select(vocabulary).scores(field.embedding[None])[0]
    best = vocabulary[int(scores.argmax())]
    if best == target:
        return [f"Of the {len(vocabulary):,} names of the vocabulary, {target!r} scores highest on this image ({own:.3f})."]
    above = int((scores > own).sum())
    place = f"; {above:,} score higher than the target {target!r} ({own:.3f})" if above else f"; the target scores {own:.3f}"
    return [f"Of the {len(vocabulary):,} names of the vocabulary, {best!r} scores highest ({float(scores.max()):.3f}){place}."]


def _compared(result: Localization, bank: ConceptBank) -> list[str]:
    """Which reference is similar, and whether comparing can help."""
    comparison = result.comparison
    if not comparison.references:
        return ["There are no references: this is the base map, the evidence for the target alone."]
    rows = zip(comparison.similarities, comparison.references, strict=True)
    nearest, name = max(rows)
    said = f"The reference {name!r} is the most similar (cosine {nearest:.2f}), and scores {result.scores[name]:.3f}."
    if len(comparison.references) == 1:
        said = f"The reference {name!r} has the similarity {nearest:.2f} (cosine), and scores {result.scores[name]:.3f}."
    mean = sum(comparison.similarities) / len(comparison.similarities)
    if len(bank.names) > len(comparison.names) and mean <= bank.spread:
        said += " Names of the vocabulary are as similar on average, and comparing helps only against similar names."
    return [said]


def _placed(result: Localization) -> list[str]:
    """Where the evidence lies, and whether the references move it."""
    evidence, comparison = result.evidence, result.comparison
    if evidence.strongest <= 0:
        return ["No place is evidence for the target rather than for the references at this strength."]
    grid, shown = evidence.grid, evidence.shown
    positive = grid.clamp(min=0) * shown
    strong = (grid >= 0.5 * evidence.strongest) & shown
    area, held = float(strong.sum() / shown.sum()), float(positive[strong].sum() / positive.sum())
    against = " against the references" if comparison.references and comparison.strength > 0 else ""
    said = [
        f"The evidence for {comparison.target!r}{against} is strongest {_where(result.peak(), result)}. The places with at "
        f"least half of that are {area:.0%} of what the model saw, and hold {held:.0%} of the evidence."
    ]
    base = result.base.peak()
    height, width = evidence.placement.cell_size(grid.shape)
    x, y = result.peak()
    if against and (abs(base[0] - x) > 1.5 * width or abs(base[1] - y) > 1.5 * height):
        said.append(f"Without the references it is strongest {_where(base, result)}.")
    return said


def _where(point: tuple[float, float], result: Localization) -> str:
    """A place on the image in words and in pixels."""
    height, width = result.placement.image_size
    column, row = (min(2, int(3 * part / whole)) for part, whole in zip(point, (width, height), strict=True))
    name = _THIRDS[row][column]
    return f"{'in' if name == 'middle' else 'at'} the {name} (x {point[0]:.0f}, y {point[1]:.0f})"
