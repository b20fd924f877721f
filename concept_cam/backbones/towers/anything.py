"""Any module: what its layers put out, seen in one run, says where tokens can be read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from math import isqrt
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from concept_cam.backbones.heads import MeanPooling, Rest
from concept_cam.backbones.site import FeatureMap, Site, TokenLayout, Tower
from concept_cam.hooks import on_output
from concept_cam.images import Size

_FIRST_NORMS = ("norm1", "ln_1", "layer_norm1", "layernorm_before", "norm_before", "input_layernorm")
"""What the libraries call the first norm of a block."""

_MOST_PREFIX = 16
"""Class tokens and registers; nobody has more."""

_LEAST_IN_PLACE = 0.8
"""Tokens in the order of the picture reach 0.95 and more, those of Hiera's mask units 0.34 and less."""


def describe(
    module: nn.Module,
    prefix: str,
    embed: Callable[[Tensor], Tensor],
    pixels: Float[Tensor, "1 3 height width"],
    tail: Rest = lambda mean: mean,
    stages: Sequence[str] = (),
) -> Tower | None:
    """The first norms of blocks, if it has such; else the last map at each resolution.

    Left out are sites whose tokens lie elsewhere than it seems (in the order of windows, say): that is tried too.

    Args:
        module: the vision tower.
        prefix: of its layers' names within the model.
        embed: runs the model and gives its embedding.
        pixels: a picture to try it with.
        tail: from the mean of the last map to the embedding, if the model pools so; that is tried.
        stages: names of layers, if it is known where the resolution changes.
    """
    size: Size = (pixels.shape[2], pixels.shape[3])
    seen: list[_Seen] = []
    with ExitStack() as stack:
        for name, layer in module.named_modules():
            stack.enter_context(on_output(layer, partial(_note, seen, prefix + name)))
        embedding = embed(pixels)
    once = [s for s in seen if s.is_tensor and sum(s.module is other.module for other in seen) == 1]
    # A pooling to a fixed grid only blurs the map before it, or stretches it.
    grids = [one for one in once if one.output.ndim == 4 and not isinstance(one.module, nn.AdaptiveAvgPool2d)]
    maps = [_Map(one, layout) for one in grids if (layout := _map_layout(one.output, size))]
    family, sites = "any module, norms of blocks", _norm_sites(once, maps, size)
    if not sites:
        family, sites = "any module, maps", _map_sites(_ends(maps, {prefix + name for name in stages}), embedding, tail)
    sites = _in_place(sites, embed, pixels)
    return Tower(family, sites, _stride(sites[0], seen, size)) if sites else None


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


@dataclass(frozen=True)
class _Map:
    of: _Seen
    layout: FeatureMap

    @property
    def tokens(self) -> Float[Tensor, "1 M D"]:
        return self.layout.read(self.of.output)[0]

    @property
    def grid(self) -> tuple[int, int]:
        read = self.layout.read(self.of.output)[1]
        return read.rows, read.cols


def _map_layout(output: Tensor, size: Size) -> FeatureMap | None:
    """How the output is a map of a picture of that size, if it is one."""
    if output.ndim != 4:
        return None
    if _has_aspect(output.shape[2:], size):
        return FeatureMap()
    return FeatureMap(channels_last=True) if _has_aspect(output.shape[1:3], size) else None


def _in_place(sites: tuple[Site, ...], embed: Callable[[Tensor], Tensor], pixels: Tensor) -> tuple[Site, ...]:
    """Those whose tokens change where the picture does; the axes of a map say themselves where a cell lies."""
    sequences = [site for site in sites if isinstance(site.layout, TokenLayout)]
    if not sequences:
        return sites
    height, width = pixels.shape[2:]
    rows, cols = slice(height // 8, 3 * height // 8), slice(width // 2, 3 * width // 4)
    changed = pixels.clone()
    # Mirrored noise is noise as good, and as bright.
    changed[..., rows, cols] = -3 * changed[..., rows, cols]
    region = torch.zeros(height, width, dtype=torch.bool, device=pixels.device)
    region[rows, cols] = True
    seen: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for site in sequences:
            stack.enter_context(on_output(site.module, lambda _, __, output, name=site.name: seen.update({name: output})))
        embed(torch.cat([pixels, changed]))
    return tuple(s for s in sites if s not in sequences or _agreement(s, seen[s.name], region) > _LEAST_IN_PLACE)


def _agreement(site: Site, output: Tensor, region: Bool[Tensor, "height width"]) -> float:
    """How often a cell inside a region changes more than one outside: the area under the ROC curve, 0 to 1."""
    tokens, layout = site.layout.read(output.float())
    change = (tokens[1] - tokens[0])[layout.prefix :].norm(dim=-1)
    height, width = region.shape
    rows = ((torch.arange(layout.rows, device=region.device) + 0.5) * height / layout.rows).long()
    cols = ((torch.arange(layout.cols, device=region.device) + 0.5) * width / layout.cols).long()
    inside = region[rows][:, cols].flatten()
    if not inside.any() or not change.max() > 0:
        return 1.0
    return float((change[inside][:, None] > change[~inside]).float().mean())


def _has_aspect(grid: Sequence[int], size: Size) -> bool:
    """Whether a grid can be the picture: more than a cell, and of its aspect up to rounding."""
    rows, cols = grid
    stride = max(size[0] / rows, size[1] / cols)
    return min(rows, cols) > 1 and abs(size[0] - rows * stride) <= stride and abs(size[1] - cols * stride) <= stride


def _ends(maps: list[_Map], stages: set[str]) -> list[_Map]:
    """One module for each map: that of a stage, or else the outermost; where stages are known, only theirs and the last."""
    by_map: dict[int, _Map] = {}
    for one in maps:
        before = by_map.pop(id(one.of.output), None)
        by_map[id(one.of.output)] = before if before is not None and before.of.name in stages else one
    ends = list(by_map.values())
    return [one for one in ends if one.of.name in stages or not stages or one is ends[-1]]


def _norm_sites(seen: list[_Seen], maps: list[_Map], size: Size) -> tuple[Site, ...]:
    """Outputs of first norms, the last block's first: a sequence of tokens, or a map with its channels last.

    Those with their channels first are of CNNs: what a block of DenseNet norms is not all that it hands on.
    """
    sites = []
    for one in reversed(seen):
        if one.name.rpartition(".")[2] not in _FIRST_NORMS:
            continue
        layout = _map_layout(one.output, size) or _layout(one.output, maps, size)
        if layout is not None and layout != FeatureMap():
            sites.append(Site(one.name, one.module, layout))
    return tuple(sites)


def _layout(output: Tensor, maps: list[_Map], size: Size) -> TokenLayout | None:
    """Patches come from a map, the last one that has so many cells, or have the input's aspect; the rest is the prefix."""
    if output.ndim != 3:
        return None
    tokens = output.shape[1]
    for rows, cols in [one.grid for one in reversed(maps)]:
        if 0 <= tokens - rows * cols <= _MOST_PREFIX:
            return TokenLayout(tokens - rows * cols, rows, cols)
    for prefix in range(_MOST_PREFIX + 1):
        rows = isqrt((tokens - prefix) * size[0] // size[1])
        if rows and rows * size[1] % size[0] == 0 and rows * rows * size[1] // size[0] == tokens - prefix:
            return TokenLayout(prefix, rows, rows * size[1] // size[0])
    return None


def _map_sites(maps: list[_Map], embedding: Tensor, tail: Rest) -> tuple[Site, ...]:
    """The last map at each resolution, the coarsest first; of modules that put out the same map, the outermost."""
    last = {one.grid: one for one in maps}
    sites = [Site(one.of.name, one.of.module, one.layout) for one in reversed(last.values())]
    if sites and _pools_by_mean(last.popitem()[1], embedding, tail):
        sites[0] = replace(sites[0], head=MeanPooling(tail))
    return tuple(sites)


def _pools_by_mean(last: _Map, embedding: Tensor, tail: Rest) -> bool:
    """Whether the embedding comes of the mean of the last map."""
    try:
        ours = tail(last.tokens.mean(1))
    except (RuntimeError, TypeError, ValueError):
        return False
    return ours.shape == embedding.shape and bool((ours - embedding).norm() <= 1e-2 * embedding.norm())


def _note(seen: list[_Seen], name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
    # What hands on its input (an identity, dropout at rest) is not what made it.
    if not any(output is given for given in inputs):
        seen.append(_Seen(name, module, output))
