"""The difference of two concepts in words: which phrases does the text side put between them?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from concept_cam.concepts import ConceptBank
from concept_cam.parts import PartVocabulary

BACKGROUND = "background"
"""What a difference between two backgrounds is a difference of."""


@final
@dataclass(frozen=True)
class Difference:
    """One thing in which two concepts differ.

    Attributes:
        what: the part and its attribute, ``crown colour``; or ``background``.
        ours: the phrase that speaks most for the first concept: ``red crown``.
        theirs: the phrase that speaks most for the second: ``white crown``.
        weight: the inner product of the two differences: how much of t_A - t_B the phrases explain; 0 or more.
    """

    what: str
    ours: str
    theirs: str
    weight: float

    def __str__(self) -> str:
        return f"{self.ours} (not {self.theirs})"

    def direction(self, bank: ConceptBank) -> Float[Tensor, " E"]:
        """What is explained to see where on a picture this difference lies."""
        ours, theirs = bank.vectors_of([self.ours, self.theirs])
        between: Tensor = ours - theirs
        return between


@final
@dataclass(frozen=True, eq=False)
class Words:
    """Phrases among which differences are told.

    Attributes:
        bank: holds all of them.
        groups: what each group is about, and its phrases, of which a concept has one.
    """

    bank: ConceptBank
    groups: tuple[tuple[str, tuple[str, ...]], ...]

    @classmethod
    def of(cls, vocabulary: PartVocabulary | None, phrases: ConceptBank | None, scenes: ConceptBank | None) -> Words:
        """Of the attributes of some parts, embedded, and some backgrounds."""
        parts = vocabulary.parts if vocabulary else ()
        groups = [
            (f"{part.name} {attribute}", tuple(map(part.phrase, values)))
            for part in parts
            for attribute, values in part.attributes.items()
        ]
        groups += [(BACKGROUND, scenes.names)] if scenes and len(scenes.names) > 1 else []
        banks = [bank for bank in (phrases, scenes) if bank]
        if not banks:
            return cls(ConceptBank((), torch.zeros(0, 0, dtype=torch.float32, device="cpu")), ())
        # A name that is a part and a background is the part.
        named = {name: vector for bank in reversed(banks) for name, vector in zip(bank.names, bank.vectors, strict=True)}
        return cls(ConceptBank(tuple(named), torch.stack(list(named.values()))), tuple(groups))

    def difference(self, direction: Float[Tensor, " E"], count: int = 3) -> tuple[Difference, ...]:
        """The groups that explain a difference of two concepts best, the best first.

        Source: the reading of a direction by its inner products with texts; the Finer-CAM paper (section 4.3) asks the same
        question of one annotated attribute at a time.

        Args:
            direction: t_A - t_B.
            count: how many at most; as many for every direction.
        """
        found = []
        for what, phrases in self.groups:
            products = self.bank.vectors_of(phrases) @ direction
            ours, theirs = int(products.argmax()), int(products.argmin())
            found.append(Difference(what, phrases[ours], phrases[theirs], float(products[ours] - products[theirs])))
        return tuple(sorted(found, key=lambda one: -one.weight)[:count])


def without(embedding: Float[Tensor, "B E"], backgrounds: Float[Tensor, "K E"]) -> Float[Tensor, "K B E"]:
    """Embeddings with each background erased: what they have of its direction is set to what the mean background has.

    The direction is the unit vector from the mean of all backgrounds to the one. Lengths are not restored. Backgrounds that
    have one embedding have no direction, and nothing is erased.

    Source: a projection along one difference of texts, as debiasing does it (Bolukbasi et al., arXiv 1607.06520,
    "neutralize"), here about the mean of the backgrounds instead of zero.
    """
    mean = backgrounds.mean(0)
    axes = torch.nn.functional.normalize(backgrounds - mean, dim=-1)
    excess = (embedding - mean) @ axes.T
    return embedding - excess.T[..., None] * axes[:, None]
