"""How a model that belongs to the user is run: by one thread at a time, in evaluation mode, and left as it was."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import RLock
from typing import ClassVar, final

import torch
from torch import nn

from concept_cam.backbones.wrappers import plainly
from concept_cam.hooks import held_back

LOCK = RLock()
"""Hooks and flags are on the module, which all threads share."""

if hasattr(os, "register_at_fork"):
    # A child has one thread alone: a lock that another held would never be free, and the model would stay as it ran there.
    # So a fork waits for the run in progress.
    os.register_at_fork(before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=LOCK.release)


@final
class _Blocks:
    """Under the lock: of which models a block is open, and how many outermost ones there were."""

    open: ClassVar[list[nn.Module]] = []
    outermost = 0


def block_number() -> int:
    """Which outermost block of ``evaluating`` is in progress: within it nobody else changes the model."""
    return _Blocks.outermost


@contextmanager
def _counted(module: nn.Module) -> Iterator[bool]:
    """Gives whether a block of that very model is open already."""
    _Blocks.outermost += not _Blocks.open
    within = any(one is module for one in _Blocks.open)
    _Blocks.open.append(module)
    try:
        yield within
    finally:
        _Blocks.open.pop()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Run a model out of the caller's inference mode, without a graph, in evaluation mode; all as before afterwards.

    Another thread that calls the model, or a part of it, while it is in evaluation mode for us waits until it is as it was. A
    part that was already running when the mode changed, and a part whose ``forward`` is called by itself, do not.
    """
    with LOCK, ExitStack() as stack:
        within = stack.enter_context(_counted(module))
        training = [] if within else [one for one in module.modules() if one.training]
        if training:
            stack.enter_context(held_back(training, LOCK))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        if not within:
            stack.enter_context(plainly(module))
        for one in training:
            # The flag alone: ``train()`` would walk on to children whose own flag differs.
            stack.callback(setattr, one, "training", True)
            one.training = False
        yield
