"""Own streams: every block of a tower that pools its patches."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from concept_cam.gradients import Trace, unroll
from concept_cam.methods.method import FieldMethod

_OWN_DEPTH = 4
"""Blocks that ``own_streams`` reads; each costs as much as its own backward pass."""


def _own_streams(trace: Trace) -> Float[Tensor, "B N E"]:
    """Own streams: the counterpart of ``class_stream`` for transformers that pool their patches, in the last four blocks.

    sum_l <dS/dV_n, V_n> over these blocks l, V_n being the values of patch n in all heads. Keys and values are constants in
    each block, so gradients flow along each token alone. Each direction takes a backward pass through these blocks.

    Source: ours (docs/definition.md, Every block).

    Example:
        >>> from concept_cam import world
        >>> plate, localizer = world.draw_species("ember finch"), world.localizer(method="own_streams")
        >>> localizer(plate.image, "ember finch", "frost finch").map.shape
        torch.Size([12, 12])
    """
    count, width = trace.embedding.shape
    units = torch.eye(width, device=trace.embedding.device, dtype=trace.embedding.dtype)
    return _own_maps(trace, units[:, None].expand(-1, count, -1)).permute(1, 2, 0)


def _own_maps(trace: Trace, directions: Float[Tensor, "K B E"]) -> Float[Tensor, "K B N"]:
    """One image at a time: the graph of one is held, not that of all. At most one pass for each number of the embedding."""
    if len(directions) > trace.embedding.shape[-1]:
        return torch.einsum("bne,kbe->kbn", _own_streams(trace), directions)
    maps = []
    for image in range(len(trace.pixels)):
        unrolled = unroll(trace, _OWN_DEPTH, image=image, streams=True)
        values = [layer.value for layer in unrolled.layers]
        of_image = []
        for direction in directions[:, image : image + 1]:
            pulled = unrolled.pull(unrolled.embedding, direction, values)
            rows = sum((pull * value.detach()).sum((1, 3)) for pull, value in zip(pulled, values, strict=True))
            assert isinstance(rows, Tensor)
            of_image.append(rows[:, unrolled.layout.prefix :])
        maps.append(torch.cat(of_image))
    return torch.stack(maps, 1)


own_streams = FieldMethod(_own_streams, _own_maps)
