"""All hooks of the library. A hook acts only in the thread that set it, and is removed when its block ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from threading import get_ident
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from concept_cam.errors import BackboneError

_PATIENCE = 60.0
"""Seconds; threads of the model's own cannot be told from those of the user's."""


@runtime_checkable
class Lock(Protocol):
    """A lock that may be waited for."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take it, or give up after so many seconds."""

    def release(self) -> None:
        """Give it back."""


@runtime_checkable
class Reached(Protocol):
    """Where a tensor is found in a run: see ``backbones.Site``."""

    @property
    def module(self) -> nn.Module:
        """Which layer."""

    @property
    def side(self) -> str:
        """``output`` or ``input``."""

    @property
    def call(self) -> int | None:
        """Which run of the layer, from 0; None if it runs once."""


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


@contextmanager
def on_site(site: Reached, hook: Callable[[Any, Tensor], Tensor | None]) -> Iterator[None]:
    """Call ``hook(entering, tensor)`` when a run reaches a site; what it returns, if not None, goes on in the tensor's place.

    Args:
        site: where. Calls of its module are counted from here on, so one block is for one run.
        hook: gets what entered the module, and the tensor at the site: the first, where there are more.
    """
    calls = 0

    def reached(module: nn.Module, inputs: tuple[Any, ...], output: Any = None) -> Any:
        nonlocal calls
        calls += 1
        if site.call not in (None, calls - 1) or not inputs:
            return None
        whole = inputs if site.side == "input" else output
        if not isinstance(whole, tuple):
            return hook(inputs[0], whole)
        changed = hook(inputs[0], whole[0])
        return None if changed is None else (changed, *whole[1:])

    with (on_input if site.side == "input" else on_output)(site.module, reached):
        yield


@contextmanager
def held_back(modules: Iterable[nn.Module], lock: Lock) -> Iterator[None]:
    """Let other threads that call one of the modules wait for the lock, which this thread holds.

    Not for ever: a model may call parts of itself in threads, for which this thread waits in turn.
    """
    owner = get_ident()

    def wait(*_: Any) -> None:
        if get_ident() == owner:
            return
        if not lock.acquire(timeout=_PATIENCE):
            raise BackboneError(
                f"A thread has waited {_PATIENCE:.0f} seconds for a run of the model in evaluation mode to end. If the model "
                "calls its parts in threads of its own, put it into evaluation mode first: model.eval()."
            )
        lock.release()

    setattr(wait, _MARK, True)
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(module.register_forward_pre_hook(wait))
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
