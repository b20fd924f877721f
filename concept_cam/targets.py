"""TARGET: names or numbers, one for all images or one for each, become one name per image."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from concept_cam.errors import OptionError

if TYPE_CHECKING:
    from concept_cam.selectors import Selector

    Target: TypeAlias = str | int
    Targets: TypeAlias = Target | Iterable[Target | None] | None
    References: TypeAlias = Selector | Target | Iterable[Target] | None
    Names: TypeAlias = str | Iterable[Target]
else:
    # Tests check types at run time; there too an invalid target must be refused here, with a message.
    Target = Targets = References = Names = Any

T = TypeVar("T")


def named(wanted: Any, choices: Sequence[str], what: str = "target") -> str:
    """The name for a name, or for a number that counts the choices from 0.

    Args:
        wanted: a name, or an integer of Python, numpy or torch.
        choices: the classes of a classifier, in the order of its rows, or the vocabulary.
        what: what the argument is, for the message.

    Raises:
        OptionError: the argument is neither, or the number is out of range, or there are no choices.

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
    """One name for each image; None stands for the predicted class.

    Args:
        wanted: one target for all images, or one for each; see ``named``. None for the predicted class.
        count: number of images.
        choices: what numbers count.

    Raises:
        OptionError: a target is invalid, or their number is not that of the images.

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
    """Each image with its target, one after another.

    Args:
        items: the images.
        wanted: targets as in ``for_each``; a generator works too.
        choices: what numbers count.

    Raises:
        OptionError: a target is invalid, or their number is not that of the images.

    Example:
        >>> list(in_step("ab", [0, 1], ("cat", "dog")))
        [('a', 'cat'), ('b', 'dog')]
    """
    if is_one(wanted):
        (target,) = for_each(wanted, 1, choices)
        return ((item, target) for item in items)
    return _zipped(items, _one_by_one(wanted), choices)


def as_references(wanted: References, choices: Sequence[str]) -> Selector | str | tuple[str, ...] | None:
    """The references of an ``against`` argument: a selector, a name or several names; numbers count the choices.

    Raises:
        OptionError: the argument is none of these.

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
    """Whether the argument is one target for all images, and not an iterable with one for each.

    Example:
        >>> is_one("cat"), is_one(["cat", "dog"])
        (True, False)
    """
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
