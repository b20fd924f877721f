"""What a module is made of at one moment, so that what was derived from it is known to be out of date when it changes.

Two kinds of change are told apart. A *structure* is the modules, the tensors they hold, their hooks and their plain attributes
(a norm's eps, a pooling's kind, the scale of an adapter): it decides which formula is right. *Contents* are the numbers in the
tensors. They are read in full: a fused optimizer, ``.data`` and numpy views write past torch's version counters.

Not seen: an object that no module holds (a global variable, a closure), and attributes deeper than ``_DEPTH`` levels within an
object. ``Backbone.forget`` is for these.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from math import isnan
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor, nn

from concept_cam.hooks import is_ours

_SCALARS = (bool, int, str, bytes, complex, type(None), torch.dtype, torch.device, torch.Size, torch.layout)
_OPAQUE = (type, FunctionType, BuiltinFunctionType, MethodType, ModuleType)
_DEPTH = 4
"""How many levels within an attribute are looked at: lists in dictionaries, settings in a configuration."""

_STRETCH, _ROW = 1 << 20, 1 << 10
"""How many numbers are summed together, as integers and as values."""

_GROUPS = frozenset({"_parameters", "_buffers", "_modules"})

_MODE = "training"
"""No setting: the library sets it itself while the model runs."""

_Part = tuple[int, tuple[tuple[str, Hashable], ...]]


@final
class Snapshot:
    """The structure of a module, and on request its contents.

    Whatever is compared by identity is kept alive, so that no address can be used again by something else.

    Args:
        module: what is looked at.
        without: submodules that are ignored.
        contents: whether tensors are read as well.
        ignored: attributes that are not compared, as ``rewritten`` gives them.

    Example:
        >>> from torch import nn
        >>> norm = nn.LayerNorm(4)
        >>> before = Snapshot(norm)
        >>> norm.eps = 1e-3
        >>> before == Snapshot(norm)
        False
    """

    def __init__(
        self,
        module: nn.Module,
        without: Iterable[nn.Module] = (),
        *,
        contents: bool = False,
        ignored: frozenset[tuple[int, str]] = frozenset(),
    ) -> None:
        self._held: list[Any] = []
        self._ignored, self._reads = ignored, contents
        modules = list(_modules(module, {id(one) for one in without}))
        self._parts = tuple(self._part(one) for one in modules)
        self._sums = checksum(tensor for one in modules for _, tensor in tensors_of(one)) if contents else ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Snapshot) and (self._parts, self._sums) == (other._parts, other._sums)

    __hash__ = None  # type: ignore[assignment]  # it is compared, never looked up

    def has_modules_of(self, other: Snapshot) -> bool:
        """Whether the modules are the very same, and run as they did: only settings, hooks or parameters may differ."""
        return [_kind(part) for part in self._parts] == [_kind(part) for part in other._parts]

    def rewritten(self, after: Snapshot) -> frozenset[tuple[int, str]]:
        """The attributes that differ: between two snapshots around a run, those that the run itself rewrites."""
        pairs = zip(self._parts, after._parts, strict=False)
        return frozenset((one, name) for (one, own), (_, new) in pairs for name in _differing(own, new))

    def _part(self, module: nn.Module) -> _Part:
        kind, values = type(module), vars(module)
        self._held += (module, kind, kind.forward, *values.values())
        settings = ((n, self._settled(v, _DEPTH)) for n, v in values.items() if v is not False and n != _MODE)
        if self._ignored:
            settings = ((n, v) for n, v in settings if (id(module), n) not in self._ignored)
        return id(module), (("class", (id(kind), id(kind.forward))), *settings)

    def _settled(self, value: Any, depth: int) -> Hashable:
        """Something that is equal to another exactly if the values are the same."""
        kind = type(value)
        if kind in _SCALARS or (kind is float and not isnan(value)):
            return value  # type: ignore[no-any-return]
        if isinstance(value, dict) and depth:
            own = (item for item in value.items() if not is_ours(item[1]))
            return tuple((self._settled(key, 1), self._settled(v, depth - 1)) for key, v in own)
        if isinstance(value, list | tuple | set | frozenset) and depth:
            return tuple(self._settled(v, depth - 1) for v in value)
        if isinstance(value, Tensor | np.ndarray) and self._reads:
            # What is read in full needs no identity: a hook may make it anew in every run.
            return self._within(value, 0)
        self._held.append(value)
        return id(value), self._within(value, depth - 1)

    def _within(self, value: Any, depth: int) -> Hashable:
        """What an object is made of, as far as it is looked at."""
        if isinstance(value, Tensor):
            return value.dtype, value.device, value.shape
        if depth < 0 or isinstance(value, (nn.Module, *_OPAQUE)):
            return None
        if isinstance(value, partial):
            return self._settled((value.func, *value.args, value.keywords), depth)
        return self._settled(vars(value), depth) if hasattr(value, "__dict__") else None


class TextState(NamedTuple):
    """What a text's embedding depends on; see ``Backbone.text_state``."""

    module: Snapshot
    tokens: tuple[Any, ...]
    autocast: torch.dtype | bool


_SETTLED: ContextVar[dict[int, tuple[object, TextState]] | None] = ContextVar("settled", default=None)
"""What was seen of text encoders within ``texts_settled``, by the identity of the model, which is kept alive with it."""


@contextmanager
def texts_settled() -> Iterator[None]:
    """Within the context, or the function that it decorates, nobody changes a text encoder, so each is read once.

    A run uses it, which would otherwise read the whole text encoder for each batch. It holds for this thread alone.
    """
    token = _SETTLED.set({})
    try:
        yield
    finally:
        _SETTLED.reset(token)


def text_state_of(model: object, look: Callable[[], TextState]) -> TextState:
    """The state of a model's texts; within ``texts_settled`` the one that was seen first.

    Args:
        model: whose state it is.
        look: reads it.
    """
    settled = _SETTLED.get()
    if settled is None:
        return look()
    if id(model) not in settled:
        settled[id(model)] = model, look()
    return settled[id(model)][1]


def _kind(part: _Part) -> tuple[int, tuple[tuple[str, Hashable], ...]]:
    return part[0], tuple(item for item in part[1] if item[0] in ("class", "forward", "_modules"))


def _differing(one: Sequence[tuple[str, Hashable]], other: Sequence[tuple[str, Hashable]]) -> set[str]:
    a, b = dict(one), dict(other)
    return {name for name in a.keys() | b.keys() if a.get(name) != b.get(name)}


def _modules(module: nn.Module, without: set[int]) -> Iterator[nn.Module]:
    seen, waiting = set(without), [module]
    while waiting:
        one = waiting.pop()
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [child for child in one._modules.values() if child is not None]


def tensors_of(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, buffers, and what plain attributes hold of tensors and arrays, also in lists and dictionaries."""
    for group in (module._parameters, module._buffers):
        yield from ((name, tensor) for name, tensor in group.items() if tensor is not None)
    for name, value in vars(module).items():
        if name not in _GROUPS:
            yield from ((f"{name}.{i}", tensor) for i, tensor in enumerate(_tensors_in(value, _DEPTH)))


def _tensors_in(value: Any, depth: int) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        yield torch.from_numpy(np.ascontiguousarray(value))
    elif isinstance(value, dict | list | tuple) and depth:
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors_in(item, depth - 1)


def checksum(tensors: Iterable[Tensor]) -> tuple[Hashable, ...]:
    """Numbers that change with any one number of the tensors, and with their kind, shape and place.

    Two sums are blind to different things: that of the bits, taken as integers, sees the smallest change of one number; that
    of the values, with weights that differ from place to place, sees numbers that change signs, scales or places together.
    Every byte is read once from memory; of tensors on a GPU, one transfer for all.

    Example:
        >>> weight = torch.ones(3)
        >>> before = checksum([weight])
        >>> weight.numpy()[1] = 1 + 1e-7
        >>> before == checksum([weight])
        False
    """
    about: list[Hashable] = []
    sums: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    with torch.no_grad():
        for tensor in tensors:
            about.append((tensor.dtype, tensor.device, tensor.shape))
            try:
                with torch.autocast(tensor.device.type, enabled=False):
                    for one in _sums(tensor):
                        sums.setdefault((one.device, one.dtype), []).append(one)
            except (RuntimeError, NotImplementedError, TypeError):
                about.append(_Unreadable())
        for alike in sums.values():
            numbers = torch.cat(alike)
            about.append(numbers.cpu().numpy().tobytes())
    return tuple(about)


class _Unreadable:
    """Equal to nothing else: a tensor whose bytes cannot be read never counts as unchanged."""


def _sums(tensor: Tensor) -> Iterator[Tensor]:
    """Of the bits modulo 2 to the 64th, and of the values, for each stretch of its memory."""
    data = tensor.detach()
    if data.is_complex():
        data = torch.view_as_real(data)
    if not data.is_contiguous():
        # A dense tensor of another order is read as it lies in memory.
        data = data.permute(sorted(range(data.ndim), key=data.stride, reverse=True)).contiguous()
    # On a CPU a stretch stays in its cache between the two.
    for part in data.reshape(-1).split(_STRETCH if data.device.type == "cpu" else max(1, data.numel())):
        width = part.element_size()
        aligned = part.numel() * width % 8 == 0 and part.storage_offset() * width % 8 == 0
        yield part.view(torch.int64 if aligned else _NARROW[width]).sum(dtype=torch.int64)[None]
        values = part if part.dtype in (torch.float32, torch.float64) else part.float()
        weights = _weights(values.dtype, values.device)
        rows = len(values) // _ROW
        if rows:
            yield values[: rows * _ROW].view(rows, _ROW) @ weights
        if len(values) > rows * _ROW:
            yield (values[rows * _ROW :] @ weights[: len(values) - rows * _ROW])[None]


@cache
def _weights(dtype: torch.dtype, device: torch.device) -> Tensor:
    """From a half to one and a half, no two alike."""
    return (torch.arange(1, _ROW + 1, dtype=torch.float64, device="cpu") * 0.6180339887498949 % 1 + 0.5).to(device, dtype)


_NARROW = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.int64}
