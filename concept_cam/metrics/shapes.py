"""Run-time checks of shapes: a mask of another size would broadcast, and the metric would be wrong without a warning."""

from __future__ import annotations

from torch import Tensor

from concept_cam.errors import OptionError


def check_shapes(**given: tuple[Tensor, str]) -> None:
    """Check that tensors have the axes that a metric expects, and that axes of one name have one size.

    Args:
        given: for each argument the tensor and its axes, such as ``"*batch height width"``. A leading ``*`` stands for any
            number of axes, an integer for an axis of that size.

    Raises:
        OptionError: an axis is missing, or two tensors disagree about the size of one.

    Example:
        >>> import torch
        >>> maps, masks = torch.zeros(4, 4), torch.ones(1, 4)
        >>> check_shapes(heatmaps=(maps, "*batch height width"), masks=(masks, "*batch height width"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        concept_cam.errors.OptionError: Got heatmaps (4, 4), masks (1, 4); expected heatmaps (*batch, height, width), ...
    """
    sizes: dict[str, object] = {}
    for tensor, axes in given.values():
        for axis, size in _sizes(tuple(tensor.shape), axes.split()):
            if sizes.setdefault(axis, int(axis) if axis.isdigit() else size) != size:
                raise OptionError(_message(given))


def _sizes(shape: tuple[int, ...], axes: list[str]) -> list[tuple[str, object]]:
    """The size of each axis by its name; two sizes of one axis if the number of axes is wrong."""
    lead = len(shape) - len(axes) + 1
    if axes[0].startswith("*") and lead >= 0:
        return [(axes[0], shape[:lead]), *zip(axes[1:], shape[lead:], strict=True)]
    if len(shape) != len(axes):
        return [("", len(axes)), ("", len(shape))]
    return list(zip(axes, shape, strict=True))


def _message(given: dict[str, tuple[Tensor, str]]) -> str:
    shown = ", ".join(f"{name} {tuple(tensor.shape)}" for name, (tensor, _) in given.items())
    wanted = ", ".join(f"{name} ({', '.join(axes.split())})" for name, (_, axes) in given.items())
    return f"Got {shown}; expected {wanted}, where axes of one name have one size."
