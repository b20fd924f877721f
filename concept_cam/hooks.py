"""The one place with hooks. Each sees the thread that set it and no other, and is gone when its block ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

from torch import nn


@contextmanager
def on_output(module: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    """Call ``hook(module, inputs, output)`` after the module ran; what it returns, if not None, becomes the output."""
    owner = get_ident()

    def ours(*args: Any) -> Any:
        # The model is the user's: another thread may be running it.
        return hook(*args) if get_ident() == owner else None

    handle = module.register_forward_hook(ours)
    try:
        yield
    finally:
        handle.remove()
