"""How a model that belongs to the user is run: by one thread at a time, in evaluation mode, and left as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import RLock

import torch
from torch import nn

from concept_cam.backbones.wrappers import plainly

LOCK = RLock()
"""Hooks and flags are on the module, which all threads share."""


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Run a model out of the caller's inference mode, without a graph, in evaluation mode; all as before afterwards."""
    with LOCK, ExitStack() as stack:
        training = [one for one in module.modules() if one.training]
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(plainly(module))
        for one in training:
            # The flag alone: ``train()`` would walk on to children whose own flag differs.
            stack.callback(setattr, one, "training", True)
            one.training = False
        yield
