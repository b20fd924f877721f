"""The difference of two concepts in words: which phrases explain the difference of their texts?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from concept_cam.concepts import ConceptBank
from concept_cam.part_vocabulary import PartVocabulary

BACKGROUND = "background"
"""What a difference between two backgrounds is a difference of."""

STANDS_OUT = 20.0
"""A difference describes a pair only if it explains so many times what other attributes explain (`benchmarks.words`)."""

AGREES = 0.5
"""A difference describes a pair only if its map has at least this rank correlation with the evidence."""

_OTHERS = 5
"""So many other attributes it takes at least to say what phrases explain that mean nothing here."""


@final
@dataclass(frozen=True)
class Difference:
    """One thing in which two concepts differ.

    Attributes:
        what: the part and its attribute, ``crown colour``; or ``background``.
        ours: the phrase with the largest inner product with the difference: ``red crown``.
        theirs: the phrase with the smallest: ``white crown``.
        weight: the inner product of the two differences: how much of t_A - t_B the phrases explain; 0 or more.
        stands_out: the cosine of the two differences, in multiples of what phrases of the other attributes have: of each
            attribute the median over its pairs of phrases, of those the median. NaN with fewer than five other attributes.
    """

    what: str
    ours: str
    theirs: str
    weight: float
    stands_out: float

    def __str__(self) -> str:
        return f"{self.ours} (not {self.theirs})"

    def describes(self, agreement: float) -> bool:
        """Whether it explains the texts and the maps better than phrases without any meaning here.

        Args:
            agreement: the rank correlation of its map with the evidence, -1 to 1.
        """
        return not self.kept_out(agreement)

    def kept_out(self, agreement: float) -> str:
        """By which rule it does not describe a pair; empty if it does.

        Args:
            agreement: the rank correlation of its map with the evidence, -1 to 1.
        """
        if math.isnan(self.stands_out):
            return "with so few attributes nobody can say what is usual"
        if self.stands_out < STANDS_OUT:
            times = f"{self.stands_out:.1f} times as well as other attributes do"
            return f"it explains the texts {times}, and {STANDS_OUT:g} is asked"
        if not agreement >= AGREES:
            return f"its map agrees with the evidence by {agreement:.3f}, and {AGREES:g} is asked"
        return ""

    def direction(self, bank: ConceptBank) -> Float[Tensor, " E"]:
        """What is explained to see where on an image this difference lies."""
        ours, theirs = bank.vectors_of([self.ours, self.theirs])
        between: Tensor = ours - theirs
        return between


@final
@dataclass(frozen=True, eq=False)
class Words:
    """Phrases that may describe differences.

    Attributes:
        bank: holds all of them.
        groups: what each group is about, and its phrases, of which a concept has one.
    """

    bank: ConceptBank
    groups: tuple[tuple[str, tuple[str, ...]], ...]

    @classmethod
    def of(cls, vocabulary: PartVocabulary | None, phrases: ConceptBank | None, scenes: ConceptBank | None) -> Words:
        """The phrases for the attributes of some parts, and for some backgrounds.

        Args:
            vocabulary: the parts with their attributes; None if there are none.
            phrases: the embeddings of the attributes' phrases; None if there are none.
            scenes: the backgrounds with their embeddings; None if there are none. A single one makes no group.
        """
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
        question of one annotated attribute at a time. Some attribute is always the first: ``stands_out`` holds each
        against the others, most of which tell two similar concepts not apart, so that they are the null.

        Args:
            direction: t_A - t_B.
            count: how many at most; as many for every direction.
        """
        found, cosines, usual = [], [], []
        unit = torch.nn.functional.normalize(direction, dim=0)
        for (what, phrases), (first, second, units) in zip(self.groups, self._contrasts, strict=True):
            products, explained = self.bank.vectors_of(phrases) @ direction, (units @ unit).abs()
            ours, theirs = int(products.argmax()), int(products.argmin())
            found.append((what, phrases[ours], phrases[theirs], float(products[ours] - products[theirs])))
            among = (first == min(ours, theirs)) & (second == max(ours, theirs))
            cosines.append(float(explained[among].sum()))
            usual.append(float(explained.median()))
        told = []
        for place, (one, cosine) in enumerate(zip(found, cosines, strict=True)):
            others = usual[:place] + usual[place + 1 :]
            known = len(others) >= _OTHERS and median(others) > 0
            told.append(Difference(*one, cosine / median(others) if known else math.nan))
        return tuple(sorted(told, key=lambda one: -one.weight)[:count])

    @cached_property
    def _contrasts(self) -> list[tuple[Int[Tensor, " N"], Int[Tensor, " N"], Float[Tensor, "N E"]]]:
        """Of each group every two of its phrases, and the unit vector from the second to the first."""
        found = []
        for _, phrases in self.groups:
            vectors = self.bank.vectors_of(phrases)
            first, second = torch.triu_indices(len(phrases), len(phrases), 1, dtype=torch.int64, device=vectors.device)
            found.append((first, second, torch.nn.functional.normalize(vectors[first] - vectors[second], dim=-1)))
        return found


def without(embedding: Float[Tensor, "B E"], backgrounds: Float[Tensor, "K E"]) -> Float[Tensor, "K B E"]:
    """Embeddings with each background erased: what they have of its direction is set to what the mean background has.

    The direction is the unit vector from the mean of all backgrounds to the one. Lengths are not restored. Backgrounds that
    have one embedding have no direction, and nothing is erased.

    Source: a projection along one difference of texts, as debiasing does it (Bolukbasi et al., arXiv 1607.06520,
    "neutralize"), here about the mean of the backgrounds instead of zero.
    """
    mean = backgrounds.mean(0)
    return erased(embedding, mean, torch.nn.functional.normalize(backgrounds - mean, dim=-1))


def erased(embedding: Float[Tensor, "B E"], mean: Float[Tensor, " E"], axes: Float[Tensor, "K E"]) -> Float[Tensor, "K B E"]:
    """Embeddings whose component along each unit vector is that of the mean.

    Args:
        embedding: of B images.
        mean: of the embeddings of many images.
        axes: K unit vectors; each gives an embedding of its own for each image.
    """
    excess = (embedding - mean) @ axes.T
    return embedding - excess.T[..., None] * axes[:, None]


def random_axes(like: Float[Tensor, "K E"], count: int) -> Float[Tensor, "count E"]:
    """Unit vectors that mean nothing, the same in every run: what erasing one does is chance."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(count, like.shape[1], generator=generator, dtype=torch.float32, device="cpu")
    return torch.nn.functional.normalize(drawn, dim=-1).to(like)
