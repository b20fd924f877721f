"""What is drawn on an image and beside it: marks of parts, lines to labels that do not lie on each other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import dist
from statistics import fmean
from typing import NamedTuple, TypeAlias

from PIL import Image, ImageDraw

from concept_cam.heat import upright
from concept_cam.parts.part import PartFinding

Point: TypeAlias = tuple[float, float]
Colour: TypeAlias = tuple[int, int, int]

COLOURS: tuple[Colour, ...] = (
    *((230, 120, 0), (0, 114, 178), (0, 158, 115), (204, 80, 150), (240, 220, 60), (86, 180, 233), (110, 60, 20)),
    *((140, 0, 255), (20, 0, 120), (180, 220, 140), (80, 40, 100), (240, 0, 80), (200, 80, 255), (255, 160, 180)),
    *((60, 240, 255), (140, 0, 60)),
)
"""Of parts, in the order of their vocabulary: seven after Okabe and Ito, then each as far as can be from those before it, to
normal sight and to that of the red-, green- and blue-blind as Machado et al. (2009) simulate them."""

_WHITE, INK = (255, 255, 255), (30, 34, 38)


class Mark(NamedTuple):
    """A visible part on the copy of the image that is drawn on."""

    label: str
    colour: Colour
    point: Point
    box: tuple[float, float, float, float]

    def moved(self, x: float, y: float) -> Mark:
        """The same so far to the right and down."""
        left, top, right, bottom = self.box
        return self._replace(point=(self.point[0] + x, self.point[1] + y), box=(left + x, top + y, right + x, bottom + y))


class Layer:
    """Lines drawn at twice the size, so that their edges are smooth."""

    def __init__(self, size: tuple[int, int], stroke: float) -> None:
        self._image = Image.new("RGBA", (2 * size[0], 2 * size[1]))
        self._draw = ImageDraw.Draw(self._image)
        self._stroke = stroke

    def box(self, mark: Mark) -> None:
        """The outline of its box."""
        for colour, width in (((*_halo(mark.colour), 120), 1.5), ((*mark.colour, 255), 0.75)):
            self._draw.rectangle([2 * side for side in mark.box], outline=colour, width=self._width(width))

    def leader(self, end: Point, mark: Mark) -> None:
        """A line from its label to its point."""
        for colour, width in (((*_halo(mark.colour), 170), 1.7), ((*mark.colour, 255), 0.9)):
            self._draw.line([2 * side for side in (*end, *mark.point)], fill=colour, width=self._width(width))

    def dot(self, point: Point, colour: Colour, share: float = 1.0) -> None:
        """Draw a disc with a rim that is visible on any ground.

        Args:
            point: its centre, (x, y) in pixels of the image.
            colour: its fill.
            share: its radius as a share of the usual one.
        """
        x, y = (2 * side for side in point)
        for fill, radius in ((INK, 3.4), (_WHITE, 3.0), (colour, 2.2)):
            r = 2 * radius * share * self._stroke
            self._draw.ellipse((x - r, y - r, x + r, y + r), fill=(*fill, 255))

    def put_on(self, canvas: Image.Image) -> None:
        """All of it, on an image of the layer's size."""
        smooth = self._image.reduce(2)
        canvas.paste(smooth, mask=smooth)

    def _width(self, share: float) -> int:
        return max(2, round(2 * share * self._stroke))


def _halo(colour: Colour) -> Colour:
    """What a line is edged with, to be seen on any ground."""
    return _WHITE if sum(colour) < 500 else INK


def marked(finding: PartFinding, image: Image.Image, side: int) -> tuple[Image.Image, list[Mark]]:
    """A resized copy of the image, and the marks of its visible parts in pixels of the copy.

    Args:
        finding: the parts of the image.
        image: the image that was searched.
        side: the longer side of the copy, in pixels.
    """
    image = upright(image, finding.placement, "finding")
    scale = side / max(image.size)
    shown = image.resize([max(1, round(length * scale)) for length in image.size], Image.Resampling.LANCZOS)
    x, y = shown.width / image.width, shown.height / image.height
    marks = []
    for k, part in enumerate(finding.parts):
        if part.visible and part.keypoint is not None and part.box is not None:
            left, top, right, bottom = part.box
            values = ", ".join(reading.value for reading in part.attributes.values())
            label = " ".join((f"{part.name}: {values}" if values else part.name).split())
            point, box = (part.keypoint[0] * x, part.keypoint[1] * y), (left * x, top * y, right * x, bottom * y)
            marks.append(Mark(label, COLOURS[k % len(COLOURS)], point, box))
    return shown, marks


def beside(x: float, marks: Sequence[Mark], top: float, bottom: float, step: float) -> list[tuple[float, Mark]]:
    """Heights for the labels of marks beside an image, each with its mark, such that no two lines from label to point cross.

    Args:
        x: where the lines end at the labels.
        marks: in any order.
        top: the upper end of the column of labels.
        bottom: its lower end; labels that do not fit stand below it.
        step: the least distance of two labels. All are in pixels.
    """
    placed = sorted(marks, key=lambda mark: mark.point[1])
    ends = _spread([mark.point[1] for mark in placed], top + step / 2, bottom - step / 2, step)

    def length(i: int, j: int) -> float:
        return dist((x, ends[i]), placed[j].point)

    # Two lines that cross are longer than the two that do not.
    pairs = list(combinations(range(len(ends)), 2))
    while crossed := [(i, j) for i, j in pairs if length(i, j) + length(j, i) < length(i, i) + length(j, j) - 1e-6]:
        i, j = crossed[0]
        placed[i], placed[j] = placed[j], placed[i]
    return list(zip(ends, placed, strict=True))


def _spread(wanted: Sequence[float], low: float, high: float, step: float) -> list[float]:
    """Places from ``low`` to ``high`` at least a step apart, as near as can be to where they are wanted, in rising order."""
    # Less a step for each one before, all that is asked is that they do not fall: pool those that do.
    groups: list[list[float]] = []
    for k, place in enumerate(wanted):
        groups.append([place - k * step])
        while len(groups) > 1 and fmean(groups[-2]) > fmean(groups[-1]):
            last = groups.pop()
            groups[-1] += last
    high = max(low, high - (len(wanted) - 1) * step)
    bases = [min(max(fmean(group), low), high) for group in groups for _ in group]
    return [base + k * step for k, base in enumerate(bases)]
