"""Imports the libraries of models without torch's compiler, which is loaded when it is first used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any, final

import torch
from torch import compiler

_UTILS = "torch._dynamo.utils"


@contextmanager
def loaded_when_used() -> Iterator[None]:
    """Within the context, an import that only names a function of ``torch._dynamo`` does not load it.

    To load it takes longer than to import torchvision and timm. torchvision imports ``is_compile_supported`` from it for one
    operator; timm excludes functions from compilation (``torch.compiler.disable``). Both load it here when such a function is
    first called. Whatever else is asked of it loads it at once. After the context torch is as it was before.
    """
    if _UTILS in sys.modules:
        yield
        return
    stand_in, disable = _StandIn(_UTILS), compiler.disable
    sys.modules[_UTILS] = stand_in
    setattr(compiler, "disable", _disabled)  # noqa: B010  (it is overloaded)
    try:
        yield
    finally:
        setattr(compiler, "disable", disable)  # noqa: B010
        stand_in.leave()


def _disabled(function: Callable[..., Any] | None = None, recursive: bool = True, **_: object) -> Any:
    """``torch.compiler.disable`` as torch has it for its own functions."""
    return torch._disable_dynamo(function, recursive)  # type: ignore[attr-defined]


@final
class _StandIn(ModuleType):
    """In the place of a module that is imported when it is first used."""

    def is_compile_supported(self, device_type: Any) -> Any:
        return self._module().is_compile_supported(device_type)

    def leave(self) -> None:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # who looks through all modules does not use this one
            raise AttributeError(name)
        return getattr(self._module(), name)

    def _module(self) -> Any:
        self.leave()
        return import_module(self.__name__)
