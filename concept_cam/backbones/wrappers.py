"""What holds a model: parallel, averaged, compiled and adapted ones, and modules of a user's own. All are seen through."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, final

import torch
import torch.utils.checkpoint
from torch import nn

from concept_cam.backbones.locks import PROCESS
from concept_cam.backbones.site import Site
from concept_cam.backbones.tower import Tower
from concept_cam.errors import BackboneError

_MOST_SCALAR = 1
"""A counter or a temperature that a wrapper keeps beside the model has so many numbers."""

_PRECISIONS = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64, torch.complex128)
"""Those that autograd goes through; with fewer bits a layer computes in a way of its own."""

_FLAG = "grad_checkpointing"
"""What timm and open_clip call the switch; that of transformers has no effect in evaluation mode."""


class Holder(nn.Module):
    """Holds a module under a name, and does nothing else."""

    def __init__(self, name: str, held: nn.Module) -> None:
        super().__init__()
        self.add_module(name, held)


def hold(prefix: str, module: nn.Module) -> nn.Module:
    """A module in which the layers of another have names that start so; nothing is copied."""
    for name in reversed(prefix.split(".")[:-1]):
        module = Holder(name, module)
    return module


def called(model: nn.Module) -> tuple[str, nn.Module]:
    """The module to call, and the start of its layers' names within the model.

    A compiled model hides its layers from hooks, and a parallel one may run copies of them; both do no more than call one
    module, so that one is called.
    """
    prefix = ""
    while name := _dispatched(model):
        prefix, model = f"{prefix}{name}.", getattr(model, name)
    return prefix, model


def _dispatched(model: nn.Module) -> str | None:
    if isinstance(model, Holder):
        return next(iter(model._modules))
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return "module"
    # What torch.compile gives; its class cannot be imported without the compiler.
    return "_orig_mod" if "_orig_mod" in model._modules else None


def outermost(model: nn.Module, wanted: Callable[[nn.Module], bool], prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The modules that are wanted and are in no other that is, with the start of their layers' names.

    Args:
        model: is searched, itself included.
        wanted: whether a module is one of those.
        prefix: the start of the names of the model's own layers, with a dot at its end unless it is empty.
    """
    if wanted(model):
        yield prefix, model
        return
    for name, child in model.named_children():
        yield from outermost(child, wanted, f"{prefix}{name}.")


def only_one(model: nn.Module, wanted: Callable[[nn.Module], bool], name: str) -> tuple[str, nn.Module] | None:
    """The one module that is wanted, if a model holds any; and the start of its layers' names.

    Args:
        model: is searched, itself included.
        wanted: whether a module is a dual encoder.
        name: of the model, for the message.

    Raises:
        BackboneError: there are several, or the model has weights besides, so that it may embed otherwise.
    """
    found = {id(module): (prefix, module) for prefix, module in outermost(model, wanted)}
    if not found:
        return None
    (prefix, module), *others = found.values()
    if others:
        names = ", ".join(path.removesuffix(".") for path, _ in found.values())
        raise BackboneError(f"{name} holds {len(found)} dual encoders: {names}; wrap one of them.")
    own = {id(tensor) for _, tensor in _tensors(module)}
    # By name as well: peft's layers make some of their tensors anew each time they are asked for them.
    elsewhere = ((path, tensor) for path, tensor in _tensors(model) if not path.startswith(prefix))
    beside = [tensor for _, tensor in elsewhere if id(tensor) not in own and tensor.numel() > _MOST_SCALAR]
    if beside:
        inner = prefix.removesuffix(".")
        raise BackboneError(
            f"{name} holds a dual encoder at {inner} and {len(beside)} tensors besides, which encode_image of {inner} does "
            f"not use; wrap model.{inner}, or write an adapter: docs/adapters.md."
        )
    return prefix, module


def named_within(model: nn.Module, tower: Tower | None) -> Tower | None:
    """A tower whose sites have the names that the model which holds it gives their modules."""
    if tower is None:
        return None
    modules = dict(model.named_modules())
    names = {id(module): name for name, module in modules.items()}

    def named(site: Site) -> Site:
        known = modules.get(site.name) is site.module or id(site.module) not in names
        return site if known else replace(site, name=names[id(site.module)])

    return replace(tower, sites=tuple(named(site) for site in tower.sites))


def _tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def has_own(module: nn.Module, name: str) -> bool:
    """Whether a module has an attribute itself: compiled and adapted ones pretend to have those of what they hold."""
    return name in vars(module) or name in module._modules or hasattr(type(module), name)


def check_layers(model: nn.Module, name: str) -> None:
    """Raise BackboneError if a model has no layers that can be watched, or none that pass a gradient on."""
    for module in model.modules():
        kind = type(module)
        if isinstance(module, torch.jit.ScriptModule):
            raise BackboneError(
                f"{name} is compiled by TorchScript ({kind.__name__}): hooks do not reach its layers; give the model that was "
                "scripted or traced."
            )
        if ".quantized" in kind.__module__ or any(_is_quantized(parameter) for parameter in module.parameters(recurse=False)):
            raise BackboneError(
                f"{name} is quantized ({kind.__name__}): its weights are not in floating point, so that no gradient goes "
                "through them; give the model as it was before."
            )
    if next(model.parameters(), None) is None:
        raise BackboneError(f"{name} has no parameters; expected a model with weights.")


def _is_quantized(parameter: nn.Parameter) -> bool:
    return parameter.is_quantized or parameter.dtype not in _PRECISIONS


# ---- how a model is run -----------------------------------------------------------------------------------------------


@contextmanager
def plainly(model: nn.Module) -> Iterator[None]:
    """Run a model layer by layer: compiled parts as they were written, and without gradient checkpointing.

    Hooks do not reach into a compiled graph. A checkpointed part is run a second time, in the pass backwards, when hooks and
    evaluation mode are gone; and timm walks past its stages then.
    """
    with ExitStack() as stack:
        for part in model.modules():
            if vars(part).get(_FLAG) is True:
                stack.callback(setattr, part, _FLAG, True)
                setattr(part, _FLAG, False)
        stack.enter_context(_SWITCHES.off())
        yield


@final
class _Switches:
    """Two switches that torch has for the whole process: they are off as long as any thread needs it."""

    def __init__(self) -> None:
        self._users, self._stack = 0, ExitStack()

    @contextmanager
    def off(self) -> Iterator[None]:
        with PROCESS:
            if not self._users:
                self._turn_off()
            self._users += 1
        try:
            yield
        finally:
            with PROCESS:
                self._users -= 1
                if not self._users:
                    self._stack.close()

    def _turn_off(self) -> None:
        if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):
            self._stack.enter_context(torch.compiler.set_stance("force_eager"))
        module: Any = torch.utils.checkpoint
        for name, plain in _CHECKPOINTS.items():
            if hasattr(module, name):
                self._stack.callback(setattr, module, name, getattr(module, name))
                setattr(module, name, plain)


_SWITCHES = _Switches()


class _Called:
    """Stands for the autograd function that checkpoints: calls what it is given."""

    @staticmethod
    def apply(function: Callable[..., Any], _: bool, *args: Any) -> Any:
        return function(*args)


def _nothing(*_: Any, **__: Any) -> Iterator[None]:
    """Stands for what torch does before and after a checkpointed part that saves no tensors of its own."""
    yield


_CHECKPOINTS: dict[str, Any] = {
    "CheckpointFunction": _Called,
    "_checkpoint_without_reentrant_generator": _nothing,
    "_checkpoint_without_reentrant_generator_impl": _nothing,  # its name in later versions
}
"""What torch.utils.checkpoint does its work with, and what it does it with here."""
