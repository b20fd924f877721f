"""Which window of an image a transform shows: found by images that say at each pixel where it lies, confirmed by marks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from concept_cam.errors import ImageError
from concept_cam.preprocess import Size, Window

Show = Callable[[Image.Image], Tensor]
"""What a transform gives for an image, (3, height, width)."""

_DARK, _BRIGHT = 16, 240
"""Grey levels of the test images; a filter that overshoots does not clip them."""

_FEWEST = 6
"""An axis of fewer pixels than this is taken to be shown whole: no crop of it is off by more than a pixel or two."""


def find_window(show: Show, size: Size) -> tuple[Size, Window]:
    """The size of what a transform gives for an image of a size, and the window of the image that it shows.

    It is run on five grey images of that size: dark, bright, two slopes, four marks. Dark and bright say how a grey level
    comes out at each pixel, and which pixels are padding; so the slopes say for each pixel which place of the image it shows.
    A line through these is the window. The marks must come out where it says.

    Args:
        show: the transform.
        size: (height, width) of the image.

    Raises:
        ImageError: there is no such window: it turns, mirrors or warps images, or its output depends on what they show.

    Example:
        >>> import torch
        >>> def show(image):
        ...     return torch.tensor(np.array(image.crop((20, 5, 84, 37)))).movedim(2, 0).float()
        >>> size, window = find_window(show, (50, 100))
        >>> size, [round(side, 2) for side in window]
        ((32, 64), [20.0, 5.0, 84.0, 37.0])
    """
    dark = _array(show(_grey(np.zeros(size))))
    seen = _Seen.of(dark, _array(show(_grey(np.ones(size)))))
    y, x = np.meshgrid(*((np.arange(count) + 0.5) / count for count in size), indexing="ij")
    # Each slope has a share of the other: the rounding to grey levels is not the same in all rows.
    first, second = (seen.level(_array(show(_grey(slope)))) for slope in ((3 * x + y) / 4, (x + 3 * y) / 4))
    ends = [_ends(slope, seen.image, axis) for axis, slope in enumerate((second, first))]
    places = (3 * second - first) / 2 * size[0], (3 * first - second) / 2 * size[1]
    down, across = _lines(places, seen, ends, size)
    rows, cols = dark.shape[1:]
    window = (across[0], down[0], across[0] + across[1] * cols, down[0] + down[1] * rows)
    _confirm(show, dark, seen.image, size, down, across)
    return (rows, cols), window


class _Seen(NamedTuple):
    """How grey levels come out."""

    dark: Float[np.ndarray, "3 rows cols"]
    scale: Float[np.ndarray, "3 rows cols"]
    image: Bool[np.ndarray, "rows cols"]  # where the image is, and no padding
    clear: Bool[np.ndarray, "rows cols"]  # where none of the padding is mixed into it

    @classmethod
    def of(cls, dark: Float[np.ndarray, "3 rows cols"], bright: Float[np.ndarray, "3 rows cols"]) -> _Seen:
        scale = _same_size(bright, dark) - dark
        strength = np.abs(scale).max(0)
        if not strength.any():
            raise ImageError("gives the same for a bright image as for a dark one")
        usual = np.median(strength[strength > 0])
        return cls(dark, scale, strength > 0.5 * usual, strength > 0.95 * usual)

    def level(self, shown: Float[np.ndarray, "3 rows cols"]) -> Float[np.ndarray, "rows cols"]:
        """The grey level behind each pixel: 0 is dark, 1 is bright."""
        squares = (self.scale**2).sum(0)
        squares[~self.image] = 1
        level: Float[np.ndarray, "rows cols"] = (self.scale * (_same_size(shown, self.dark) - self.dark)).sum(0) / squares
        if np.abs(level[self.image] - 0.5).mean() > 1:
            raise ImageError("changes its contrast depending on what is on it")
        return level


Line = tuple[float, float]
"""Where an axis of the output begins on the image, and by how many pixels of it each step goes on."""


def _lines(
    places: Sequence[Float[np.ndarray, "rows cols"]], seen: _Seen, ends: Sequence[Ends], size: Size
) -> tuple[Line, Line]:
    """The line of each axis, down and across, through the places that the pixels show."""
    image = seen.image.copy()
    for axis, (first, last, *_) in enumerate(ends):
        if size[axis] >= _FEWEST:
            away = np.arange(image.shape[axis])
            image &= np.expand_dims((away >= first) & (away < last), 1 - axis)
    inner = seen.clear & _eroded(image, [min(3, int(image.any(1 - axis).sum()) // 6) for axis in (0, 1)])
    for place, count in zip(places, size, strict=True):
        # At the image's border filters are cut off, as at the output's; in a padding that repeats it, places stand still.
        margin = min(2.0, count / 6)
        if count >= _FEWEST:
            inner = inner & (place > margin) & (place < count - margin)
    few = any(inner.any(1 - axis).sum() < (4 if count >= _FEWEST else 1) for axis, count in enumerate(size))
    # Each pixel's place is known to a grey level; the mean of many, to a part of a pixel of the image.
    if few or max(size) / (_BRIGHT - _DARK) > 0.5 * float(inner.sum()) ** 0.5:
        raise ImageError("shows too little of it to find its window")
    i, j = np.nonzero(inner)
    middle = float(i.mean()) + 0.5, float(j.mean()) + 0.5
    unknowns = np.stack([np.ones(len(i)), i + 0.5 - middle[0], j + 0.5 - middle[1]], 1)
    found: list[Line] = []
    for axis, (place, count) in enumerate(zip(places, size, strict=True)):
        if count < _FEWEST:
            found.append(_whole(np.asarray(seen.image.any(1 - axis)), count))
            continue
        centre, *steps = np.linalg.lstsq(unknowns, place[inner], rcond=None)[0]
        own, other = steps[axis], steps[1 - axis]
        allowed = max(1.0, own / 4, count / (_BRIGHT - _DARK))
        rest = np.zeros(image.shape)
        rest[inner] = place[inner] - unknowns @ np.array([centre, *steps])
        bent = max(_means(rest, inner), abs(other) * float(np.ptp((i, j)[1 - axis])))
        if own <= 0 or abs(other) > abs(own):
            raise ImageError("mirrors or turns it")
        if bent > allowed:
            raise ImageError("warps or repeats it, or changes its contrast other than linearly")
        line = float(centre - own * middle[axis]), float(own)
        _check_covered(line, ends[axis], count)
        found.append(line)
    down, across = found
    return down, across


class Ends(NamedTuple):
    """Where the image begins and ends on an axis of the output, without the lines that repeat the first and the last."""

    first: int
    last: int
    repeats: tuple[int, int]  # how often they are there
    padded: tuple[bool, bool]  # whether there is something before and after


def _ends(level: Float[np.ndarray, "rows cols"], image: Bool[np.ndarray, "rows cols"], axis: int) -> Ends:
    there = np.flatnonzero(image.any(1 - axis))
    first, last = int(there[0]), int(there[-1]) + 1
    lines = np.moveaxis(np.where(image, level, 0), axis, 0)[first:last]
    before, after = (int((np.abs(one - one[0]).max(1) > 1e-6).argmax()) or 1 for one in (lines, lines[::-1]))
    padded = first > 0, last < image.shape[axis]
    return Ends(first + before - 1, last - after + 1, (before, after), padded)


def _check_covered(line: Line, ends: Ends, count: int) -> None:
    """Raise ImageError if the image goes on behind padding: a map of the window would say that the model saw it."""
    start, step = line
    hidden = start + step * ends.first, count - (start + step * ends.last)
    # Lines may be alike because a grey level is as wide.
    unsure = 2 + 1.5 * count / (_BRIGHT - _DARK)
    for rest, repeats, padded in zip(hidden, ends.repeats, ends.padded, strict=True):
        if (padded or repeats > 3 + unsure / step) and rest > unsure + 1.5 * step:
            raise ImageError("covers a part of it by padding")


def _confirm(
    show: Show, dark: Float[np.ndarray, "3 rows cols"], image: Bool[np.ndarray, "rows cols"], size: Size, *lines: Line
) -> None:
    """Raise ImageError unless four marks come out where the window says."""
    marks, centres = np.ones(size), []
    for axis, ((start, step), count) in enumerate(zip(lines, size, strict=True)):
        first, last = max(0.0, start), min(float(count), start + step * image.shape[axis])
        if last - first < 2 * _FEWEST:
            centres.append(np.array([]))
            continue
        side = max(1, round((last - first) / 8))
        begins = [round(first + share * (last - first) - side / 2) for share in (0.25, 0.75)]
        line = np.zeros(count)
        for begin in begins:
            line[begin : begin + side] = 1
        marks = marks * np.expand_dims(line, 1 - axis)
        centres.append((np.array(begins) + side / 2 - start) / step)
    lit = np.abs(_same_size(_array(show(_grey(marks))), dark) - dark).max(0)
    lit = np.where(image, np.abs(lit - np.median(lit[image])), 0)
    lit[lit < 0.2 * lit.max()] = 0
    for axis, (wanted, (_, step)) in enumerate(zip(centres, lines, strict=True)):
        profile, at = lit.sum(1 - axis), np.arange(image.shape[axis]) + 0.5
        for centre, near in zip(wanted, (at < wanted.mean(), at >= wanted.mean()) if len(wanted) else (), strict=True):
            found = (profile * at)[near].sum() / max(profile[near].sum(), 1e-12)
            if abs(found - centre) * step > max(1.0, 0.6 * step):
                raise ImageError("shows another window of it, or another contrast, depending on what is on it")


def _grey(levels: Float[np.ndarray, "height width"]) -> Image.Image:
    values = np.round(_DARK + (_BRIGHT - _DARK) * levels).astype(np.uint8)
    return Image.fromarray(np.repeat(values[:, :, None], 3, 2))


def _array(shown: Tensor) -> Float[np.ndarray, "3 rows cols"]:
    return np.asarray(shown.double().numpy())


def _same_size(shown: Float[np.ndarray, "3 rows cols"], other: Float[np.ndarray, "3 ..."]) -> Float[np.ndarray, "3 rows cols"]:
    if shown.shape != other.shape:
        raise ImageError("gives another size depending on what is on it")
    return shown


def _eroded(image: Bool[np.ndarray, "rows cols"], by: Sequence[int]) -> Bool[np.ndarray, "rows cols"]:
    """Without the pixels that are nearer than that, down and across, to what is not image."""
    padded = np.pad(image, [(reach, reach) for reach in by])
    for axis, reach in enumerate(by):
        padded = np.all([np.roll(padded, step, axis) for step in range(-reach, reach + 1)], axis=0)
    rows, cols = image.shape
    return padded[by[0] : by[0] + rows, by[1] : by[1] + cols]


def _whole(shown: Bool[np.ndarray, " length"], count: int) -> Line:
    """The line of an axis whose every pixel is shown."""
    first, *_, last = np.flatnonzero(np.append(shown, False) | np.append(False, shown))
    step = count / float(last - first)
    return -float(first) * step, step


def _means(rest: Float[np.ndarray, "rows cols"], inner: Bool[np.ndarray, "rows cols"]) -> float:
    """The largest mean over a block, of 8 x 8 in all."""
    blocks = [np.array_split(np.arange(length), min(8, length)) for length in inner.shape]
    sums = [(rest[np.ix_(r, c)].sum(), inner[np.ix_(r, c)].sum()) for r in blocks[0] for c in blocks[1]]
    most = max(count for _, count in sums)
    return float(max(abs(total / count) for total, count in sums if 4 * count >= most))
