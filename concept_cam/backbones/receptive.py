"""Where the cells of maps lie by the arithmetic of kernels, strides and paddings, as far as layers are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from concept_cam.backbones.axis import Axis
from concept_cam.hooks import on_output
from concept_cam.images import Size

_KNOWN = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)

_ALIKE = 0.1
"""Two ways to one map lie alike up to this share of a cell."""


Receptive = tuple[Axis, Axis]
"""Down and across."""


def receptive_fields(model: nn.Module, run: Callable[[], Any], size: Size) -> Mapping[Size, Receptive]:
    """For each (rows, cols) of maps in a run of the model, where their cells lie, if all ways there are known and agree.

    Maps are told by their size alone, for functions between two layers hand on other tensors: what comes out has to be
    confirmed by a measurement.

    Args:
        model: whose convolutions and poolings are read.
        run: runs it.
        size: of its input.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        >>> receptive_fields(conv, lambda: conv(torch.zeros(1, 3, 8, 8)), (8, 8))[4, 4][0]
        Axis(first=0.5, stride=2.0)
    """
    known: dict[Size, Receptive | None] = {size: (Axis(0.5, 1.0), Axis(0.5, 1.0))}

    def note(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if not (
            inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor) and inputs[0].ndim == output.ndim == 4
        ):
            return
        before, after = _size(inputs[0]), _size(output)
        entering = known.get(before)
        if entering is None:
            return
        leaving = _through(layer, entering, before, after)
        if leaving is None:
            return
        if after in known and known[after] != leaving and not _alike(known[after], leaving):
            known[after] = None
        else:
            known.setdefault(after, leaving)

    with ExitStack() as stack:
        for layer in model.modules():
            if isinstance(layer, _KNOWN):
                stack.enter_context(on_output(layer, note))
        run()
    return {grid: axes for grid, axes in known.items() if axes is not None}


def _size(map_: Tensor) -> Size:
    return map_.shape[2], map_.shape[3]


def _alike(one: Receptive | None, other: Receptive) -> bool:
    return one is not None and all(
        a.stride == b.stride and abs(a.first - b.first) <= _ALIKE * a.stride for a, b in zip(one, other, strict=True)
    )


def _through(layer: Any, entering: Receptive, before: Size, after: Size) -> Receptive | None:
    """Behind a layer; None where its output has another size than its numbers say, for then it does something else."""
    axes = []
    for axis, (start, sides, cells) in enumerate(zip(entering, before, after, strict=True)):
        kernel, stride, dilation = (_of_axis(getattr(layer, n, 1), axis) for n in ("kernel_size", "stride", "dilation"))
        reach = dilation * (kernel - 1)
        if isinstance(layer.padding, str):
            padding, missing = (reach // 2, reach) if layer.padding == "same" else (0, 0)
        else:
            padding = _of_axis(layer.padding, axis)
            missing = 2 * padding
        steps = (sides + missing - reach - 1) / stride
        if cells - 1 not in (int(steps // 1), int(-(-steps // 1)) if getattr(layer, "ceil_mode", False) else -1):
            return None
        axes.append(Axis(start.first + start.stride * (reach / 2 - padding), start.stride * stride))
    return axes[0], axes[1]


def _of_axis(number: int | tuple[int, ...], axis: int) -> int:
    return number[axis] if isinstance(number, tuple) else number
