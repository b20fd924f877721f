"""One number for anything that decides a row, the same in another process: no address, no order of a set, no cache.

What is noticed of a function: its code, its defaults, what it closes over, and of the globals that it names those of the same
package. What is not: what it reads from files or from the network, and the insides of libraries, of which the versions are
noted. Of an object of a library it is what the library prints of it, and the functions that it was given.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from pathlib import Path, PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, final

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from concept_cam.hooks import is_ours

ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
"""Where an object lies in memory, which is elsewhere in another process."""

_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis), torch.dtype, torch.device, torch.layout, PurePath)
_SCALARS = frozenset({bool, int, float, str, type(None)})
_CHANCE = (random.Random, np.random.Generator, np.random.BitGenerator, np.random.RandomState, torch.Generator)
_GROUPS = ("_parameters", "_buffers", "_modules", "training")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_STANDARD = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib")})
_INSTALLED = frozenset({"site-packages", "dist-packages"})
_OWN = __name__.partition(".")[0]


def digest_of(*values: Any) -> str:
    """A digest that changes with anything that these values are made of.

    Example:
        >>> from functools import partial
        >>> one, same, other = (digest_of(partial(round, ndigits=n)) for n in (1, 1, 2))
        >>> one == same, one == other
        (True, False)
    """
    digest = _Digest()
    for value in values:
        digest.add(value)
    return digest.hexdigest()


@final
class _Digest:
    def __init__(self) -> None:
        self._sum = hashlib.sha256()
        self._seen: dict[int, int] = {}
        self._kept: list[Any] = []
        self._open: set[int] = set()

    def hexdigest(self) -> str:
        return self._sum.hexdigest()

    def add(self, value: Any) -> None:
        if isinstance(value, Enum):
            self._feed("enum", f"{type(value).__qualname__}.{value.name}")
        elif isinstance(value, _PLAIN):
            self._feed(type(value).__name__, repr(value))
        elif isinstance(value, np.generic):
            self.add(value.item())
        elif isinstance(value, Tensor | np.ndarray | Image.Image):
            self._add_numbers(value)
        elif isinstance(value, Mapping | set | frozenset | list | tuple | partial):
            # Whether two equal ones are one object is chance; that one holds itself is not.
            if id(value) in self._open:
                self._feed("again", "")
                return
            self._open.add(id(value))
            self._add_container(value)
            self._open.discard(id(value))
        elif id(value) in self._seen:
            self._feed("again", str(self._seen[id(value)]))
        else:
            # Kept, so that its address is not used again by something else.
            self._seen[id(value)] = len(self._seen)
            self._kept.append(value)
            self._add_object(value)

    def _add_container(self, value: Any) -> None:
        if isinstance(value, Mapping):
            self._add_all("mapping", (part for item in value.items() for part in item))
        elif isinstance(value, set | frozenset):
            self._add_all("set", sorted(digest_of(one) for one in value))
        elif isinstance(value, partial):
            self._add_all("partial", (value.func, value.args, value.keywords))
        elif all(type(one) in _SCALARS for one in value):
            self._feed("scalars", repr(tuple(value)))
        else:
            self._add_all("items", value)

    def _add_object(self, value: Any) -> None:
        if isinstance(value, FunctionType):
            self._add_function(value)
        elif isinstance(value, MethodType):
            self._add_all("method", (value.__func__, value.__self__))
        elif isinstance(value, staticmethod | classmethod):
            self._add_all("method", (value.__func__,))
        elif isinstance(value, property):
            self._add_all("property", (value.fget, value.fset))
        elif isinstance(value, CodeType):
            self._add_code(value)
        elif isinstance(value, type):
            self._add_class(value)
        elif isinstance(value, nn.Module):
            self._add_module(value)
        elif isinstance(value, ModuleType):
            self._feed("module", value.__name__)
        elif isinstance(value, BuiltinFunctionType) or hasattr(value, "__qualname__"):
            self._feed("name", f"{getattr(value, '__module__', '')}.{value.__qualname__}")
            self.add(getattr(value, "__wrapped__", None))
        elif not isinstance(value, _CHANCE):
            self._add_instance(value)

    def _feed(self, kind: str, content: str | bytes | memoryview) -> None:
        content = content.encode(errors="surrogatepass") if isinstance(content, str) else content
        self._sum.update(f"{kind} {len(content)} ".encode())
        self._sum.update(content)

    def _add_all(self, kind: str, values: Iterable[Any]) -> None:
        self._feed("begin", kind)
        for value in values:
            self.add(value)
        self._feed("end", kind)

    def _add_numbers(self, value: Tensor | np.ndarray | Image.Image) -> None:
        if isinstance(value, Image.Image):
            self._feed("image", repr((value.mode, value.size, value.getpalette())))
            self._feed("pixels", value.tobytes())
        elif isinstance(value, Tensor):
            self._feed("tensor", repr((value.dtype, tuple(value.shape))))
            if not value.is_meta:
                self._feed("numbers", _bytes_of(value))
        elif value.dtype.hasobject:
            self._add_all("objects", value.tolist())
        else:
            self._feed("array", repr((value.dtype.str, value.shape)))
            self._feed("numbers", np.ascontiguousarray(value).tobytes())

    def _add_function(self, function: FunctionType) -> None:
        self._add_code(function.__code__)
        self._add_all("defaults", (function.__defaults__, function.__kwdefaults__))
        self._feed("closure", str(len(function.__closure__ or ())))
        for cell in function.__closure__ or ():
            try:
                held = cell.cell_contents
            except ValueError:  # It is not filled yet.
                held = None
            self.add(held)
        if not _is_library(function.__module__):
            self._add_globals(function)

    def _add_globals(self, function: FunctionType) -> None:
        """Those that the code names: settings and helpers of the user's own."""
        for name in sorted(_names_in(function.__code__)):
            if name in function.__globals__:
                self._feed("global", name)
                self.add(function.__globals__[name])

    def _add_code(self, code: CodeType) -> None:
        # Neither where the file lies nor in which line: a comment is no change.
        self._feed("code", code.co_code)
        self._feed("names", repr((code.co_names, code.co_varnames, code.co_freevars, code.co_argcount, code.co_flags)))
        self._add_all("constants", code.co_consts)

    def _add_class(self, kind: type) -> None:
        self._feed("class", f"{kind.__module__}.{kind.__qualname__}")
        if not _is_library(kind.__module__):
            self._add_all("bases", kind.__bases__)
            for name, value in vars(kind).items():
                if not name.startswith("__") or isinstance(value, FunctionType):
                    self._feed("attribute", name)
                    self.add(value)

    def _add_module(self, module: nn.Module) -> None:
        """Its layers, their settings, their numbers and the hooks on them."""
        self._add_class(type(module))
        for name, value in vars(module).items():
            if name in _HOOKS:
                self._add_all(name, (hook for hook in value.values() if not is_ours(hook)))
            elif not name.startswith("_") and name not in _GROUPS:
                self._feed("attribute", name)
                self.add(value)
        for group in (module._parameters, module._buffers, module._modules):
            for name, held in group.items():
                self._feed("part", name)
                self.add(held)

    def _add_instance(self, value: Any) -> None:
        kind = type(value)
        self._add_class(kind)
        if is_dataclass(value):
            # What is not printed is a cache.
            self._add_all("fields", (part for f in fields(value) if f.repr for part in (f.name, getattr(value, f.name))))
            return
        prints: Any = kind.__repr__
        of_library, described = _is_library(kind.__module__), prints is not object.__repr__
        if described:
            self._feed("repr", ADDRESS.sub("", repr(value)))
        for name, part in (vars(value) if hasattr(value, "__dict__") else {}).items():
            # What a library keeps in its objects is its own matter, but for what it was given to call.
            if not of_library or (_has_code(part) if described else isinstance(part, _PLAIN)):
                self._feed("attribute", name)
                self.add(part)


def _bytes_of(tensor: Tensor) -> bytes | memoryview:
    try:
        plain = tensor.detach().to("cpu").resolve_conj().resolve_neg()
        plain = plain.to_dense() if plain.layout != torch.strided else plain
        plain = plain.dequantize() if plain.is_quantized else plain
        return plain.contiguous().reshape(-1).view(torch.uint8).numpy().data
    except (RuntimeError, NotImplementedError, TypeError):
        # A tensor that cannot be read never counts as unchanged.
        return os.urandom(16)


def _has_code(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_has_code, value))
    return isinstance(value, FunctionType | MethodType | partial) or not (
        isinstance(value, (*_PLAIN, *_CHANCE, Mapping, set, type)) or _is_library(type(value).__module__)
    )


def _names_in(code: CodeType) -> set[str]:
    return set(code.co_names).union(*(_names_in(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


def _is_library(module: str | None) -> bool:
    """Whether a module is of Python, of this package or of what is installed, and so of a version."""
    root = (module or "").partition(".")[0]
    if root in sys.builtin_module_names or root == _OWN:
        return True
    file = getattr(sys.modules.get(root), "__file__", None) or ""
    return file.startswith(_STANDARD) or not _INSTALLED.isdisjoint(Path(file).parts)
