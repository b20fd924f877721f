"""Where the cells of a site look, measured: parts of an image of noise are changed, and each cell tells which it has seen.

Along each axis the input is divided into soft bands, tents that add up to one. In each band in turn the noise is turned into
other noise, as strong and as bright, and |change of a cell|^2 is on average what the cell has of that band of its receptive
field. A cell's shares of the bands lie around its place, whatever the cell's own strength. To all rows of a grid (all columns)
one model is fitted: a Gaussian at offset + stride * row, cut off at the borders of the input, on a floor that sees everything
alike. So a field that is cut off by the border does not draw its cell inwards, and attention does not draw all to the middle.

The fit decides. Where the kernels and strides of known layers (``receptive``) or a grid that covers the input say the same,
their exact numbers are taken. What fits no regular grid (tokens in windows, axes exchanged or reversed) has no place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from concept_cam.backbones.axis import Nowhere, find
from concept_cam.backbones.receptive import Receptive, receptive_fields
from concept_cam.backbones.site import Site
from concept_cam.backbones.tents import Numbers, tents
from concept_cam.backbones.tower import Tower
from concept_cam.errors import BackboneError
from concept_cam.hooks import on_site
from concept_cam.images import WHOLE, Size, Span

_BANDS = 4
"""Along each axis: eight changed images, and the image itself."""

_TURN = 0.8
"""How much of the noise is new in the middle of a band."""

_CELLS, _FEW, _MOST = 32, 8, 4
"""A grid of fewer cells than this is measured again, up to eight times; any that is not settled, four times."""

_SCALES = (1, 2, 4, 8, 16, 32)
"""Pixels of a grain of noise."""

_AT_ONCE = 600_000
"""Pixels in one forward pass."""

_DEAD = 1e-4
"""A cell that changes less than this share of the usual cell is padding."""


@final
@dataclass(frozen=True)
class Place:
    """Where the grid of a site lies.

    Attributes:
        span: in shares of the input; None if it lies nowhere.
        finding: what was measured, or why it lies nowhere.
        is_silent: nothing was there to be measured.
    """

    span: Span | None
    finding: str
    is_silent: bool = False


def placed(
    embed: Callable[[Tensor], Tensor], tower: Tower, pixels: Float[Tensor, "1 3 height width"], model: nn.Module, name: str
) -> tuple[Site, ...]:
    """The sites of a tower that lie somewhere on the input, and where.

    Args:
        embed: runs the model.
        tower: of the model.
        pixels: see ``place_sites``.
        model: see ``place_sites``.
        name: of the model, for the message.

    Raises:
        BackboneError: there are none.
    """
    reasons = []
    for sites in filter(None, (tower.sites, tower.spare)):
        if tower.regular and _is_plain(place_sites(embed, sites[-1:], pixels, model, regular=True)[sites[-1].name]):
            # Tokens keep their places from block to block: the first holds for all; later ones see too much to be measured.
            return sites
        found = place_sites(embed, sites, pixels, model)
        spans = [(site, found[site.name].span) for site in sites]
        if there := tuple(replace(site, layout=replace(site.layout, span=span)) for site, span in spans if span):
            return there
        reasons.append(f"{sites[0].name}: {found[sites[0].name].finding}")
    raise BackboneError(f"{name} has no site whose cells lie in order on the image ({'; '.join(reasons)}).")


def _is_plain(place: Place) -> bool:
    return place.span == WHOLE or place.is_silent


def place_sites(
    embed: Callable[[Tensor], Tensor],
    sites: Sequence[Site],
    pixels: Float[Tensor, "1 3 height width"],
    model: nn.Module,
    *,
    regular: bool = False,
) -> dict[str, Place]:
    """Where each site lies, from nine forward passes of one image; more for grids of few cells.

    Args:
        embed: runs the model.
        sites: what is measured, all in the same runs.
        pixels: of the size, the precision and the device; their numbers are not used.
        model: whose known layers are read.
        regular: a site that sees too much to be told lies as its family is built; else it lies nowhere.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    kept = {site.name: _Changes(site, (pixels.shape[2], pixels.shape[3])) for site in sites}
    open_ = list(kept.values())
    while open_:
        base, *changed = (image.to(pixels.device, pixels.dtype) for image in _images(pixels.shape[2:], generator))
        layers = receptive_fields(model, partial(_run, embed, open_, [base], start=True), (pixels.shape[2], pixels.shape[3]))
        at_once = max(1, _AT_ONCE // base[0].numel())
        for first in range(0, len(changed), at_once):
            _run(embed, open_, changed[first : first + at_once])
        open_ = [changes for changes in open_ if not changes.is_settled(layers, regular=regular)]
    return {name: changes.place for name, changes in kept.items()}


class _Read(Exception):
    """Ends a run: nothing after the one site is needed."""


def _run(embed: Callable[[Tensor], Tensor], open_: Sequence[_Changes], images: list[Tensor], *, start: bool = False) -> None:
    last = open_[-1]

    def read(changes: _Changes, entering: Any, tensor: Tensor) -> None:
        (changes.start if start else changes.add)(entering, tensor)
        if len(open_) == 1 and last.site.call is None:
            raise _Read

    with ExitStack() as stack:
        for changes in open_:
            stack.enter_context(on_site(changes.site, partial(read, changes)))
        with suppress(_Read):
            embed(torch.stack(images))


def _images(size: Sequence[int], generator: torch.Generator) -> list[Float[Tensor, "3 height width"]]:
    """Noise, the same with other noise in each band down, and in each band across."""
    height, width = size
    base, other = _noise(size, generator), _noise(size, generator)
    bands = [*tents(height, _BANDS)[:, :, None], *tents(width, _BANDS)[:, None, :]]
    # A turn keeps the noise as strong as it was, so that nothing that looks at the whole sees a difference.
    new = [band.float() * _TURN**2 for band in bands]
    return [base, *((1 - share).sqrt() * base + share.sqrt() * other for share in new)]


def _noise(size: Sequence[int], generator: torch.Generator) -> Float[Tensor, "3 height width"]:
    """As strong at every scale as photographs are, nearly: what a trained model sees nothing in cannot tell where it looks."""
    height, width = size
    layers = []
    for step in _SCALES:
        coarse = torch.randn(
            (1, 3, height // step + 2, width // step + 2), generator=generator, dtype=torch.float32, device="cpu"
        )
        layers.append(F.interpolate(coarse, scale_factor=step, mode="bilinear", align_corners=False)[0, :, :height, :width])
    mixed = torch.stack(layers).sum(0)
    return mixed / mixed.std()


class _Changes:
    """|change|^2 of each cell of a site for each band, over draws of noise, and what they tell."""

    def __init__(self, site: Site, size: Size) -> None:
        self.site, self.size = site, size
        self.place = Place(None, "it is not reached in a run")
        self._grid: Size = (1, 1)
        self._base: Tensor | None = None
        self._new: list[Tensor] = []

    def start(self, _: Any, tensor: Tensor) -> None:
        """The noise itself."""
        self._base = self._patches(tensor)

    def add(self, _: Any, tensor: Tensor) -> None:
        """The noise with bands changed."""
        patches = self._patches(tensor)
        if patches is not None and self._base is not None:
            # Squares of what deep random layers leave are too small for single precision.
            self._new.append((patches - self._base).cpu().double().square().sum(-1))

    def _patches(self, tensor: Tensor) -> Tensor | None:
        try:
            tokens, layout = self.site.layout.read(tensor)
        except BackboneError as error:
            self.place = Place(None, str(error))
            return None
        self._grid = (layout.rows, layout.cols)
        patches = tokens[:, layout.prefix :].detach()
        return patches.to(torch.promote_types(patches.dtype, torch.float32))

    def is_settled(self, known: Mapping[Size, Receptive], *, regular: bool) -> bool:
        """Find the place; more noise would not change it."""
        if not self._new:
            return True
        whole = torch.cat(self._new).unflatten(0, (-1, 2, _BANDS))
        draws, settled = len(whole), True
        try:
            self.place, settled = self._found(whole.sum(0).unflatten(-1, self._grid).numpy(), known, regular=regular)
        except Nowhere as why:
            self.place, settled = Place(None, str(why)), False
        cells = self._grid[0] * self._grid[1]
        least = min(_FEW, -(-_CELLS // cells))
        return draws >= least and (settled or draws >= max(_MOST, least))

    def _found(self, whole: Numbers, known: Mapping[Size, Receptive], *, regular: bool) -> tuple[Place, bool]:
        strength = whole.sum((0, 1))
        if not np.isfinite(whole).all():
            return Place(None, "its tokens are not finite", is_silent=True), True
        if not strength.any():
            return Place(None, "nothing in the image changes it", is_silent=True), True
        alive = (strength > _DEAD * np.median(strength[strength > 0])) & whole.sum(1).all(0)
        layers = known.get(self._grid, (None, None))
        down = find(whole[0], alive, self.size[0], layers[0], regular=regular)
        across = find(whole[1].swapaxes(1, 2), alive.T, self.size[1], layers[1], regular=regular)
        found = f"from {across.start:.3f} to {across.end:.3f} across, {down.start:.3f} to {down.end:.3f} down"
        span = across.start, down.start, across.end, down.end
        return Place(span, found), down.settled and across.settled
