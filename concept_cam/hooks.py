"""The one place with hooks. Each sees the thread that set it and no other, and is gone when its block ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

from torch import nn

_MARK = "_set_by_concept_cam"


@contextmanager
def on_output(module: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    """Call ``hook(module, inputs, output)`` after the module ran; what it returns, if not None, becomes the output."""
    with module.register_forward_hook(_owned(hook)):
        yield


@contextmanager
def on_input(module: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    """Call ``hook(module, inputs)`` before the module runs; what it returns, if not None, becomes its inputs."""
    with module.register_forward_pre_hook(_owned(hook)):
        yield


def _owned(hook: Callable[..., Any]) -> Callable[..., Any]:
    owner = get_ident()

    def ours(*args: Any) -> Any:
        # The model is the user's: another thread may be running it.
        return hook(*args) if get_ident() == owner else None

    setattr(ours, _MARK, True)
    return ours


def is_ours(hook: object) -> bool:
    """Whether it was set here."""
    return getattr(hook, _MARK, False) is True
