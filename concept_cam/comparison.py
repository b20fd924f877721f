"""COMPARE: which concepts the target is compared with, how they are weighted, and the one direction that follows.

    d = t_target - strength * sum_j w_j t_j,   sum_j w_j = 1            (Finer-CAM, arXiv 2501.11309, Eqs. 5 to 8)

The paper's gamma is the strength; its mean over references is ``uniform``. The paper compares logits of a classifier; here
t are the rows of a classifier, or unit text embeddings, so that one backward pass serves any number of references. The
weights are data: no gradient flows through them, where the authors' code of 2025 lets it.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from concept_cam.concepts import ConceptBank
from concept_cam.doubles import first_double
from concept_cam.errors import ComparisonError, UnknownConcept, one_line
from concept_cam.weightings import Weighting, uniform

Selector = Callable[[ConceptBank, str, Float[Tensor, " K"]], tuple[str, ...]]
"""Picks references: (bank, target, scores of the bank on this image) -> names."""

SAME = 1 - 1e-5
"""Two concepts with a larger cosine are one and the same to the model."""


@dataclass(frozen=True)
class Comparison:
    """What is compared with what.

    Attributes:
        target: the concept looked for.
        references: those it is compared with.
        weights: of the references, sum 1.
        similarities: cosine of each reference and the target, -1 to 1.
        strength: how much of the references is subtracted; 0 is the base method, the paper uses 0.6.

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
        """The same at several strengths.

        Raises:
            ComparisonError: one is negative or not finite.
        """
        for strength in strengths:
            check_strength(strength)
        return [replace(self, strength=strength) for strength in strengths]

    def with_each(self) -> list[Comparison]:
        """The same with each of the references alone."""
        pairs = zip(self.references, self.similarities, strict=True)
        return [replace(self, references=(name,), weights=(1.0,), similarities=(alike,)) for name, alike in pairs]

    def direction(self, bank: ConceptBank) -> Float[Tensor, " E"]:
        """The vector whose inner product with the image's embedding is the score."""
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
    """Choose references for a target and weigh them.

    Args:
        bank: holds the target and whatever the selector may pick.
        target: the concept looked for.
        selector: ``nearest``, ``rivals``, ``against`` or a function of your own; None only where strength is 0.
        scores: of this image and every concept of the bank, as ``ConceptBank.scores`` gives them.
        strength: 0 or more.
        weighting: ``uniform`` by default.

    Raises:
        ComparisonError: the strength is negative or not finite; no references are left; the target is among them, or one that
            the model cannot tell from it or from another; the selector gives no names, or one twice; the weights are not one
            for each reference, 0 or more, with the sum 1.
        UnknownConcept: the bank holds no such target or reference.

    Warns:
        UserWarning: the references are no more like the target than any two concepts of the bank are like each other.

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
            f"of the bank are like each other ({bank.spread:.2f}). Comparing sharpens a map only against concepts that are "
            "alike.",
            stacklevel=2,
        )
    return Comparison(target, references, weights, tuple(chosen.tolist()), float(strength))


def check_for_all(bank: ConceptBank, target: str, selector: Selector | None, strength: float) -> None:
    """Raise what ``compare`` would raise for every image, whatever the scores; nothing of a selector of the user's own."""
    if selector is None or isinstance(selector, _OWN):
        references = selector(bank, target, torch.zeros_like(bank.vectors[:, 0])) if selector else ()
        _check_some(target, references, strength)
        if not isinstance(selector, _Rivals):  # each image has its own
            _check_distinct(bank, target, references)


def check_strength(strength: float) -> None:
    """Raise ComparisonError unless the strength is finite and not negative."""
    if not math.isfinite(strength) or strength < 0:
        raise ComparisonError(f"strength is {strength}; expected a finite number, 0 (base method) or more (the paper: 0.6).")


def _selected(selector: Selector, bank: ConceptBank, target: str, scores: Float[Tensor, " K"]) -> tuple[str, ...]:
    """What the selector picks, if it is what a selector may give."""
    # A selector of the user's own may write into what it is given.
    given: object = selector(bank if isinstance(selector, _OWN) else bank.copy(), target, scores.detach().clone())
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ComparisonError(f"The selector gave {given!r}; expected the names of references, in a tuple.")
    names = tuple(given)
    for name in names:
        if not isinstance(name, str):
            raise ComparisonError(f"The selector gave {name!r} for a name; expected names of the bank, which are texts.")
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
        raise ComparisonError(f"The target {target!r} is among its own references; leave it out there.")
    names = (target, *references)
    same = first_double(F.normalize(bank.vectors_of(names), dim=-1), SAME)
    if same is not None:
        raise ComparisonError(
            f"The model cannot tell {names[same[0]]!r} from {names[same[1]]!r}: they have one embedding. "
            "Leave one of them out."
        )


def _weighed(weighting: Weighting, scores: Float[Tensor, " T"], similarities: Float[Tensor, " T"]) -> tuple[float, ...]:
    """What the weighting gives, if it is one weight for each reference."""
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


# ---- selectors --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Named:
    """A selector that knows its names beforehand."""

    names: tuple[str, ...]

    def __call__(self, bank: ConceptBank, target: str, scores: Float[Tensor, " K"]) -> tuple[str, ...]:
        """The names, if the bank holds them."""
        unknown = [name for name in self.names if name not in bank]
        if unknown:
            raise UnknownConcept(f"The bank does not hold {', '.join(map(repr, unknown))}; embed them first.")
        return self.names


def against(*names: str) -> Named:
    """Compare with named concepts; a parent word ("bird" for "red crown") is one.

    Raises:
        UnknownConcept: when it selects, the bank does not hold one of them.

    Example:
        >>> from concept_cam import against, world
        >>> plate = world.draw_species("ember finch")
        >>> world.localizer()(plate.image, "ember finch", against("frost finch", "willow finch")).comparison.weights
        (0.5, 0.5)
    """
    return Named(tuple(dict.fromkeys(names)))


def nearest(count: int = 3) -> Selector:
    """Compare with the concepts whose texts are nearest to the target's; the same for every image.

    Raises:
        ComparisonError: the count is below one.

    Example:
        >>> from concept_cam import world, nearest
        >>> plate = world.draw_species("ember finch")
        >>> world.localizer()(plate.image, "ember finch", nearest(1)).comparison.references
        ('frost finch',)
    """
    return _Nearest(count)


def rivals(count: int = 3) -> Selector:
    """Compare with the concepts that score highest on this image, the target left out (the paper's "top predictions").

    Raises:
        ComparisonError: the count is below one.

    Example:
        >>> from concept_cam import world, rivals
        >>> plate = world.draw_species("ember finch")
        >>> world.localizer()(plate.image, "frost finch", rivals(1)).comparison.references
        ('ember finch',)
    """
    return _Rivals(count)


@dataclass(frozen=True)
class _Counted:
    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ComparisonError(f"{self.count} references asked for; expected at least one, or strength 0 for none.")


# Classes, where functions would do: a closure does not pickle.
class _Nearest(_Counted):
    def __call__(self, bank: ConceptBank, target: str, scores: Float[Tensor, " K"]) -> tuple[str, ...]:
        return bank.neighbours(target, self.count)


class _Rivals(_Counted):
    def __call__(self, bank: ConceptBank, target: str, scores: Float[Tensor, " K"]) -> tuple[str, ...]:
        return bank.ranked(scores, target, self.count)


_OWN = (Named, _Nearest, _Rivals)
"""Selectors that write into nothing."""


def sees_scores(selector: Selector | None) -> bool:
    """Whether the references depend on how concepts score on the image; of a selector of the user's own nobody knows."""
    return not (selector is None or isinstance(selector, Named | _Nearest))


def as_selector(wanted: Selector | str | Iterable[str] | None) -> Selector | None:
    """The selector that is meant by a selector, a name, names or nothing."""
    if wanted is None or callable(wanted):
        return wanted
    names = (wanted,) if isinstance(wanted, str) else tuple(dict.fromkeys(wanted))
    return Named(names) if names else None
