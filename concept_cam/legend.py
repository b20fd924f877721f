"""DRAW: the legend of a map: what its colours mean, in words, as a strip to stand beneath an image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from concept_cam.comparison import Comparison
from concept_cam.heat import blend, coloured
from concept_cam.images import Placement
from concept_cam.lettering import Lettering, wrapped

_OWN_SCALE = "Each map has its own scale: do not compare the colours of two maps."
_CUT_OFF = "Dark: cut off by the model's crop; --fit native shows it."
_WEAKEST = "none or against"
"""What has no colour: evidence against the target is not drawn."""

_SMALLEST, _SHARE = 13, 64
"""The height of the letters beneath one image: at least so many pixels, and such a share of its longer side."""

_NARROWEST = 26
"""The width of a legend, in heights of its letters."""

_VISIBLE = 0.005
"""Less of a side than this, cut off, is not seen on the image."""

_MOST_LINES = 3
"""Of one sentence; names come from outside."""

_INK, _GREY = (30, 30, 30), 128


def meaning(comparison: Comparison, *, base: bool = False) -> str:
    """What a bright place of a map is evidence for.

    Example:
        >>> meaning(Comparison("ember finch", ("frost finch",), (1.0,), (0.9,), 0.6))
        'evidence for ember finch, minus 0.6 x that for frost finch'
    """
    if base or not comparison.references or comparison.strength == 0:
        return f"evidence for {comparison.target}"
    others = ", ".join(comparison.references)
    mean = "the mean of " if len(comparison.references) > 1 else ""
    return f"evidence for {comparison.target}, minus {comparison.strength:g} x {mean}that for {others}"


def lines_of(what: str, placement: Placement, *grids: Float[Tensor, "rows cols"]) -> list[str]:
    """The sentences of a legend.

    Args:
        what: a bright place is evidence for; see ``meaning``.
        placement: of the maps.
        grids: the maps that are drawn; a map without evidence has nothing bright.

    Example:
        >>> import torch
        >>> lines_of("evidence for a finch", Placement((10.0, 0.0, 50.0, 40.0), (40, 60)), torch.ones(2, 2))[0]
        'Bright: evidence for a finch.'
    """
    bright = any(bool((grid > 0).any()) for grid in grids)
    first = f"Bright: {what}." if bright else f"Nothing is bright: there is no {what}."
    return [first, _OWN_SCALE, *([_CUT_OFF] if is_cut_off(placement) else [])]


def is_cut_off(placement: Placement) -> bool:
    """Whether a part of the image that one can see was cut off before the model saw it.

    Example:
        >>> is_cut_off(Placement((10.0, 0.0, 50.0, 40.0), (40, 60))), is_cut_off(Placement((0.0, -10.0, 60.0, 50.0), (40, 60)))
        (True, False)
    """
    (height, width), (left, top, right, bottom) = placement.image_size, placement.window
    return max(left, width - right) > _VISIBLE * width or max(top, height - bottom) > _VISIBLE * height


def strip_of(lines: Sequence[str], width: int, letters: int) -> Image.Image:
    """A legend to stand beneath an image: the colours from none to strongest, then the sentences.

    Args:
        lines: the sentences, each in three lines at most.
        width: of the image; the legend is at least as wide.
        letters: the height of the letters, in pixels.

    Example:
        >>> strip_of(["Bright: evidence for a finch."], 384, 13).size
        (384, 56)
    """
    return _strip(tuple(lines), width, letters).copy()


@lru_cache(2)  # In a run the last two, of overlay and comparison, come again and again; of a large image one is large.
def _strip(lines: tuple[str, ...], width: int, letters: int) -> Image.Image:
    font, pad, line = Lettering(letters), round(0.8 * letters), round(1.4 * letters)
    width = max(width, _NARROWEST * letters)
    rows = [row for text in lines for row in wrapped(text, font, width - 2 * pad, _MOST_LINES)]
    strip = Image.new("RGB", (width, line * (len(rows) + 1) + 2 * pad), "white")
    write = ImageDraw.Draw(strip)
    left, across = round(2 * pad + font.getlength(_WEAKEST)), 8 * letters
    font.write(write, (pad, pad), _WEAKEST, _INK)
    strip.paste(_ramp(across, letters), (left, pad + round(0.15 * letters)))
    font.write(write, (left + across + pad, pad), "strongest", _INK)
    for k, row in enumerate(rows, 1):
        font.write(write, (pad, pad + k * line), row, _INK)
    return strip


def with_legend(
    image: Image.Image, placement: Placement, grid: Float[Tensor, "rows cols"], comparison: Comparison, *, base: bool = False
) -> Image.Image:
    """A map on its image, and beneath it the legend; the pixels of the image stay where they are.

    Args:
        image: upright, in RGB, of the size that the placement is for.
        placement: of the map.
        grid: the map.
        comparison: of the map.
        base: whether it is the base map.

    Example:
        >>> import torch
        >>> compared, place = Comparison("a finch", (), (), (), 0.0), Placement((0, 0, 400, 300), (300, 400))
        >>> with_legend(Image.new("RGB", (400, 300)), place, torch.eye(4), compared).width
        400
    """
    letters = max(_SMALLEST, round(max(image.size) / _SHARE))
    legend = strip_of(lines_of(meaning(comparison, base=base), placement, grid), image.width, letters)
    canvas = Image.new("RGB", (legend.width, image.height + legend.height), "white")
    canvas.paste(legend, (0, image.height))
    return blend(image, placement, grid, canvas)


def _ramp(width: int, height: int) -> Image.Image:
    """The colours of a map on grey."""
    strength = np.broadcast_to(np.linspace(0, 1, width), (height, width))
    return Image.fromarray(coloured(np.full((height, width, 3), float(_GREY)), strength))
