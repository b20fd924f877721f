"""Copies of a model for other input sizes, which share its parameters."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from copy import deepcopy
from typing import TYPE_CHECKING, NamedTuple, TypeVar, final

from torch import Tensor, nn

from concept_cam.backbones.snapshot import checksum, tensors_of
from concept_cam.errors import BackboneError
from concept_cam.preprocess import Size

if TYPE_CHECKING:
    from concept_cam.backbones.backbone import Backbone

_MOST = 16
"""Images at their native aspect have many sizes; this many copies of the structure are kept."""

M = TypeVar("M", bound=nn.Module)


def share(module: M) -> M:
    """A copy of the structure of a model with the same parameters, in evaluation mode.

    Buffers are copied too: libraries write into them.

    Raises:
        BackboneError: it holds something that cannot be copied.
    """
    memo: dict[int, object] = {id(parameter): parameter for parameter in module.parameters()}
    try:
        copied = deepcopy(module, memo)
    except (TypeError, RuntimeError) as error:
        raise BackboneError(
            f"The structure of {type(module).__name__} cannot be copied ({error}), so its input size cannot change."
        ) from error
    for part in copied.modules():
        part.training = False
    return copied


class _Sized(NamedTuple):
    """A copy, and the tensors of the original that it does not share, as they were."""

    backbone: Backbone
    own: tuple[str, ...]
    contents: tuple[Hashable, ...]


@final
class Sizes:
    """The last 16 copies of one model, each as long as the tensors that it does not share are unchanged."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Size, _Sized] = OrderedDict()

    def get(self, size: Size, module: nn.Module, make: Callable[[], Backbone]) -> Backbone:
        """The copy for an input of (height, width); it is made if there is none, or if it is out of date.

        Args:
            size: of the input.
            module: the original model.
            make: makes the copy.
        """
        kept = self._kept.pop(size, None)
        if kept is None or kept.contents != _contents(module, kept.own):
            made = make()
            theirs = _tensors(made.module)
            names = tuple(name for name, tensor in _tensors(module).items() if theirs.get(name) is not tensor)
            kept = _Sized(made, names, _contents(module, names))
        self._kept[size] = kept
        if len(self._kept) > _MOST:
            self._kept.popitem(last=False)
        return kept.backbone


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {f"{path}.{name}": tensor for path, one in module.named_modules() for name, tensor in tensors_of(one)}


def _contents(module: nn.Module, names: tuple[str, ...]) -> tuple[Hashable, ...]:
    tensors = _tensors(module) if names else {}
    return checksum(tensors[name] for name in names)
