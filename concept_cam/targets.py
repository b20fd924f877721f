"""TARGET: what is looked for, by its name or its number, once for all images or once for each, becomes a name for each."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from concept_cam.errors import OptionError

if TYPE_CHECKING:
    from concept_cam.comparison import Selector

    Target: TypeAlias = str | int
    Targets: TypeAlias = Target | Iterable[Target | None] | None
    References: TypeAlias = Selector | Target | Iterable[Target] | None
    Names: TypeAlias = str | Iterable[Target]
else:
    # Types are checked at run time in tests: there too, what is no target shall be refused here, in words.
    Target = Targets = References = Names = Any

T = TypeVar("T")


def named(wanted: Any, choices: Sequence[str], what: str = "target") -> str:
    """The name that is meant by a name, or by a number that counts in the choices from 0.

    Args:
        wanted: a name, or an integer of Python, numpy or torch.
        choices: the classes of a classifier, in the order of its rows, or the vocabulary.
        what: it is, for the message.

    Raises:
        OptionError: it is neither, or there are no choices, or not so many.

    Example:
        >>> named(1, ("cat", "dog")), named("bird", ())
        ('dog', 'bird')
    """
    if isinstance(wanted, str):
        return str(wanted)
    is_bool = isinstance(wanted, bool) or "bool" in str(getattr(wanted, "dtype", ""))
    try:
        index = None if is_bool else operator.index(wanted)
    except (TypeError, ValueError, RuntimeError):
        index = None
    if index is None:
        raise OptionError(f"{what} is {_told(wanted)}; expected a name, or the number of a class.")
    if not choices:
        raise OptionError(f"{what} is {index}, but there is no vocabulary to count in; give a name, or a vocabulary.")
    if not 0 <= index < len(choices):
        raise OptionError(f"{what} is {index}; expected a name, or a number from 0 to {len(choices) - 1}.")
    return choices[index]


def for_each(wanted: Targets, count: int, choices: Sequence[str]) -> list[str | None]:
    """A name for each of so many images; None where the predicted class is meant.

    Args:
        wanted: one for all, or one for each, as ``named`` knows them; None for the predicted class.
        count: of images.
        choices: in which numbers count.

    Raises:
        OptionError: one is no target, or there are more or fewer than images.

    Example:
        >>> for_each("cat", 2, ()), for_each([1, None], 2, ("cat", "dog"))
        (['cat', 'cat'], ['dog', None])
    """
    if is_one(wanted):
        return [None if wanted is None else named(wanted, choices)] * count
    found = [None if one is None else named(one, choices) for one in _one_by_one(wanted)]
    if len(found) != count:
        images = "1 image" if count == 1 else f"{count} images"
        raise OptionError(f"{len(found)} targets for {images}; expected one for all of them, or one for each.")
    return found


def in_step(items: Iterable[T], wanted: Targets, choices: Sequence[str]) -> Iterator[tuple[T, str | None]]:
    """Each image with its target, as they come; ``wanted`` as in ``for_each``, a generator will do.

    Raises:
        OptionError: one is no target, or there are more or fewer than images.

    Example:
        >>> list(in_step("ab", [0, 1], ("cat", "dog")))
        [('a', 'cat'), ('b', 'dog')]
    """
    if is_one(wanted):
        (target,) = for_each(wanted, 1, choices)
        return ((item, target) for item in items)
    return _zipped(items, _one_by_one(wanted), choices)


def as_references(wanted: References, choices: Sequence[str]) -> Selector | str | tuple[str, ...] | None:
    """What ``against`` means: a selector, a name or several; numbers count in the choices.

    Raises:
        OptionError: it is none of these.

    Example:
        >>> as_references([0, "bird"], ("cat", "dog"))
        ('cat', 'bird')
    """
    if wanted is None or isinstance(wanted, str):
        return wanted
    if callable(wanted):
        return _checked_selector(wanted)
    if not isinstance(wanted, Iterable) or isinstance(wanted, Mapping | bytes) or getattr(wanted, "ndim", 1) == 0:
        return named(wanted, choices, "against")
    names = tuple(named(one, choices, "one of against") for one in wanted)
    if not names:
        raise OptionError("against is empty; leave it out for the nearest of the vocabulary, or set strength to 0.")
    return names


def _checked_selector(wanted: Callable[..., Any]) -> Selector:
    try:
        inspect.signature(wanted).bind(None, None, None)
    except TypeError as error:
        name = getattr(wanted, "__name__", repr(wanted))
        raise OptionError(
            f"{name} is no selector ({error}); expected names, nearest(3), rivals(3) or a function of (bank, target, scores)."
        ) from None
    except ValueError:
        pass  # Nothing is known of the arguments of some built-in functions.
    return wanted


def is_one(wanted: Any) -> bool:
    """Whether a target is one for all images, and not an iterable of one for each."""
    return isinstance(wanted, str | bytes) or not isinstance(wanted, Iterable) or getattr(wanted, "ndim", 1) == 0


def _one_by_one(wanted: Any) -> Iterator[Any]:
    if isinstance(wanted, Mapping | Set):
        raise OptionError(
            f"target is {_told(wanted)}, which has no order; expected one for all images, or a list of one for each."
        )
    return iter(wanted)


def _zipped(items: Iterable[T], wanted: Iterable[Any], choices: Sequence[str]) -> Iterator[tuple[T, str | None]]:
    targets = iter(wanted)
    count = 0
    for count, item in enumerate(items, 1):
        try:
            one = next(targets)
        except StopIteration:
            raise OptionError(f"{count - 1} targets for more images; expected one for all of them, or one for each.") from None
        yield item, None if one is None else named(one, choices)
    if next(targets, targets) is not targets:
        raise OptionError(f"More targets than the {count} images; expected one for all of them, or one for each.")


def _told(wanted: Any) -> str:
    shape = getattr(wanted, "shape", None)
    kind = type(wanted).__name__
    return f"a {kind} of {wanted.dtype}, shape {tuple(shape)}" if shape is not None else f"{wanted!r:.60} ({kind})"
