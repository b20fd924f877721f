"""Which references an evaluation compares with, by the names that a command line gives them."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from typing import TypeAlias

from concept_cam.concepts import ConceptBank
from concept_cam.datasets import Example
from concept_cam.errors import OptionError
from concept_cam.selectors import Selector, against, nearest, rivals

References: TypeAlias = Callable[[Example], Selector | None]
"""The selector for an example; None if it has no such references."""


def read_references(text: str) -> References:
    """The references that a text names: ``twin``, ``nearest:3``, ``rivals:3``, ``rank:2`` or ``random:3``.

    ``twin`` is the class that the data set says is most easily confused with the label. ``nearest`` ranks classes by text
    similarity, ``rivals`` by their scores on the image (the paper's top predictions). ``rank:2`` is the second of the rivals
    alone. ``random`` draws other classes, the same for an example each time. Without a number, K is 3.

    Raises:
        OptionError: it is none of these.

    Example:
        >>> read_references("nearest:1") is not None
        True
    """
    kind, count = _parsed(text)
    if kind == "twin":
        return lambda example: against(example.twin) if example.twin else None
    if kind == "random":
        return lambda example: _at_random(example.name, count)
    selector = _SELECTORS[kind](count)
    return lambda example: selector


def canonical(text: str) -> str:
    """The one way to write references that can be written in several: ``nearest`` and ``nearest:03`` are ``nearest:3``.

    Raises:
        OptionError: they are no references.

    Example:
        >>> canonical("nearest")
        'nearest:3'
    """
    kind, count = _parsed(text)
    return kind if kind == "twin" else f"{kind}:{count}"


def _parsed(text: str) -> tuple[str, int]:
    kind, _, given = text.partition(":")
    if text == "twin":
        return kind, 1
    # Of digits that int() knows; a number of thousands of digits is none.
    count = int(given or 3) if re.fullmatch("[0-9]{0,9}", given) else 0
    if kind not in (*_SELECTORS, "random") or count < 1:
        listed = ", ".join(f"{name}:K" for name in (*_SELECTORS, "random"))
        raise OptionError(f"No references {text!r:.60}; expected twin or one of {listed} with K of at least 1.")
    return kind, count


def _rank(place: int) -> Selector:
    return lambda bank, target, scores: bank.ranked(scores, target, place)[place - 1 :]


_SELECTORS: Mapping[str, Callable[[int], Selector]] = {"nearest": nearest, "rivals": rivals, "rank": _rank}


def _at_random(seed: str, count: int) -> Selector:
    def select(bank: ConceptBank, target: str, scores: object) -> tuple[str, ...]:
        names = [name for name in bank.names if name != target]
        return tuple(random.Random(seed).sample(names, min(count, len(names))))  # noqa: S311  (no secret)

    return select
