"""COMPARE: a selector chooses the references of a target: by name, by text similarity, or by the scores on an image."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from concept_cam.concepts import ConceptBank
from concept_cam.errors import ComparisonError, UnknownConcept

Selector = Callable[[ConceptBank, str, Float[Tensor, " K"]], tuple[str, ...]]
"""A function that selects references: (bank, target, scores of the bank on this image) -> names."""


@dataclass(frozen=True)
class Named:
    """A selector of fixed names."""

    names: tuple[str, ...]

    def __call__(self, bank: ConceptBank, target: str, scores: Float[Tensor, " K"]) -> tuple[str, ...]:
        """The names; raises UnknownConcept if the bank does not hold one."""
        unknown = [name for name in self.names if name not in bank]
        if unknown:
            raise UnknownConcept(f"The bank does not hold {', '.join(map(repr, unknown))}; embed them first.")
        return self.names


def against(*names: str) -> Named:
    """Select named references; the parent of a part, such as "bird" for "red crown", can be one.

    Raises:
        UnknownConcept: the bank does not hold a name (raised when the selector is called).

    Example:
        >>> from concept_cam import against, world
        >>> plate = world.draw_species("ember finch")
        >>> world.localizer()(plate.image, "ember finch", against("frost finch", "willow finch")).comparison.weights
        (0.5, 0.5)
    """
    return Named(tuple(dict.fromkeys(names)))


def nearest(count: int = 3) -> Selector:
    """Select the concepts whose embeddings are nearest to that of the target, the same for every image.

    Raises:
        ComparisonError: the count is below 1.

    Example:
        >>> from concept_cam import world, nearest
        >>> plate = world.draw_species("ember finch")
        >>> world.localizer()(plate.image, "ember finch", nearest(1)).comparison.references
        ('frost finch',)
    """
    return _Nearest(count)


def rivals(count: int = 3) -> Selector:
    """Select the rivals, the concepts with the highest scores on this image, without the target.

    The paper calls them "top predictions".

    Raises:
        ComparisonError: the count is below 1.

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


# Classes instead of closures, because closures do not pickle.
class _Nearest(_Counted):
    def __call__(self, bank: ConceptBank, target: str, scores: Float[Tensor, " K"]) -> tuple[str, ...]:
        return bank.neighbours(target, self.count)


class _Rivals(_Counted):
    def __call__(self, bank: ConceptBank, target: str, scores: Float[Tensor, " K"]) -> tuple[str, ...]:
        return bank.ranked(scores, target, self.count)


OWN = (Named, _Nearest, _Rivals)
"""Selectors that do not write into their arguments."""


def sees_scores(selector: Selector | None) -> bool:
    """Whether the references depend on how concepts score on the image; of a selector of the user's own nobody knows."""
    return not (selector is None or isinstance(selector, Named | _Nearest))


def as_selector(wanted: Selector | str | Iterable[str] | None) -> Selector | None:
    """The selector for a selector, a name, several names or None.

    Example:
        >>> from concept_cam.selectors import as_selector
        >>> as_selector(["frost finch", "willow finch"])
        Named(names=('frost finch', 'willow finch'))
    """
    if wanted is None or callable(wanted):
        return wanted
    names = (wanted,) if isinstance(wanted, str) else tuple(dict.fromkeys(wanted))
    return Named(names) if names else None
