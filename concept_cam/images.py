"""IMAGE IN: resize and crop. A Frame is what the model saw, and which window of the image that is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from concept_cam.preprocess import Fit, Preparation, Preprocess, Size, Window, check_fit
from concept_cam.reading import Source, read_image, read_levels

__all__ = [
    "WHOLE",
    "Fit",
    "Frame",
    "Placement",
    "Preprocess",
    "Size",
    "Source",
    "Span",
    "Window",
    "by_size",
    "check_fit",
    "interpolation",
    "read_image",
    "read_levels",
]

Span = tuple[float, float, float, float]
"""(left, top, right, bottom) in shares of an input: (0, 0, 1, 1) is all of it."""

WHOLE: Span = (0.0, 0.0, 1.0, 1.0)

_STRIP = 1 << 18
"""Pixels of an image that a map is projected onto at once, where it is done in strips."""


@dataclass(frozen=True)
class Placement:
    """Where a frame lies on its image: all that it takes to put a map back.

    Attributes:
        window: the part of the image that the frame shows; it reaches outside where the input was padded.
        image_size: (height, width) of the image.
        cells: the part that the cells of a map cover, where that is another; see ``covering``.
    """

    window: Window
    image_size: tuple[int, int]
    cells: Window | None = None

    def covering(self, span: Span) -> Placement:
        """The same frame, with a map that covers a span of it instead of all."""
        if span == WHOLE:
            return self
        left, top, right, bottom = self.window
        width, height = right - left, bottom - top
        cells = left + span[0] * width, top + span[1] * height, left + span[2] * width, top + span[3] * height
        return replace(self, cells=cells)

    def project(self, grid: Float[Tensor, "rows cols"], rows: range | None = None) -> Float[Tensor, "height width"]:
        """A map of the frame in the pixels of the image, bilinear; NaN where the model did not see the image.

        Args:
            grid: the map.
            rows: those of the image that are wanted; by default all.
        """
        height, width = self.image_size
        left, top, right, bottom = self._cells
        wanted = range(height) if rows is None else rows
        down = interpolation(wanted, top, bottom, grid.shape[0])
        across = interpolation(width, left, right, grid.shape[1])
        # A pixel belongs to the window if it overlaps it: the centre alone would lose slivers thinner than a pixel.
        down[_outside(wanted, self.window[1], self.window[3])] = float("nan")
        across[_outside(range(width), self.window[0], self.window[2])] = float("nan")
        return down.to(grid) @ grid @ across.to(grid).T

    def strips(self, grid: Float[Tensor, "rows cols"]) -> Iterator[tuple[range, Float[Tensor, "height width"]]]:
        """What ``project`` gives, in strips of rows from the top, so that no more than a strip is held of a large image."""
        height, width = self.image_size
        step = max(1, _STRIP // width)
        for top in range(0, height, step):
            rows = range(top, min(top + step, height))
            yield rows, self.project(grid, rows)

    def as_dict(self) -> dict[str, object]:
        """As JSON knows it; without ``cells`` where they cover the window."""
        known: dict[str, object] = {"window": self.window, "image_size": self.image_size}
        return known if self.cells is None else {**known, "cells": self.cells}

    def scaled(self, size: tuple[int, int]) -> Placement:
        """The same on the image at another (height, width)."""
        down, across = (new / old for new, old in zip(size, self.image_size, strict=True))

        def moved(window: Window) -> Window:
            left, top, right, bottom = window
            return left * across, top * down, right * across, bottom * down

        return Placement(moved(self.window), size, self.cells and moved(self.cells))

    def shown(self, grid: Sequence[int]) -> Bool[Tensor, "rows cols"]:
        """Which cells of a (rows, cols) grid lie at least in part on what the model saw of the image; others in padding."""
        left, top, right, bottom = self._cells
        rows, cols = (torch.arange(count + 1, dtype=torch.float64, device="cpu") / count for count in grid)
        y, x = top + rows * (bottom - top), left + cols * (right - left)
        height, width = self.image_size
        down = (y[:-1] < min(height, self.window[3])) & (y[1:] > max(0, self.window[1]))
        across = (x[:-1] < min(width, self.window[2])) & (x[1:] > max(0, self.window[0]))
        return down[:, None] & across

    def cell_size(self, grid: Sequence[int]) -> tuple[float, float]:
        """(height, width) of a cell of a (rows, cols) grid, in pixels of the image."""
        left, top, right, bottom = self._cells
        return (bottom - top) / grid[0], (right - left) / grid[1]

    def locate(self, row: float, column: float, grid: Sequence[int]) -> tuple[float, float]:
        """(x, y) on the image of the centre of a cell of a (rows, cols) grid."""
        left, top, right, bottom = self._cells
        rows, cols = grid
        return left + (column + 0.5) / cols * (right - left), top + (row + 0.5) / rows * (bottom - top)

    @property
    def _cells(self) -> Window:
        return self.window if self.cells is None else self.cells

    @classmethod
    def read(cls, kept: Mapping[str, Any]) -> Placement:
        """What ``dataclasses.asdict`` and JSON made of one; files of version 0.1.0 know no cells."""
        cells = kept.get("cells")
        return cls(tuple(kept["window"]), tuple(kept["image_size"]), cells and tuple(cells))


@dataclass(frozen=True)
class Frame:
    """What the model saw of an image.

    Attributes:
        pixels: the model's input, normalised.
        placement: which window of the image that is.
    """

    pixels: Float[Tensor, "3 height width"]
    placement: Placement

    @property
    def size(self) -> Size:
        """(height, width) of the model's input."""
        height, width = self.pixels.shape[1:]
        return height, width

    def covering(self, span: Span) -> Frame:
        """The same, for maps that cover a span of it; see ``Placement.covering``."""
        return replace(self, placement=self.placement.covering(span))

    @classmethod
    def of(cls, image: Image.Image, preprocess: Preparation) -> Frame:
        """Resize and crop as the model's own transform does, but remember the window.

        Raises:
            ImageError: a transform that is run fails on it, or what it shows of it is not known; see ``UserTransform``.
        """
        pixels, window = preprocess.view(image)
        return cls(pixels, Placement(window, (image.height, image.width)))


def interpolation(
    pixels: int | range, start: float, stop: float, cells: int, *, antialias: bool = False
) -> Float[Tensor, "pixels cells"]:
    """Bilinear weights along one axis, from the centres of cells that lie from ``start`` to ``stop`` to those of pixels.

    Pixels beyond the outermost centres have the value of the outermost cell.

    Args:
        pixels: how many there are, from 0 to that number; or which of them are wanted.
        start: of the cells, in pixels.
        stop: their end.
        cells: how many there are.
        antialias: average over the cells of a pixel, where they are smaller.
    """
    pixels = range(pixels) if isinstance(pixels, int) else pixels
    centres = torch.arange(pixels.start, pixels.stop, dtype=torch.float64, device="cpu") + 0.5
    reach = max(1.0, cells / (stop - start)) if antialias else 1.0
    position = ((centres - start) / (stop - start) * cells - 0.5).clamp(-0.5, cells - 0.5)
    weights = position[:, None] - torch.arange(cells, device="cpu", dtype=torch.int64)
    # In place: an image may have many pixels on a side.
    weights.abs_().div_(-reach).add_(1).clamp_(min=0)
    return weights.div_(weights.sum(1, keepdim=True))


def _outside(pixels: range, start: float, stop: float) -> Bool[Tensor, " pixels"]:
    edges = torch.arange(pixels.start, pixels.stop, dtype=torch.float64, device="cpu")
    return (edges + 1 <= start) | (edges >= stop)


def by_size(frames: Sequence[Frame]) -> dict[Size, list[int]]:
    """Which frames can go through the model together."""
    groups: dict[Size, list[int]] = {}
    for i, frame in enumerate(frames):
        groups.setdefault(frame.size, []).append(i)
    return groups
