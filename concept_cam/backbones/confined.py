"""How a library loads a checkpoint from outside: without its code, without a question, within bounds of memory."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from math import prod
from pathlib import Path
from threading import RLock
from typing import Any, NoReturn, final

import torch
from huggingface_hub import constants
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import dynamic_module_utils
from transformers.utils import cached_file, logging

from concept_cam.backbones.archives import Stored
from concept_cam.backbones.settings import check_settings
from concept_cam.backbones.weights import load_failure
from concept_cam.errors import BackboneError, ConceptCamError
from concept_cam.images import Size

MOST_PIXELS = 4096 * 4096
"""Of the input that a checkpoint may ask for."""

_TIMES, _SPARE = 8, 512 * 2**20
"""A model may ask for so many times the bytes of its weights, which may be in half precision, and these besides."""

_TENSORS, _SPARE_TENSORS = 64, 20_000
"""And for so many tensors for each that its weights hold, and these besides."""

_LOCK = RLock()
"""The switches below are of the process."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release)


@contextmanager
def confined(what: str, *, local: bool = False) -> Iterator[None]:
    """Load a checkpoint: it runs no code, asks nobody, reads pickles for tensors alone; a folder downloads nothing.

    Args:
        what: is loaded, for messages.
        local: it is a folder or a file, so that nothing that it names is downloaded; the hub's cache is still read.

    Raises:
        BackboneError: whatever a library raises, in one line.
    """
    try:
        with _LOCK, ExitStack() as stack:
            # Weights are drawn at random before they are read.
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.random.fork_rng(devices=[]))
            # transformers asks on the terminal whether code shall be run, for so many seconds.
            _switch(stack, dynamic_module_utils, "TIME_OUT_REMOTE_CODE", 0)
            _switch(stack, dynamic_module_utils, "get_cached_module_file", _refuse)
            # Before torch 2.6, torch.load hands an archive of TorchScript to this, whatever weights_only says.
            _switch(stack, torch.jit, "load", _refuse)
            if not (sys.stderr and sys.stderr.isatty()) and logging.is_progress_bar_enabled():
                stack.callback(logging.enable_progress_bar)
                logging.disable_progress_bar()
            if local:
                _switch(stack, constants, "HF_HUB_OFFLINE", True)
            stack.enter_context(_tensors_alone())
            stack.enter_context(warnings.catch_warnings())
            # Advice to read all that a pickle holds, which comes before the error.
            warnings.filterwarnings("ignore", "(?s).*weights_only")
            yield
    except BackboneError:
        raise
    except ConceptCamError as error:
        raise BackboneError(f"{what}: {error}") from error
    except Exception as error:
        raise BackboneError(load_failure(what, error, local=local)) from error


def _switch(stack: ExitStack, where: Any, name: str, value: Any) -> None:
    stack.callback(setattr, where, name, getattr(where, name))
    setattr(where, name, value)


@contextmanager
def _tensors_alone() -> Iterator[None]:
    """Libraries that call ``torch.load`` again without ``weights_only``, should it fail, get it all the same."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise BackboneError("The checkpoint brings code of its own, which is not run; load it yourself and wrap() the model.")


_QUIETLY: dict[str, Any] = {
    "_raise_exceptions_for_missing_entries": False,
    "_raise_exceptions_for_connection_errors": False,
}


def check_named(name: str, files: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Read the settings of a repository of the hub, which are downloaded for it.

    Raises:
        BackboneError: see ``check_settings``.
    """
    paths = {file: downloaded(name, file) for file in files}
    return {file: check_settings(path) for file, path in paths.items() if path is not None}


def downloaded(name: str, file: str) -> Path | None:
    """A file of a repository of the hub, if it has one of that name and it can be had."""
    # Without a network nobody can tell what a repository lacks; what cannot be had here, the library cannot have either.
    path = cached_file(name, file, **_QUIETLY)
    return None if path is None else Path(path)


def check_input(what: str, size: Size) -> None:
    """Raise BackboneError if a checkpoint asks for a larger input than is run unasked."""
    if size[0] * size[1] > MOST_PIXELS:
        raise BackboneError(
            f"{what} asks for an input of {size[0]} x {size[1]} pixels; a checkpoint may ask for at most {MOST_PIXELS:,}."
        )


# ---- memory -----------------------------------------------------------------------------------------------------------


@contextmanager
def built_within(what: str, stored: Stored) -> Iterator[None]:
    """Build a model whose weights are known: a configuration that asks for much more than these is refused as it asks.

    Raises:
        BackboneError: it does.
    """
    with _Budget(what, _TIMES * stored.size + _SPARE, _TENSORS * stored.tensors + _SPARE_TENSORS):
        yield


@final
class _Budget(TorchDispatchMode):
    """Adds up what torch is asked for, before it gives it."""

    def __init__(self, what: str, size: int, tensors: int) -> None:
        TorchDispatchMode.__init__(self)
        self._what, self._largest, self._size, self._tensors = what, size, size, tensors

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Asked by torch, which otherwise loads its compiler to exclude the method below from it."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        numbers = _numbers(func, args, kwargs)
        if numbers is not None:
            self._size -= numbers * (kwargs.get("dtype") or torch.float32).itemsize
            self._tensors -= 1
        # A pickle may repeat one number into any shape: that costs nothing until something is made of it.
        if min(self._size, self._tensors) < 0 or any(_bytes(one) > self._largest for one in args):
            raise BackboneError(
                f"{self._what}: its configuration asks for a model that is much larger than its weights, so it is not built; "
                "give the weights of that model."
            )
        return func(*args, **kwargs)


def _bytes(given: Any) -> int:
    """What an argument would take if all its numbers were written out."""
    tensors = given if isinstance(given, list | tuple) else [given]
    return sum(one.numel() * one.element_size() for one in tensors if isinstance(one, torch.Tensor))


def _numbers(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int | None:
    """How many numbers an operator makes, if it is one that makes a tensor of a size that it is told."""
    name = func._schema.name.removeprefix("aten::")
    if name not in _MAKERS:
        return None
    given: dict[str, Any] = {**dict(zip((one.name for one in func._schema.arguments), args, strict=False)), **kwargs}
    if name == "arange":
        return int((given["end"] - given.get("start", 0)) / given.get("step", 1)) + 1
    if name == "repeat":
        return int(prod(given["repeats"]) * max(1, given["self"].numel()))
    if name == "eye":
        return int(given["n"]) * int(given["m"] if "m" in given else given["n"])
    told = next(given[key] for key in ("size", "steps", "n") if key in given)
    return int(told) if isinstance(told, int) else prod(told)


_MAKERS = frozenset(
    {
        "arange",
        "empty",
        "empty_strided",
        "eye",
        "full",
        "linspace",
        "logspace",
        "new_empty",
        "new_full",
        "new_ones",
        "new_zeros",
        "ones",
        "rand",
        "randint",
        "randn",
        "randperm",
        "repeat",
        "zeros",
    }
)
