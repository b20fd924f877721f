"""COMPARE: choose the references of a target, weigh them, and derive the direction.

    d = t_target - strength * sum_j w_j t_j,   sum_j w_j = 1            (Finer-CAM, arXiv 2501.11309, Eqs. 5 to 8)

The strength is the paper's gamma, and ``uniform`` is its mean over references. The t are unit text embeddings, or the rows of
a classifier, whose logits the paper compares. There is one direction, and so one backward pass, for any number of references.
The weights are constants: no gradient flows through them, whereas it does in the authors' code of 2025.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from concept_cam.concepts import ConceptBank
from concept_cam.doubles import first_double
from concept_cam.errors import ComparisonError, one_line
from concept_cam.selectors import OWN, Selector, sees_scores
from concept_cam.weightings import Weighting, uniform

SAME = 1 - 1e-5
"""The model cannot distinguish two concepts with a larger cosine."""


@dataclass(frozen=True)
class Comparison:
    """A target, its references and the strength of the comparison.

    Attributes:
        target: the concept to localize.
        references: the concepts that the target is compared with.
        weights: one for each reference; they sum to 1.
        similarities: cosine of each reference and the target, -1 to 1.
        strength: the factor of the subtracted references; 0 gives the base map, the paper uses 0.6.

    Example:
        >>> Comparison("red crown", ("bird",), weights=(1.0,), similarities=(0.7,), strength=0.6).references
        ('bird',)
    """

    target: str
    references: tuple[str, ...]
    weights: tuple[float, ...]
    similarities: tuple[float, ...]
    strength: float

    @property
    def names(self) -> tuple[str, ...]:
        """The target and the references."""
        return (self.target, *self.references)

    def at_each(self, strengths: Sequence[float]) -> list[Comparison]:
        """The same comparison at each of several strengths.

        Raises:
            ComparisonError: a strength is negative or not finite.
        """
        for strength in strengths:
            check_strength(strength)
        return [replace(self, strength=strength) for strength in strengths]

    def with_each(self) -> list[Comparison]:
        """The same comparison with each reference alone.

        Raises:
            ComparisonError: there are no references.
        """
        _check_some(self.target, self.references, math.inf)
        pairs = zip(self.references, self.similarities, strict=True)
        return [replace(self, references=(name,), weights=(1.0,), similarities=(alike,)) for name, alike in pairs]

    def direction(self, bank: ConceptBank) -> Float[Tensor, " E"]:
        """The vector (E,) whose inner product with the image embedding is the score to explain."""
        target = bank.vectors[bank.index(self.target)]
        if not self.references:
            return target
        weights = torch.tensor(self.weights, dtype=target.dtype, device=target.device)
        return target - self.strength * (weights @ bank.vectors_of(self.references))


def compare(
    bank: ConceptBank,
    target: str,
    selector: Selector | None,
    scores: Float[Tensor, " K"],
    strength: float = 0.6,
    weighting: Weighting | None = None,
) -> Comparison:
    """Select the references of a target and weigh them.

    Args:
        bank: holds the target and every concept that the selector may select.
        target: the concept to localize.
        selector: ``nearest``, ``rivals``, ``against`` or a function of your own; None is allowed at strength 0 only.
        scores: of every concept of the bank on this image, from ``ConceptBank.scores``.
        strength: the factor of the subtracted references, 0 or more.
        weighting: how references are weighed; ``uniform`` by default.

    Raises:
        ComparisonError: the strength is negative or not finite; the strength is above 0 and there are no references; the
            target is among the references, or two of these concepts have one embedding; the selector gives something else
            than names, or a name twice; the weights are not one for each reference, 0 or more, with the sum 1.
        UnknownConcept: the bank does not hold the target or a reference.

    Warns:
        UserWarning: the references are on average no more similar to the target than any two concepts of the bank.

    Example:
        >>> import torch
        >>> from concept_cam import compare, world, nearest
        >>> bank = world.localizer().bank(["ember finch", "frost finch", "royal jay"])
        >>> comparison = compare(bank, "ember finch", nearest(1), scores=torch.zeros(3))
        >>> comparison.references, comparison.strength, comparison.direction(bank).shape
        (('frost finch',), 0.6, torch.Size([192]))
    """
    check_strength(strength)
    own = bank.units[bank.index(target)]
    references = _selected(selector, bank, target, scores) if selector else ()
    _check_some(target, references, strength)
    _check_distinct(bank, target, references)
    rows = [bank.index(name) for name in references]
    # Row by row: as a product of matrices each cosine would depend on how many references there are, in its last digit.
    chosen = (bank.units[rows] * own).sum(-1).clamp(-1, 1)
    weights = _weighed(weighting or uniform, scores[rows].detach(), chosen.detach()) if references else ()
    if references and strength > 0 and chosen.mean() <= bank.spread and len(bank.names) > len(references) + 1:
        warnings.warn(
            f"{one_line(', '.join(references))}: no more like {target!r} (cosine {chosen.mean():.2f}) than any two concepts "
            f"of the bank are on average ({bank.spread:.2f}). Comparing sharpens a map only against similar concepts: name "
            "some that the target is confused with, or set strength to 0 for the target alone.",
            stacklevel=2,
        )
    return Comparison(target, references, weights, tuple(chosen.tolist()), float(strength))


def check_for_all(bank: ConceptBank, target: str, selector: Selector | None, strength: float) -> None:
    """Raise the errors of ``compare`` that do not depend on the scores of an image. A custom selector is not called.

    Args:
        bank: holds the target and every concept that the selector may select.
        target: the concept to localize.
        selector: as in ``compare``.
        strength: as in ``compare``.

    Raises:
        ComparisonError: there are no references, or the target is among them, or two of the concepts have one embedding.
        UnknownConcept: the bank does not hold the target or a reference.

    Example:
        >>> from concept_cam import nearest, world
        >>> from concept_cam.comparison import check_for_all
        >>> check_for_all(world.localizer().bank(world.species()), "ember finch", nearest(3), strength=0.6)
    """
    if selector is None or isinstance(selector, OWN):
        references = selector(bank, target, torch.zeros_like(bank.vectors[:, 0])) if selector else ()
        _check_some(target, references, strength)
        if not sees_scores(selector):
            _check_distinct(bank, target, references)


def check_strength(strength: float) -> None:
    """Raise ComparisonError unless the strength is finite and not negative.

    Example:
        >>> check_strength(0.6)
    """
    if not math.isfinite(strength) or strength < 0:
        raise ComparisonError(f"strength is {strength}; expected a finite number, 0 (base method) or more (the paper: 0.6).")


def _selected(selector: Selector, bank: ConceptBank, target: str, scores: Float[Tensor, " K"]) -> tuple[str, ...]:
    """The names that the selector gives, after a check."""
    # A custom selector may write into its arguments.
    given: object = selector(bank if isinstance(selector, OWN) else bank.copy(), target, scores.detach().clone())
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ComparisonError(f"The selector gave {given!r}; expected the names of references, in a tuple.")
    names = tuple(given)
    for name in names:
        if not isinstance(name, str):
            raise ComparisonError(f"The selector gave {name!r} for a name; expected names of the bank, as strings.")
        bank.index(name)
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ComparisonError(f"The selector gave {twice[0]!r} more than once; expected each reference once.")
    return names


def _check_some(target: str, references: Sequence[str], strength: float) -> None:
    if not references and strength > 0:
        raise ComparisonError(
            f"No references to compare {target!r} with. Name some, give a vocabulary to choose from, or set strength to 0."
        )


def _check_distinct(bank: ConceptBank, target: str, references: Sequence[str]) -> None:
    if target in references:
        raise ComparisonError(f"The target {target!r} is among its own references; remove it there.")
    names = (target, *references)
    same = first_double(F.normalize(bank.vectors_of(names), dim=-1), SAME)
    if same is not None:
        raise ComparisonError(
            f"The model cannot tell {names[same[0]]!r} from {names[same[1]]!r}: they have one embedding. Remove one of them."
        )


def _weighed(weighting: Weighting, scores: Float[Tensor, " T"], similarities: Float[Tensor, " T"]) -> tuple[float, ...]:
    """The weights that the weighting gives, after a check: one for each reference."""
    given: object = weighting(scores.clone(), similarities.clone())
    if not isinstance(given, Tensor) or given.shape != scores.shape:
        shape = f"a tensor of shape {tuple(given.shape)}" if isinstance(given, Tensor) else f"a {type(given).__name__}"
        raise ComparisonError(f"The weighting gave {shape} for {len(scores)} references; expected a tensor ({len(scores)},).")
    weights: list[float] = given.tolist()
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise ComparisonError(f"The smallest weight of a reference is {min(weights)}; expected finite numbers of 0 or more.")
    if not math.isclose(sum(weights), 1, abs_tol=1e-3):
        raise ComparisonError(f"The weights of the references sum to {sum(weights):.3f}; expected 1.")
    return tuple(weights)
