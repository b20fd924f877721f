"""How the user's model is run, and what is derived from it: nothing is written into the model or the backbone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, final

import torch
from torch import nn

from concept_cam.backbones.locks import ModelLock, locks_of
from concept_cam.backbones.sizes import Sizes
from concept_cam.backbones.snapshot import Snapshot
from concept_cam.backbones.wrappers import plainly
from concept_cam.hooks import held_back

if TYPE_CHECKING:
    from concept_cam.backbones.backbone import Backbone


@final
class Guard:
    """The one object of a backbone that changes: its locks, the last known state of its model, and what was derived from that.

    Attributes:
        original: of a copy for another input size, the backbone that it is a copy of; else None.
        said: what the adapter set, by attribute.
        offered: what replaces it since the model was described last.
        sizes: copies for other input sizes.
        verdicts: of closed forms, whether ``gradients`` found them exact.
        folded: the products of matrices of ``gradients``, with the checksum of the matrices.
        rewritten: attributes that a run of the model writes itself: a cache or a counter is no setting.
        keeps_places: the modules are those that they were when cells were measured.
        forgotten: the number of calls of ``Backbone.forget``.
    """

    def __init__(self, original: Backbone | None = None) -> None:
        self.original = original
        self.said: dict[str, Any] = {}
        self.offered: Mapping[str, Any] = {}
        self.rewritten: frozenset[tuple[int, str]] = frozenset()
        self.keeps_places, self.forgotten = False, 0
        self._described: Snapshot | None = None
        self._unsettled = False
        self._looked: tuple[int, ...] = ()
        self._locks: tuple[nn.Module, tuple[ModelLock, ...]] | None = None
        self._derive_anew()

    def _derive_anew(self) -> None:
        self.sizes = Sizes()
        self.verdicts: dict[str, bool] = {}
        self.folded: tuple[Any, Any] | None = None

    # ---- running the model --------------------------------------------------------------------------------------------

    def locks(self, module: nn.Module) -> tuple[ModelLock, ...]:
        """The locks of the model; a copy for another size uses those of the original."""
        if self.original is not None:
            return self.original.guard.locks(self.original.module)
        if self._locks is None or self._locks[0] is not module:
            self._locks = module, locks_of(module)
        return self._locks[1]

    @contextmanager
    def holding(self, module: nn.Module) -> Iterator[tuple[ModelLock, ...]]:
        """Let no other thread run the model; within, there is no graph and no inference mode."""
        locks = self.locks(module)
        with ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock.thread)
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
            yield locks

    @contextmanager
    def evaluating(self, module: nn.Module) -> Iterator[None]:
        """Run the model in evaluation mode, without a graph and outside inference mode; everything is restored afterwards.

        Another thread that calls the model, or a part of it, waits while evaluation mode is set here. A part that was already
        running when the mode changed, and a part whose ``forward`` is called directly, do not wait.
        """
        with self.holding(module) as locks, ExitStack() as stack:
            within = stack.enter_context(_counted(locks, module))
            training = [] if within else [one for one in module.modules() if one.training]
            if training:
                stack.enter_context(held_back(training, locks[0].thread))
            if not within:
                stack.enter_context(plainly(module))
            for one in training:
                # The flag alone: ``train()`` would walk on to children whose own flag differs.
                stack.callback(setattr, one, "training", True)
                one.training = False
            yield

    # ---- changes of the model -----------------------------------------------------------------------------------------

    def has_changed(self, module: nn.Module, structure: Callable[[], Snapshot]) -> bool:
        """Whether the model differs from the one described last; if so, what was derived from it is dropped.

        Call it within ``evaluating``. The model is compared once in an outermost block: within that, nobody else changes it.

        Args:
            module: the model.
            structure: takes a snapshot of it.
        """
        block = tuple(lock.blocks for lock in self.locks(module))
        if self._described is not None and self._looked == block:
            return False
        before, now, self._looked = self._described, structure(), block
        if before == now:
            return False
        self.keeps_places = before is not None and before.has_modules_of(now)
        self._described, self.rewritten = None, frozenset()
        self._derive_anew()
        return True

    def describe(self, offered: Mapping[str, Any], structure: Callable[[], Snapshot]) -> None:
        """Take over what was found of the model as it is now.

        Args:
            offered: by attribute of the backbone.
            structure: takes a snapshot of the model.
        """
        self.offered = offered
        self._described, self._unsettled = structure(), True

    def settle(self, structure: Callable[[], Snapshot]) -> None:
        """Note which attributes the first run since the description has written itself."""
        if self._unsettled and self._described is not None:
            self.rewritten = self._described.rewritten(structure())
            self._described, self._unsettled = structure(), False

    def forget(self) -> None:
        """Have the model described again at the next use."""
        self._described = None
        self.forgotten += 1

    # ---- attributes of the backbone -----------------------------------------------------------------------------------

    def say(self, name: str, value: Any) -> None:
        """Keep an attribute that the adapter sets; it holds until the model is described again.

        Args:
            name: of the attribute.
            value: its value.
        """
        self.said[name] = value
        self.offered = {key: found for key, found in self.offered.items() if key != name}

    def tell(self, name: str) -> Any:
        """The value of an attribute.

        Raises:
            KeyError: it was never set.
        """
        offered = self.offered
        return offered[name] if name in offered else self.said[name]


_NOTHING = object()


def guarded(default: Any = _NOTHING) -> Any:
    """Declare an attribute of a backbone that its guard keeps: it is set and read like any other."""
    return _Guarded(default)


@final
class _Guarded:
    def __init__(self, default: Any) -> None:
        self._default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, backbone: Backbone | None, owner: type) -> Any:
        if backbone is None:
            return self
        try:
            return backbone.guard.tell(self._name)
        except KeyError:
            if self._default is _NOTHING:
                raise AttributeError(f"{owner.__name__} says nothing of its {self._name}.") from None
            return self._default

    def __set__(self, backbone: Backbone, value: Any) -> None:
        backbone.guard.say(self._name, value)


@contextmanager
def _counted(locks: tuple[ModelLock, ...], module: nn.Module) -> Iterator[bool]:
    """Count an open block; yields whether a block of the same module was open already."""
    within = any(one is module for one in locks[0].open)
    for lock in locks:
        lock.blocks += not lock.open
        lock.open.append(module)
    try:
        yield within
    finally:
        for lock in locks:
            lock.open.pop()
