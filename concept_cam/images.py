"""IMAGE IN: a Frame holds the pixels that the model sees and the window of the image that they show."""

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
"""(left, top, right, bottom) in shares of an input: (0, 0, 1, 1) is the whole input."""

WHOLE: Span = (0.0, 0.0, 1.0, 1.0)

_STRIP = 1 << 18
"""Number of pixels in a strip of a projected map."""


@dataclass(frozen=True)
class Placement:
    """Where a frame lies on its image; with it, a map is projected back onto the image.

    Attributes:
        window: the part of the image that the frame shows, in pixels; it extends beyond the image where the input is padded.
        image_size: (height, width) of the image.
        cells: the part of the image that the cells of a map cover, if it differs from the window; see ``covering``.

    Example:
        >>> import torch
        >>> from concept_cam.images import Placement
        >>> placement = Placement((0.0, 0.0, 4.0, 4.0), image_size=(4, 6))  # a crop of the left four columns
        >>> placement.project(torch.ones(2, 2))[0]
        tensor([1., 1., 1., 1., nan, nan])
    """

    window: Window
    image_size: tuple[int, int]
    cells: Window | None = None

    def covering(self, span: Span) -> Placement:
        """The same placement for maps that cover a span of the frame instead of the whole frame."""
        if span == WHOLE:
            return self
        left, top, right, bottom = self.window
        width, height = right - left, bottom - top
        cells = left + span[0] * width, top + span[1] * height, left + span[2] * width, top + span[3] * height
        return replace(self, cells=cells)

    def project(self, grid: Float[Tensor, "rows cols"], rows: range | None = None) -> Float[Tensor, "height width"]:
        """Project a map onto the image by bilinear interpolation; NaN where the model did not see the image.

        Args:
            grid: the map.
            rows: which rows of the image; all by default.
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
        """The result of ``project`` in strips of rows, from the top, so that a large image needs the memory of one strip."""
        height, width = self.image_size
        step = max(1, _STRIP // width)
        for top in range(0, height, step):
            rows = range(top, min(top + step, height))
            yield rows, self.project(grid, rows)

    def as_dict(self) -> dict[str, object]:
        """The placement as a mapping for JSON, without ``cells`` if there are none."""
        known: dict[str, object] = {"window": self.window, "image_size": self.image_size}
        return known if self.cells is None else {**known, "cells": self.cells}

    def scaled(self, size: tuple[int, int]) -> Placement:
        """The same placement for the image resized to (height, width)."""
        down, across = (new / old for new, old in zip(size, self.image_size, strict=True))

        def moved(window: Window) -> Window:
            left, top, right, bottom = window
            return left * across, top * down, right * across, bottom * down

        return Placement(moved(self.window), size, self.cells and moved(self.cells))

    def shown(self, grid: Sequence[int]) -> Bool[Tensor, "rows cols"]:
        """Which cells of a (rows, cols) grid overlap the part of the image that the model saw; the others lie in padding."""
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
        """The centre (x, y) of a cell, in pixels of the image.

        Args:
            row: of the cell; fractions are allowed.
            column: of the cell; fractions are allowed.
            grid: (rows, cols) of the map.
        """
        left, top, right, bottom = self._cells
        rows, cols = grid
        return left + (column + 0.5) / cols * (right - left), top + (row + 0.5) / rows * (bottom - top)

    @property
    def _cells(self) -> Window:
        return self.window if self.cells is None else self.cells

    @classmethod
    def read(cls, kept: Mapping[str, Any]) -> Placement:
        """The placement of a mapping that ``as_dict`` made, with or without ``cells``."""
        cells = kept.get("cells")
        return cls(tuple(kept["window"]), tuple(kept["image_size"]), cells and tuple(cells))


@dataclass(frozen=True)
class Frame:
    """The input of the model made from an image, and the window of the image that it shows.

    Attributes:
        pixels: the normalised input.
        placement: the window, with which a map is projected back onto the image.

    Example:
        >>> from PIL import Image
        >>> from concept_cam import Preprocess
        >>> from concept_cam.images import Frame
        >>> preprocess = Preprocess((224, 224), mean=(0.5,) * 3, std=(0.5,) * 3)
        >>> Frame.of(Image.new("RGB", (896, 448)), preprocess).placement.window
        (224.0, 0.0, 672.0, 448.0)
    """

    pixels: Float[Tensor, "3 height width"]
    placement: Placement

    @property
    def size(self) -> Size:
        """(height, width) of the model's input."""
        height, width = self.pixels.shape[1:]
        return height, width

    def covering(self, span: Span) -> Frame:
        """The same frame for maps that cover a span of it; see ``Placement.covering``."""
        return replace(self, placement=self.placement.covering(span))

    @classmethod
    def of(cls, image: Image.Image, preprocess: Preparation) -> Frame:
        """Resize and crop an image as the model's own transform does, and record the window.

        Raises:
            ImageError: the transform of the user fails on the image, or its window cannot be found; see ``UserTransform``.
        """
        pixels, window = preprocess.view(image)
        return cls(pixels, Placement(window, (image.height, image.width)))


def interpolation(
    pixels: int | range, start: float, stop: float, cells: int, *, antialias: bool = False
) -> Float[Tensor, "pixels cells"]:
    """Weights of bilinear interpolation along one axis, from the centres of cells to the centres of pixels.

    Pixels beyond the centre of the outermost cell have the value of that cell.

    Args:
        pixels: the number of pixels, or the range of pixels to compute.
        start: where the first cell starts, in pixels.
        stop: where the last cell ends, in pixels.
        cells: the number of cells between.
        antialias: average over the cells of a pixel where cells are smaller than pixels.

    Example:
        >>> from concept_cam.images import interpolation
        >>> interpolation(4, 0.0, 4.0, 2)[1]
        tensor([0.7500, 0.2500], dtype=torch.float64)
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
    """Group frames by their input size; frames of one size can go through the model together.

    Returns:
        The indices of the frames of each size.

    Example:
        >>> import torch
        >>> from concept_cam.images import Frame, Placement, by_size
        >>> placement = Placement((0.0, 0.0, 8.0, 8.0), (8, 8))
        >>> by_size([Frame(torch.zeros(3, side, 8), placement) for side in (8, 16, 8)])
        {(8, 8): [0, 2], (16, 8): [1]}
    """
    groups: dict[Size, list[int]] = {}
    for i, frame in enumerate(frames):
        groups.setdefault(frame.size, []).append(i)
    return groups
