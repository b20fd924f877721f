"""Where tokens can be read in a model, and how they lie on the image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from concept_cam.backbones.closed_form import Head
from concept_cam.errors import BackboneError
from concept_cam.images import WHOLE, Size, Span, interpolation


@dataclass(frozen=True)
class TokenLayout:
    """How tokens lie on the image: first the prefix (class token, registers), then the grid row by row.

    A site whose output is (B, prefix + patches, D) has one.

    Attributes:
        prefix: tokens that lie nowhere.
        rows, cols: of the grid.
        span: (left, top, right, bottom) of the grid in shares of the input. It reaches outside where a model padded its map
            or looks at the upper left of a cell, and covers a part where borders were cropped; see ``places``.
    """

    prefix: int
    rows: int
    cols: int
    span: Span = WHOLE

    @property
    def patches(self) -> int:
        """How many tokens lie on the grid."""
        return self.rows * self.cols

    def mirrored(self) -> TokenLayout:
        """How maps of mirrored images lie, mirrored back: elsewhere, where cells look at one side of theirs."""
        left, top, right, bottom = self.span
        return replace(self, span=(1 - right, top, 1 - left, bottom))

    def enlarged(self, maps: Float[Tensor, "*K rows cols"], size: Size) -> Float[Tensor, "*K height width"]:
        """Maps of the grid in the pixels of an input of (height, width), bilinear."""
        left, top, right, bottom = self.span
        down = interpolation(size[0], top * size[0], bottom * size[0], self.rows).to(maps)
        across = interpolation(size[1], left * size[1], right * size[1], self.cols).to(maps)
        return down @ maps @ across.T

    def pooled(self, images: Float[Tensor, "*K height width"]) -> Float[Tensor, "*K rows cols"]:
        """The mean of what each cell covers of numbers for each pixel."""
        if self.span == WHOLE:
            return F.adaptive_avg_pool2d(images, (self.rows, self.cols))
        return TokenLayout(0, images.shape[-2], images.shape[-1]).moved(images, self)

    def moved(self, maps: Float[Tensor, "*K rows cols"], onto: TokenLayout) -> Float[Tensor, "*K rows2 cols2"]:
        """Maps of this grid on that of another layout, which may lie elsewhere on the same image; bilinear."""
        # Spans that are one but for rounding: what is interpolated no longer has values that are equal.
        alike = all(abs(own - other) < 1e-9 for own, other in zip(self.span, onto.span, strict=True))
        if alike and (self.rows, self.cols) == (onto.rows, onto.cols):
            return maps
        (left, top, right, bottom), (x, y, x2, y2) = self.span, onto.span
        down, across = onto.rows / (y2 - y), onto.cols / (x2 - x)
        rows = interpolation(onto.rows, (top - y) * down, (bottom - y) * down, self.rows, antialias=True).to(maps)
        cols = interpolation(onto.cols, (left - x) * across, (right - x) * across, self.cols, antialias=True).to(maps)
        return rows @ maps @ cols.T

    def read(self, output: Tensor) -> tuple[Float[Tensor, "B M D"], TokenLayout]:
        """The tokens, prefix first, and how they lie.

        Raises:
            BackboneError: the output is of another shape.
        """
        if output.ndim != 3 or output.shape[1] != self.prefix + self.patches:
            expected = f"(batch, {self.prefix} + {self.rows} x {self.cols}, width)"
            raise BackboneError(f"The site gave {tuple(output.shape)}; expected {expected}.")
        return output, self


@dataclass(frozen=True)
class FeatureMap:
    """How the cells of a map lie on the image: as they are. A site whose output is a map has one.

    Attributes:
        channels_last: (B, rows, cols, D); else (B, D, rows, cols).
        span: of the grid in shares of the input, as in ``TokenLayout``.
    """

    channels_last: bool = False
    span: Span = WHOLE

    def read(self, output: Tensor) -> tuple[Float[Tensor, "B M D"], TokenLayout]:
        """The cells as tokens, and how they lie.

        Raises:
            BackboneError: the output is no map.
        """
        if output.ndim != 4:
            raise BackboneError(f"The site gave {tuple(output.shape)}; expected a map of four dimensions.")
        channels_first = output.movedim(-1, 1) if self.channels_last else output
        rows, cols = channels_first.shape[2:]
        return channels_first.flatten(2).transpose(1, 2), TokenLayout(0, rows, cols, self.span)


@dataclass(frozen=True)
class Site:
    """Where tokens are read.

    Attributes:
        name: the module's name within the model; ``NAME:input`` for what enters it, ``NAME:2`` for its second call.
        module: its output holds the tokens, or its input.
        layout: how those tokens lie on the image.
        head: everything after the site in closed form; it follows from the pooling. None: gradients come from autograd.
        side: whether the tokens leave the module or enter it.
        call: of a module that runs several times in a pass, which run, from 0; None if it runs once.
    """

    name: str
    module: nn.Module
    layout: TokenLayout | FeatureMap
    head: Head | None = None
    side: Literal["output", "input"] = "output"
    call: int | None = None

    @property
    def prefix(self) -> int:
        """The number of tokens that are no patches; 0 for a map."""
        return self.layout.prefix if isinstance(self.layout, TokenLayout) else 0

    def is_at(self, other: Site) -> bool:
        """Whether another site reads the same tensor of the model; names and layouts may differ."""
        return (self.module is other.module) and (self.side, self.call) == (other.side, other.call)
