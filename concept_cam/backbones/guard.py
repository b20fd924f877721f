"""How a model that belongs to the user is run, and what is kept of it beside it: nothing is written into model or backbone."""

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
    """One for each backbone: who runs its model, whether the model has changed, and what was derived from it.

    Attributes:
        original: of a copy for another input size, the backbone that it is a copy of; else None.
        said: what the adapter says of the model, by attribute.
        offered: what was found instead when the model was described last.
        sizes: copies for other input sizes.
        verdicts: what ``gradients`` found of closed forms.
        folded: its products of matrices, and the checksum of what they were made of.
        rewritten: attributes that a run of the model writes itself: a cache or a counter is no setting.
        keeps_places: the modules are those that they were when cells were measured.
        forgotten: how often ``Backbone.forget`` was called.
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

    # ---- whose turn it is ---------------------------------------------------------------------------------------------

    def locks(self, module: nn.Module) -> tuple[ModelLock, ...]:
        """The locks of the model; a copy for another size has those of the original."""
        if self.original is not None:
            return self.original.guard.locks(self.original.module)
        if self._locks is None or self._locks[0] is not module:
            self._locks = module, locks_of(module)
        return self._locks[1]

    @contextmanager
    def holding(self, module: nn.Module) -> Iterator[tuple[ModelLock, ...]]:
        """Let no other thread run the model; out of the caller's inference mode, without a graph."""
        locks = self.locks(module)
        with ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock.thread)
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
            yield locks

    @contextmanager
    def evaluating(self, module: nn.Module) -> Iterator[None]:
        """Run the model out of the caller's inference mode, without a graph, in evaluation mode; all as before afterwards.

        Another thread that calls the model, or a part of it, while it is in evaluation mode for us waits until it is as it
        was. A part that was already running when the mode changed, and a part whose ``forward`` is called by itself, do not.
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

    # ---- whether the model has changed ----------------------------------------------------------------------------------

    def has_changed(self, module: nn.Module, structure: Callable[[], Snapshot]) -> bool:
        """Whether the model is another than the one described last; what was derived is forgotten then.

        To be asked while the model is evaluated. It is looked at once in an outermost block: within it nobody else changes it.
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
        """Offer what was found of the model as it is now."""
        self.offered = offered
        self._described, self._unsettled = structure(), True

    def settle(self, structure: Callable[[], Snapshot]) -> None:
        """Note what the first run since the model was described has rewritten itself."""
        if self._unsettled and self._described is not None:
            self.rewritten = self._described.rewritten(structure())
            self._described, self._unsettled = structure(), False

    def forget(self) -> None:
        """Have the model described anew at the next use."""
        self._described = None
        self.forgotten += 1

    # ---- what is known of it --------------------------------------------------------------------------------------------

    def say(self, name: str, value: Any) -> None:
        """Keep what the adapter says; it counts until the model is described again."""
        self.said[name] = value
        self.offered = {key: found for key, found in self.offered.items() if key != name}

    def tell(self, name: str) -> Any:
        """What is known under a name.

        Raises:
            KeyError: nothing.
        """
        offered = self.offered
        return offered[name] if name in offered else self.said[name]


_NOTHING = object()


def guarded(default: Any = _NOTHING) -> Any:
    """An attribute of a backbone that its guard keeps: set as any other, and found anew when the model is described."""
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
    """Gives whether a block of that very model is open already."""
    within = any(one is module for one in locks[0].open)
    for lock in locks:
        lock.blocks += not lock.open
        lock.open.append(module)
    try:
        yield within
    finally:
        for lock in locks:
            lock.open.pop()
