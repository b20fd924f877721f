"""The layer whose rows are the classes: found by running the model, or named."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from concept_cam.errors import BackboneError, did_you_mean
from concept_cam.hooks import on_output

_LISTED = 6
"""So many names fit into a message."""

_ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4}
"""How far a layer's output may be from rows times input, relative; half precision rounds more."""


@dataclass(frozen=True)
class Rows:
    """A linear layer, or a convolution of one cell by one that does the work of one.

    Attributes:
        name: the layer's name within the model.
        module: the layer.
    """

    name: str
    module: nn.Module

    @property
    def weight(self) -> Float[Tensor, "K E"]:
        """A row for each class."""
        layer: Any = self.module
        if "weight" in vars(layer):
            # No parameter: a hook makes it (pruning, weight and spectral norms of the old style) when the layer runs.
            empty = layer.weight.new_zeros(1, *layer.weight.shape[1:])
            with torch.no_grad():
                layer(empty)
        weight: Tensor = layer.weight.detach()
        return weight.flatten(1)

    @property
    def bias(self) -> Float[Tensor, " K"] | None:
        """A number for each class, if the layer has any."""
        layer: Any = self.module
        bias: Tensor | None = layer.bias
        return None if bias is None else bias.detach()

    @property
    def count(self) -> int:
        """How many classes there are."""
        return len(self.weight)


@dataclass(frozen=True)
class Run:
    """One call of a layer: copies of what entered and left it, since the model may write into either."""

    rows: Rows
    entering: Tensor
    leaving: Tensor

    @property
    def embedding(self) -> Float[Tensor, "B E"]:
        """What the rows are multiplied with.

        Raises:
            BackboneError: it is not one vector for each image.
        """
        if self.entering[0].numel() != self.rows.weight.shape[1]:
            raise BackboneError(
                f"{self.rows.name} gives scores for each of many places, {_shape(self.leaving)}, not for the image; "
                "pool before it, so that the model ends in one row of scores for each image."
            )
        return self.entering.flatten(1)

    def off(self, most: int | None = None) -> float:
        """By how much the scores are not rows times input, relative; of all images, or of the first ones."""
        weight, bias = self.rows.weight, self.rows.bias
        kind = torch.float64 if most is None else torch.promote_types(weight.dtype, torch.float32)
        given = self.embedding[:most].detach().to(kind)
        ours = F.linear(given, weight.to(kind), None if bias is None else bias.to(kind))
        return float((ours - self.leaving.detach().flatten(1)[:most].to(kind)).norm() / ours.norm().clamp(min=1e-30))

    def check(self, name: str) -> None:
        """Hold the scores of the first image against rows times input.

        Raises:
            BackboneError: they are others: the layer has become one that does more.
        """
        off = self.off(1)
        if off > _ROUNDING.get(self.leaving.dtype, 3e-2):
            raise BackboneError(
                f"{name}: {self.rows.name} gives other scores than its rows times its input (off by {off:.0%}): it does more "
                "than it did when the model was wrapped; undo that, or wrap the model anew."
            )


def watch(layers: Sequence[Rows], call: Callable[[], Any]) -> tuple[list[Run], Any]:
    """Call the model, and give what enters and leaves these layers with what it puts out."""
    seen: list[Run] = []
    with ExitStack() as stack:
        for layer in layers:

            def note(_: nn.Module, inputs: tuple[Any, ...], output: Any, layer: Rows = layer) -> None:
                if inputs and isinstance(output, Tensor):
                    seen.append(Run(layer, inputs[0].clone(), output.clone()))

            stack.enter_context(on_output(layer.module, note))
        output = call()
    return seen, output


def find(model: nn.Module, call: Callable[[], Any], count: int, head: str | None, name: str) -> Rows:
    """The layer that gives the model's output, wherever the model lists it; or the one that is named.

    Args:
        model: whose layers' names count.
        call: runs it on one image and gives its output.
        count: how many classes have names.
        head: the name of the layer, if the user says it; later steps of the model are then ignored.
        name: of the model, for messages.

    Raises:
        BackboneError: there is no such layer, there are several, or it does more than multiply its input with rows.
    """
    layers = [Rows(path, module) for path, module in model.named_modules() if _is_linear(module)]
    if head is not None:
        layers = [_named(layers, model, head, name)]
    elif not any(isinstance(layer.module, nn.Linear) for layer in layers) and not _squeezed(layers, count):
        raise BackboneError(f"{name} has no linear layer; expected a classifier that ends in one, or a dual encoder.")
    runs, output = watch(layers, call)
    if not runs and head is None:
        raise BackboneError(f"{name}: no layer of {type(model).__name__} ran; call= must run the model that it is given.")
    if head is not None:
        if len(runs) != 1:
            raise BackboneError(f"{name}: {head} ran {len(runs)} times on one batch; expected once.")
        chosen = runs[0]
    else:
        chosen = _one(_giving(runs, output), runs, output, count, name)
    _check_multiplies(chosen, name)
    return chosen.rows


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (
        isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1
    )


def _squeezed(layers: Sequence[Rows], count: int) -> bool:
    """Whether a convolution of one cell by one may be the last layer, as in timm's ResNetV2 and in SqueezeNet."""
    return any(layer.count == count for layer in layers)


def _named(layers: Sequence[Rows], model: nn.Module, head: str, name: str) -> Rows:
    # Within a wrapper a name goes on where the user begins.
    found = [layer for layer in layers if layer.name == head] or [x for x in layers if x.name.endswith(f".{head}")]
    if len(found) == 1:
        return found[0]
    modules = dict(model.named_modules())
    if head in modules:
        kind = type(modules[head]).__name__
        raise BackboneError(f"{name}: head={head!r} is a {kind}; expected a linear layer, such as {_names(layers[::-1])}.")
    hint = did_you_mean(head, [layer.name for layer in layers])
    raise BackboneError(f"{name} has no layer {head!r}.{hint} Its last linear layers are {_names(layers[::-1])}.")


def _giving(runs: Sequence[Run], output: Any) -> list[Run]:
    """Those whose output is the model's, or part of it; each layer once."""
    parts = list(_parts(output))
    found = {run.rows.name: run for run in runs if any(_same(run.leaving, part) for part in parts)}
    return list(found.values())


def _parts(output: Any) -> Iterator[Tensor]:
    """The tensors of an output; of what names its scores, those alone."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for part in [output["logits"]] if "logits" in output else output.values():
            yield from _parts(part)
    elif isinstance(output, tuple | list):
        for part in output:
            yield from _parts(part)
    elif isinstance(getattr(output, "logits", None), Tensor):
        yield output.logits


def _same(leaving: Tensor, part: Tensor) -> bool:
    """Up to its precision and to axes of length one."""
    return leaving.numel() == part.numel() and torch.equal(leaving.flatten().to(part.dtype), part.flatten())


def _one(giving: Sequence[Run], runs: Sequence[Run], output: Any, count: int, name: str) -> Run:
    fitting = [run for run in giving if run.rows.count == count] or list(giving)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise BackboneError(
            f"{name} puts out the scores of {len(fitting)} linear layers: {_names([run.rows for run in fitting])}; "
            f"say which is meant with head=, such as head={fitting[0].rows.name!r}."
        )
    if not list(_parts(output)):
        raise BackboneError(
            f"{name} puts out a {type(output).__name__}, which holds no scores that are known; say how to get them with "
            "call=, a function (model, pixels) -> scores."
        )
    ran = {run.rows.name: run.rows for run in reversed(runs) if run.rows.count == count}
    places = [run for run in runs if isinstance(run.rows.module, nn.Conv2d) and run.rows.name in ran]
    if len(ran) == 1 and places:
        raise BackboneError(
            f"{name}: its classes come of {places[0].rows.name}, a convolution at each place of {_shape(places[0].entering)}, "
            "and not of one vector for each image; wrap a model that pools before its last layer."
        )
    known = f"name the layer whose rows are the classes, head={next(iter(ran))!r}" if len(ran) == 1 else (
        f"name the layer whose rows are the classes with head=: {_names(list(ran.values()))}" if ran else
        "wrap the part of the model that ends in it"
    )  # fmt: skip
    raise BackboneError(f"{name}: the output is not that of its last linear layer; {known}.")


def _check_multiplies(run: Run, name: str) -> None:
    """Hold the layer against rows times input: adapters, cosines and quantized layers do more."""
    layer = run.rows
    weight = layer.weight
    if not weight.dtype.is_floating_point or type(weight).__name__ == "DTensor":
        what = "sharded over processes" if type(weight).__name__ == "DTensor" else f"quantized ({weight.dtype})"
        raise BackboneError(f"{name}: the rows of {layer.name} are {what}; give a model with whole rows in floating point.")
    off = run.off()
    if off > _ROUNDING.get(run.leaving.dtype, 3e-2):
        raise BackboneError(
            f"{name}: {layer.name} ({type(layer.module).__name__}) does more than multiply its input with its rows "
            f"(off by {off:.0%}), so they are not what it scores by; of an adapted model, merge the adapter first "
            "(merge_and_unload())."
        )


def _names(layers: Sequence[Rows]) -> str:
    names = [layer.name for layer in layers[:_LISTED]]
    return ", ".join(names) + (", ..." if len(layers) > _LISTED else "")


def _shape(tensor: Tensor) -> str:
    return " x ".join(str(side) for side in tensor.shape)
