"""Locks: one thread at a time runs a model. Models that share a module wait for each other, other models do not."""

from __future__ import annotations

import os
from functools import partial
from itertools import count
from threading import RLock
from typing import final
from weakref import ref

from torch import nn

PROCESS = RLock()
"""For state of the whole process: torch's switches, Python's warnings, the table of locks. It is held only briefly."""


@final
class ModelLock:
    """Held by the thread that runs a model: hooks and flags are on its modules, which all threads share.

    Attributes:
        thread: the lock itself; the thread that holds it may take it again.
        number: locks are taken in this order.
        open: the modules of the open blocks of ``Guard.evaluating``, the outermost first.
        blocks: the number of outermost blocks so far.
    """

    def __init__(self) -> None:
        self.thread, self.number = RLock(), next(_NUMBERS)
        self.open: list[nn.Module] = []
        self.blocks = 0


_NUMBERS = count()
_LOCKS: dict[int, tuple[ref[nn.Module], ModelLock]] = {}
"""By the identity of each module, as long as the module lives."""


def locks_of(model: nn.Module) -> tuple[ModelLock, ...]:
    """The locks of a model, in the order in which they are taken: one, unless it joins modules of several models."""
    with PROCESS:
        parts = list(model.modules())
        known = {lock for part in parts if (lock := _lock_of(part)) is not None}
        locks = tuple(sorted(known, key=lambda lock: lock.number)) or (ModelLock(),)
        for part in parts:
            if _lock_of(part) is None:
                _LOCKS[id(part)] = ref(part, partial(_forget, id(part))), locks[0]
    return locks


def _forget(key: int, _: object) -> None:
    _LOCKS.pop(key, None)


def _lock_of(part: nn.Module) -> ModelLock | None:
    kept = _LOCKS.get(id(part))
    return kept[1] if kept is not None and kept[0]() is part else None


# ---- forks ------------------------------------------------------------------------------------------------------------

_held: list[ModelLock] = []


def _before_fork() -> None:
    """Wait for the runs in progress.

    A child has only one thread: a lock that another thread holds would never be released, and the model would stay as it is.
    """
    locks = sorted({lock for _, lock in list(_LOCKS.values())}, key=lambda lock: lock.number)
    for lock in locks:
        lock.thread.acquire()
    PROCESS.acquire()
    _held[:] = locks


def _after_fork() -> None:
    locks = list(_held)
    PROCESS.release()
    for lock in locks:
        lock.thread.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
