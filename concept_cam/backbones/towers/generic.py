"""Any module: the inputs and outputs of its layers in one run show where tokens can be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from math import isqrt
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules import padding

from concept_cam.backbones.pooling import PatchMean, Rest
from concept_cam.backbones.site import FeatureMap, Site, TokenLayout
from concept_cam.backbones.tower import Tower
from concept_cam.hooks import on_input, on_output, on_site
from concept_cam.images import Size

_FIRST_NORMS = ("norm1", "ln_1", "layer_norm1", "layernorm_before", "norm_before", "input_layernorm")
"""The names that libraries give to the first norm of a block."""

_MOST_PREFIX = 16
"""The largest number of class tokens and registers."""

_PADDINGS = tuple(kind for kind in vars(padding).values() if isinstance(kind, type) and kind.__module__ == padding.__name__)

_NO_MAPS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, *_PADDINGS)
"""Layers whose outputs are no sites: a pooling to a fixed grid blurs or stretches the map, a padding adds empty cells."""

_SPARE = 12
"""The number of further maps that are measured if the last map of no resolution has its cells in order."""

_MOST_MISSING = 2
"""The number of cells that one axis may lack, or have too many, compared with the other."""


def describe(
    module: nn.Module,
    prefix: str,
    embed: Callable[[Tensor], Tensor],
    pixels: Float[Tensor, "1 3 height width"],
    tail: Rest = lambda mean: mean,
    stages: Sequence[str] = (),
) -> Tower | None:
    """A tower with the first norms of blocks as sites, if there are any; else with the last map at each resolution.

    The latest site comes first. Sites that do not reach the embedding are skipped. Where cells lie is measured later for
    every tower: see ``places``.

    Args:
        module: the vision tower.
        prefix: of the names of its layers within the model.
        embed: runs the model and returns its embedding.
        pixels: a test image.
        tail: from the mean of the last map to the embedding, if the model pools that way; that is tested.
        stages: names of the layers after which the resolution changes, if they are known.
    """
    size: Size = (pixels.shape[2], pixels.shape[3])
    seen, embedding = _watch(module, prefix, lambda: embed(pixels))
    trial = _Trial(embed, pixels, embedding)
    maps = _maps(seen, size)
    norms = trial.from_the_last_that_reaches(_norm_sites(seen, maps, size))
    named = {prefix + name for name in stages}
    sites = _map_sites(maps, named, trial)
    pooling = PatchMean(sites[0], tail) if sites and trial.is_mean(sites[0], tail) else None
    if norms:
        stride = _stride(norms[0], maps, seen, size)
        return Tower("any module, norms of blocks", norms, stride, pooling=pooling, spare=sites)
    names = {site.name for site in sites}
    others = tuple(site for one in reversed(maps) if (site := _site(one, named)).name not in names)
    if not sites:
        return None
    return Tower("any module, maps", sites, _stride(sites[0], maps, seen, size), pooling=pooling, spare=others[:_SPARE])


# ---- one run ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Event:
    """A tensor that entered a module or left it.

    Attributes:
        name, module, side: where.
        call: the number of the call of the module, from 0.
        unchanged: the module returned its input (an identity, dropout in evaluation mode).
    """

    name: str
    module: nn.Module
    side: Literal["output", "input"]
    call: int
    unchanged: bool = False


@dataclass
class _Seen:
    """A tensor of a run in one state; after an operation in place it counts as another tensor.

    Attributes:
        tensor: kept, so that no other object gets its identity.
        events: where it occurred, in the order of the run.
    """

    tensor: Tensor
    events: list[_Event] = field(default_factory=list)

    def made_by(self) -> Iterator[_Event]:
        """The modules that returned it, the innermost first, without those that return their input unchanged."""
        return (event for event in self.events if event.side == "output" and not event.unchanged)


def _watch(module: nn.Module, prefix: str, run: Callable[[], Tensor]) -> tuple[list[_Seen], Tensor]:
    """The tensors of a run in the order of their appearance, and the result of the run."""
    seen: dict[tuple[int, int], _Seen] = {}
    calls: Counter[nn.Module] = Counter()

    def note(tensor: Any, event: _Event) -> None:
        # What enters before any layer gave something is the image.
        if event.side == "input" and not seen:
            return
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.ndim > 2 and len(tensor) == 1:
            seen.setdefault(_key(tensor), _Seen(tensor)).events.append(event)

    with ExitStack() as stack:
        for name, layer in module.named_modules():
            entered: list[list[tuple[int, int]]] = []

            def enter(
                own: nn.Module, inputs: tuple[Any, ...], name: str = prefix + name, entered: list[Any] = entered
            ) -> None:
                entered.append([_key(given) for given in inputs if isinstance(given, Tensor)])
                note(inputs[0] if inputs else None, _Event(name, own, "input", calls[own]))
                calls[own] += 1

            def leave(own: nn.Module, _: Any, output: Any, name: str = prefix + name, entered: list[Any] = entered) -> None:
                given = entered.pop()
                unchanged = isinstance(output, Tensor) and _key(output) in given
                note(output, _Event(name, own, "output", calls[own] - 1, unchanged))

            stack.enter_context(on_input(layer, enter))
            stack.enter_context(on_output(layer, leave))
        result = run()
    for one in seen.values():
        one.events = [replace(event, call=-1) if calls[event.module] == 1 else event for event in one.events]
    return list(seen.values()), result


def _key(tensor: Tensor) -> tuple[int, int]:
    return id(tensor), tensor._version


@dataclass(frozen=True)
class _Trial:
    """Runs of the model with a tensor changed on the way, compared with the unchanged run."""

    embed: Callable[[Tensor], Tensor]
    pixels: Tensor
    embedding: Tensor

    def reaches(self, site: Site) -> bool:
        """Whether the embedding depends on the patches at a site."""

        def shake(entering: Any, tensor: Tensor) -> Tensor:
            noise = torch.randn(
                tensor.shape, generator=torch.Generator("cpu").manual_seed(2), device="cpu", dtype=torch.float32
            )
            # The prefix stays: it reaches the embedding from where patches do not.
            if site.prefix:
                noise[:, : site.prefix] = 0
            return tensor + noise.to(tensor) * tensor.std()

        with on_site(site, shake):
            return not torch.equal(self.embed(self.pixels), self.embedding)

    def from_the_last_that_reaches(self, sites: tuple[Site, ...]) -> tuple[Site, ...]:
        """The sites without the latest ones on which the embedding does not depend."""
        first = next((i for i, site in enumerate(sites) if self.reaches(site)), len(sites))
        return sites[first:]

    def is_mean(self, site: Site, tail: Rest) -> bool:
        """Whether the embedding is the tail of the mean of the tokens at a site."""
        kept: list[Tensor] = []
        with on_site(site, lambda _, tensor: kept.append(tensor.clone())):
            self.embed(self.pixels)
        try:
            ours = tail(site.layout.read(kept[0])[0].mean(1))
        except (RuntimeError, TypeError, ValueError):
            return False
        return ours.shape == self.embedding.shape and bool((ours - self.embedding).norm() <= 1e-2 * self.embedding.norm())


# ---- maps -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Map:
    of: _Seen
    layout: FeatureMap

    @property
    def grid(self) -> tuple[int, int]:
        read = self.layout.read(self.of.tensor)[1]
        return read.rows, read.cols


def _maps(seen: list[_Seen], size: Size) -> list[_Map]:
    found = [_Map(one, layout) for one in seen if (layout := _map_layout(one.tensor, size))]
    return [one for one in found if not any(isinstance(event.module, _NO_MAPS) for event in one.of.made_by())]


def _map_layout(output: Tensor, size: Size) -> FeatureMap | None:
    """The layout of an output as a map of an image of that size; None if it is no map."""
    if output.ndim != 4:
        return None
    for missing in (0, _MOST_MISSING):
        if _has_aspect(output.shape[2:], size, missing):
            return FeatureMap()
        if _has_aspect(output.shape[1:3], size, missing):
            return FeatureMap(channels_last=True)
    return None


def _has_aspect(grid: Sequence[int], size: Size, missing: int = 0) -> bool:
    """Whether a grid can show the image: several cells, and its aspect ratio up to rounding and some missing cells."""
    (rows, cols), most = grid, 1 + missing
    strides = [side / cells for side, cells in zip(size, grid, strict=True)]
    return min(rows, cols) > 1 and all(
        abs(side - cells * max(strides)) <= most * max(strides) for side, cells in zip(size, grid, strict=True)
    )


def _map_sites(maps: list[_Map], stages: set[str], trial: _Trial) -> tuple[Site, ...]:
    """At each resolution the last map that reaches the embedding, the latest first.

    Where stages are known, only theirs and the last.
    """
    sites: dict[tuple[int, int], Site] = {}
    for one in reversed(maps):
        of_stage = any(event.name in stages for event in one.of.made_by())
        if one.grid in sites or (stages and sites and not of_stage):
            continue
        site = _site(one, stages)
        if trial.reaches(site):
            sites[one.grid] = site
    return tuple(sites.values())


def _site(one: _Map, stages: set[str]) -> Site:
    """The site of a map: at a stage, else at the outermost module that returns it, else at the input of a module.

    Modules that run once are preferred.
    """
    made, entering = list(one.of.made_by())[::-1], [event for event in one.of.events if event.side == "input"]
    ways = [
        *(event for event in made if event.name in stages and event.call < 0),
        *(event for event in made + entering if event.call < 0),
        *made,
        *entering,
    ]
    event = ways[0]
    name = event.name + ":input" * (event.side == "input") + (f":{event.call + 1}" if event.call >= 0 else "")
    call = None if event.call < 0 else event.call
    return Site(name, event.module, one.layout, side=event.side, call=call)


def _stride(site: Site, maps: list[_Map], seen: list[_Seen], size: Size) -> float:
    tensor = next(
        one.tensor for one in seen for event in one.events if event.module is site.module and event.side == site.side
    )
    return size[0] / site.layout.read(tensor)[1].rows


# ---- norms ------------------------------------------------------------------------------------------------------------


def _norm_sites(seen: list[_Seen], maps: list[_Map], size: Size) -> tuple[Site, ...]:
    """The outputs of first norms, that of the last block first: sequences of tokens, or maps with channels last.

    Those with their channels first are of CNNs: what a block of DenseNet norms is not all that it hands on.
    """
    sites = []
    for one in reversed(seen):
        for event in one.made_by():
            if event.name.rpartition(".")[2] not in _FIRST_NORMS or event.call >= 0:
                continue
            layout = _map_layout(one.tensor, size) or _layout(one.tensor, maps, size)
            if layout is not None and layout != FeatureMap():
                sites.append(Site(event.name, event.module, layout))
    return tuple(sites)


def _layout(output: Tensor, maps: list[_Map], size: Size) -> TokenLayout | None:
    """The grid is that of the last map with as many cells, or has the aspect ratio of the input; the rest is the prefix."""
    if output.ndim != 3:
        return None
    tokens = output.shape[1]
    for rows, cols in [one.grid for one in reversed(maps) if _has_aspect(one.grid, size)]:
        if 0 <= tokens - rows * cols <= _MOST_PREFIX:
            return TokenLayout(tokens - rows * cols, rows, cols)
    for prefix in range(_MOST_PREFIX + 1):
        rows = isqrt((tokens - prefix) * size[0] // size[1])
        if rows and rows * size[1] % size[0] == 0 and rows * rows * size[1] // size[0] == tokens - prefix:
            return TokenLayout(prefix, rows, rows * size[1] // size[0])
    return None
