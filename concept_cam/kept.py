"""Concepts that were embedded and are asked for again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, final

import torch

from concept_cam.concepts import ConceptBank, distinct

_OTHERS_KEPT = 4096
"""So many concepts outside the vocabulary are kept: those that were asked for last."""

_BANKS_KEPT = 4
"""So many banks are kept as they were asked for, with all that was derived from them."""


Versions = tuple[int, ...]
"""Torch counts how often a tensor was written into."""


@final
class Kept:
    """Embeddings of a vocabulary and of the last 4,096 other concepts, as long as what made them is what it was.

    What a call costs depends on what it asks for, not on what was ever asked. A copy or a pickle begins empty.

    Args:
        vocabulary: concepts that are kept however many they are.
    """

    vocabulary: tuple[str, ...]
    names: frozenset[str]
    """Of the vocabulary."""
    _state: object
    _whole: tuple[ConceptBank, Versions] | None
    _others: dict[str, ConceptBank]
    _banks: dict[tuple[bool, tuple[str, ...]], tuple[ConceptBank, Versions]]

    def __init__(self, vocabulary: Iterable[str] = ()) -> None:
        self.vocabulary = tuple(vocabulary)
        self.names = frozenset(self.vocabulary)
        self._begin(None)

    def bank(self, names: Iterable[str], state: object, make: Callable[[tuple[str, ...]], ConceptBank]) -> ConceptBank:
        """The bank of some concepts, to be read and not written to. For one thread at a time: call it while the model is held.

        Args:
            names: in order; one that comes twice counts once.
            state: equal to that of the call before if what was embedded then still holds.
            make: embeds concepts.

        Raises:
            PromptError, UnknownConcept: see ``embed``.
        """
        wanted = distinct(names)
        return self._get((False, wanted), state, make)

    def around(self, others: Sequence[str], state: object, make: Callable[[tuple[str, ...]], ConceptBank]) -> ConceptBank:
        """The bank of the vocabulary and of other concepts after it, to be read and not written to.

        What it costs, once the vocabulary is embedded, does not depend on how many names that has.

        Args:
            others: in order, none of the vocabulary; one that comes twice counts once.
            state: as in ``bank``, and so is make.
            make: embeds concepts.

        Raises:
            PromptError, UnknownConcept: see ``embed``.
        """
        more = distinct(others) if others or not self.vocabulary else ()
        return self._get((True, more), state, make)

    def _get(
        self, key: tuple[bool, tuple[str, ...]], state: object, make: Callable[[tuple[str, ...]], ConceptBank]
    ) -> ConceptBank:
        if self._state is None or self._state != state or self._is_written():
            self._begin(state)
        kept = self._banks.pop(key) if key in self._banks else _with_versions(self._joined(*key, make))
        self._banks[key] = kept
        _shorten(self._banks, _BANKS_KEPT)
        return kept[0]

    def _joined(self, around: bool, wanted: tuple[str, ...], make: Callable[[tuple[str, ...]], ConceptBank]) -> ConceptBank:
        """A bank of some concepts; ``around``: of the vocabulary, and of these after it."""
        if around:
            all_ = self.vocabulary
        else:
            own = frozenset(wanted)
            all_ = self.vocabulary if own.issuperset(self.names) else ()
        if self._whole is None and all_:
            self._whole = _with_versions(_concatenated([make(self.vocabulary)]))
        whole = self._whole and self._whole[0]
        within: frozenset[str] = frozenset() if whole is None else self.names
        outside = wanted if around else tuple(name for name in wanted if name not in within)
        fresh = tuple(name for name in outside if name not in self._others)
        made = make(fresh) if fresh else None
        if made is not None:
            biases = made.biases
            for row, name in enumerate(made.names):
                # Of its own: a row that is a view keeps all the others alive.
                bias = None if biases is None else biases[row : row + 1].clone()
                self._others[name] = ConceptBank((name,), made.vectors[row : row + 1].clone(), bias)
        banks = []
        if whole is not None and all_:
            banks.append(whole)
        elif whole is not None and len(outside) < len(wanted):
            banks.append(whole.select(name for name in wanted if name in within))
        for name in outside:
            banks.append(self._others[name])
            self._others[name] = self._others.pop(name)
        _shorten(self._others, _OTHERS_KEPT)
        # A bank that is handed out shares numbers with the vocabulary alone, which is watched.
        if around:
            return whole if whole is not None and not wanted else _concatenated(banks)
        return whole if whole is not None and whole.names == wanted else _in_order(banks, wanted)

    def _is_written(self) -> bool:
        """Whether somebody has written into a bank that was handed out; what is kept shares its numbers."""
        return any(_versions(bank) != versions for bank, versions in self._given())

    def _given(self) -> Iterator[tuple[ConceptBank, Versions]]:
        yield from self._banks.values()
        if self._whole is not None:
            yield self._whole

    def _begin(self, state: object) -> None:
        self._state, self._whole, self._others, self._banks = state, None, {}, {}

    def __getstate__(self) -> dict[str, Any]:
        return {"vocabulary": self.vocabulary}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.names = frozenset(self.vocabulary)
        self._begin(None)


def _versions(bank: ConceptBank) -> Versions:
    return tuple(tensor._version for tensor in (bank.vectors, bank.biases) if tensor is not None)


def _with_versions(bank: ConceptBank) -> tuple[ConceptBank, Versions]:
    return bank, _versions(bank)


def _concatenated(banks: list[ConceptBank]) -> ConceptBank:
    """One bank, whose vectors lie in memory column by column: the scores of one image then take half the time."""
    biases = [bank.biases for bank in banks if bank.biases is not None]
    names = tuple(name for bank in banks for name in bank.names)
    vectors = torch.cat([bank.vectors.T for bank in banks], 1).T
    return ConceptBank(names, vectors, torch.cat(biases) if biases else None)


def _in_order(banks: list[ConceptBank], wanted: tuple[str, ...]) -> ConceptBank:
    bank = _concatenated(banks)
    return bank if bank.names == wanted else bank.select(wanted)


def _shorten(kept: dict[Any, Any], most: int) -> None:
    for key in list(kept)[: max(0, len(kept) - most)]:
        del kept[key]
