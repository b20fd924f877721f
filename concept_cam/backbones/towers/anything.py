"""Any module: what its layers put out, seen in one run, says where tokens can be read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn

from concept_cam.backbones.backbone import FeatureMap, Site, TokenLayout, Tower
from concept_cam.backbones.heads import MeanPooling, Rest
from concept_cam.hooks import on_output
from concept_cam.images import Size

_FIRST_NORMS = ("norm1", "ln_1", "layer_norm1", "layernorm_before", "norm_before", "input_layernorm")
"""What the libraries call the first norm of a block."""

_MOST_PREFIX = 16
"""Class tokens and registers; nobody has more."""


def describe(
    module: nn.Module,
    prefix: str,
    run: Callable[[], Tensor],
    size: Size,
    tail: Rest = lambda mean: mean,
    stages: Sequence[str] = (),
) -> Tower | None:
    """The first norms of blocks, if it has such; else the last map at each resolution.

    Args:
        module: the vision tower.
        prefix: of its layers' names within the model.
        run: runs the model on one picture of that size and gives its embedding, (1, E).
        size: (height, width) of the input.
        tail: from the mean of the last map to the embedding, if the model pools so; that is tried.
        stages: names of layers, if it is known where the resolution changes.
    """
    seen: list[_Seen] = []
    with ExitStack() as stack:
        for name, layer in module.named_modules():
            stack.enter_context(on_output(layer, partial(_note, seen, prefix + name)))
        embedding = run()
    once = [s for s in seen if s.is_tensor and sum(s.module is other.module for other in seen) == 1]
    maps = [one for one in once if one.output.ndim == 4 and _has_aspect(one.output.shape[2:], size)]
    norms = _norm_sites(once, maps, size)
    if norms:
        return Tower("any module, norms of blocks", norms, _stride(norms[0], seen, size))
    sites = _map_sites(_ends(maps, {prefix + name for name in stages}), embedding, tail)
    return Tower("any module, maps", sites, _stride(sites[0], seen, size)) if sites else None


def _stride(site: Site, seen: list[_Seen], size: Size) -> int:
    output = next(one.output for one in seen if one.module is site.module)
    return max(1, round(size[0] / site.layout.read(output)[1].rows))


@dataclass(frozen=True)
class _Seen:
    name: str
    module: nn.Module
    output: Any

    @property
    def is_tensor(self) -> bool:
        return isinstance(self.output, Tensor) and self.output.is_floating_point() and len(self.output) == 1


def _has_aspect(grid: Sequence[int], size: Size) -> bool:
    """Whether a grid can be the picture: more than a cell, and of its aspect up to rounding; channels last are not."""
    rows, cols = grid
    stride = max(size[0] / rows, size[1] / cols)
    return min(rows, cols) > 1 and abs(size[0] - rows * stride) <= stride and abs(size[1] - cols * stride) <= stride


def _ends(maps: list[_Seen], stages: set[str]) -> list[_Seen]:
    """One module for each map: that of a stage, or else the outermost; where stages are known, only theirs and the last."""
    by_map: dict[int, _Seen] = {}
    for one in maps:
        before = by_map.pop(id(one.output), None)
        by_map[id(one.output)] = before if before is not None and before.name in stages else one
    ends = list(by_map.values())
    return [one for one in ends if one.name in stages or not stages or one is ends[-1]]


def _norm_sites(seen: list[_Seen], maps: list[_Seen], size: Size) -> tuple[Site, ...]:
    """Outputs of first norms, the last block's first: a sequence of tokens, or a map with its channels last."""
    sites = []
    for one in reversed(seen):
        if one.name.rpartition(".")[2] not in _FIRST_NORMS:
            continue
        if one.output.ndim == 4:
            width = getattr(one.module, "weight", one.output[0, 0, 0]).shape[0]
            sites.append(Site(one.name, one.module, FeatureMap(channels_last=one.output.shape[-1] == width)))
        elif one.output.ndim == 3:
            layout = _layout(one.output.shape[1], maps, size)
            if layout is not None:
                sites.append(Site(one.name, one.module, layout))
    return tuple(sites)


def _layout(tokens: int, maps: list[_Seen], size: Size) -> TokenLayout | None:
    """Patches come from a map, the last one that has so many cells, or have the input's aspect; the rest is the prefix."""
    for one in reversed(maps):
        rows, cols = one.output.shape[2:]
        if 0 <= tokens - rows * cols <= _MOST_PREFIX:
            return TokenLayout(tokens - rows * cols, rows, cols)
    for prefix in range(_MOST_PREFIX + 1):
        rows = isqrt((tokens - prefix) * size[0] // size[1])
        if rows and rows * size[1] % size[0] == 0 and rows * rows * size[1] // size[0] == tokens - prefix:
            return TokenLayout(prefix, rows, rows * size[1] // size[0])
    return None


def _map_sites(maps: list[_Seen], embedding: Tensor, tail: Rest) -> tuple[Site, ...]:
    """The last map at each resolution, the coarsest first; of modules that put out the same map, the outermost."""
    sites: dict[torch.Size, Site] = {}
    for one in maps:
        sites[one.output.shape[2:]] = Site(one.name, one.module, FeatureMap())
    found = tuple(reversed(sites.values()))
    if found:
        last = next(one for one in reversed(maps) if one.module is found[0].module)
        if _pools_by_mean(last.output, embedding, tail):
            return (replace(found[0], head=MeanPooling(tail)), *found[1:])
    return found


def _pools_by_mean(last: Tensor, embedding: Tensor, tail: Rest) -> bool:
    """Whether the embedding comes of the mean of the last map."""
    try:
        ours = tail(last.mean((2, 3)))
    except (RuntimeError, TypeError, ValueError):
        return False
    return ours.shape == embedding.shape and bool((ours - embedding).norm() <= 1e-2 * embedding.norm())


def _note(seen: list[_Seen], name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
    # What hands on its input (an identity, dropout at rest) is not what made it.
    if not any(output is given for given in inputs):
        seen.append(_Seen(name, module, output))
