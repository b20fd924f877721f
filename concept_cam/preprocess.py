"""IMAGE IN: how an image becomes the model's input, and which window of the image that shows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from fractions import Fraction
from math import isfinite
from typing import Literal, final, get_args

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from concept_cam.errors import OptionError, did_you_mean

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
"""Pillow's name of a filter."""

_FILTERS = get_args(Interpolation)

_MAX_RESIZED = 16_000_000
"""Images that would have more pixels than this before the crop are resized and cropped in one step."""

Window = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels of the image."""

Size = tuple[int, int]
"""(height, width) in pixels."""

Fit = Literal["crop", "pad", "squash", "native"]
"""How an image is brought to the input's aspect; see ``Preprocess``."""


def check_fit(fit: str) -> None:
    """Raise OptionError unless it is one of ``Fit``."""
    known = get_args(Fit)
    if fit not in known:
        raise OptionError(f"No fit {fit!r}.{did_you_mean(fit, known)} There are {', '.join(known)}.")


class Preparation(ABC):
    """How an image becomes a model's input: a ``Preprocess``, or a transform of the user's that is run.

    Attributes:
        size: (height, width) of the model's input in pixels; of a square image, where it varies.
        fit: how the image is brought to the input's aspect; see ``Preprocess``.
        stride: side of a patch.
        varies: whether what it gives has other sizes for images of another aspect.
        largest: the largest absolute value of what it gives for ordinary images.
    """

    size: Size
    fit: str
    stride: int
    varies: bool
    largest: float

    @abstractmethod
    def view(self, image: Image.Image) -> tuple[Float[Tensor, "3 height width"], Window]:
        """The model's input for an image as ``read_image`` gives it, and the window of the image that it shows.

        Raises:
            ImageError: a transform that is run fails on it, or what it shows of it cannot be found.
        """

    @abstractmethod
    def resized(self, size: Size) -> Preparation:
        """The same for a model at another input size."""

    @abstractmethod
    def fitted(self, fit: Fit) -> Preparation:
        """The same with another fit."""

    @abstractmethod
    def strided(self, stride: int) -> Preparation:
        """The same for a model with patches of that side."""


@final
@dataclass(frozen=True)
class Preprocess(Preparation):
    """How a model wants its images.

    Attributes:
        size: (height, width) of the model's input in pixels.
        mean, std: per channel, on a scale where white is 1.
        fit: ``crop`` fills the input and crops the centre, ``pad`` fits the image in and pads, ``squash`` ignores its
            aspect, ``native`` keeps it: the input has the image's aspect, and no more patches than ``size`` has.
        interpolation: Pillow's name of the filter.
        fill: grey level (0 to 255) of the padding.
        shortest: the image's shorter side, cropped or squashed, before its margin is cut off; by default there is none.
        stride: side of a patch; at native aspect, the sides of the input are multiples of it.

    Raises:
        OptionError: a value is out of its range, or there is no such fit or filter.

    Example:
        >>> Preprocess((224, 224), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), shortest=256).resized((448, 448)).shortest
        512
    """

    size: Size
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fit: Fit = "crop"
    interpolation: Interpolation = "bicubic"
    fill: int = 0
    shortest: int | None = None
    stride: int = 1

    def __post_init__(self) -> None:
        check_fit(self.fit)
        if len(self.size) != 2 or min(self.size) < 1:
            raise OptionError(f"size is {self.size}; expected (height, width) in pixels, each at least 1.")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3 or not all(isfinite(value) for value in values):
                raise OptionError(f"{name} is {values}; expected three finite numbers, for red, green and blue.")
        if 0 in self.std:
            raise OptionError(f"std is {self.std}; expected no zero, for pixels are divided by it.")
        if self.interpolation not in _FILTERS:
            hint = did_you_mean(self.interpolation, _FILTERS)
            raise OptionError(f"No interpolation {self.interpolation!r}.{hint} There are {', '.join(_FILTERS)}.")
        if not 0 <= self.fill <= 255:
            raise OptionError(f"fill is {self.fill}; expected a grey level from 0 to 255.")
        if self.shortest is not None and self.shortest < min(self.size):
            raise OptionError(f"shortest is {self.shortest}; expected at least {min(self.size)}, the shorter side of size.")
        if self.stride < 1:
            raise OptionError(f"stride is {self.stride}; expected the side of a patch, at least 1.")

    @property
    def varies(self) -> bool:  # type: ignore[override]
        """Whether the input has the image's aspect."""
        return self.fit == "native"

    @property
    def largest(self) -> float:  # type: ignore[override]
        """The larger of what black and white become, in the channel where it is largest."""
        return max(max(abs(0 - m), abs(1 - m)) / abs(s) for m, s in zip(self.mean, self.std, strict=True))

    def view(self, image: Image.Image) -> tuple[Float[Tensor, "3 height width"], Window]:
        """Resized and cropped as the model's own transform does, to the pixel with Pillow, and normalised."""
        view, window = _fit(image, self)
        pixels = torch.from_numpy(np.array(view)).permute(2, 0, 1).float() / 255
        mean, std = (pixels.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (pixels - mean) / std, window

    def strided(self, stride: int) -> Preprocess:
        """The same for a model with patches of that side."""
        return replace(self, stride=stride)

    def resized(self, size: Size) -> Preprocess:
        """The same for another input size; what a crop cuts off stays the same share."""
        shortest = self.shortest and max(min(size), round(self.shortest * min(size) / min(self.size)))
        return replace(self, size=size, shortest=shortest)

    def fitted(self, fit: Fit) -> Preprocess:
        """The same with another fit: of the whole image, and padded in the mean colour, which is zero once normalised."""
        if fit == self.fit:
            return self
        return replace(self, fit=fit, fill=round(255 * sum(self.mean) / len(self.mean)), shortest=None)

    def size_for(self, image: Size) -> Size:
        """The input's size for an image: always ``size``, except at native aspect.

        There it is the rule of SigLIP 2's NaFlex processor, solved exactly: of all scales at which the patches that the
        image touches are no more than ``size`` has, the largest; each side is then stretched to whole patches.
        """
        if self.fit != "native":
            return self.size
        most = (self.size[0] // self.stride) * (self.size[1] // self.stride)
        height, width = image
        # At the largest scale one side is a whole number of patches: try each.
        tall = [(Fraction(n, height), n, -(-width * n // height)) for n in range(1, most + 1)]
        wide = [(Fraction(n, width), -(-height * n // width), n) for n in range(1, most + 1)]
        _, rows, cols = max(trial for trial in tall + wide if trial[1] * trial[2] <= most)
        return rows * self.stride, cols * self.stride


def _fit(image: Image.Image, preprocess: Preprocess) -> tuple[Image.Image, Window]:
    height, width = preprocess.size_for((image.height, image.width))
    filter_ = Image.Resampling[preprocess.interpolation.upper()]
    whole = preprocess.shortest is None or preprocess.fit == "native"
    if preprocess.fit in ("squash", "native") and whole:
        return image.resize((width, height), filter_), (0.0, 0.0, float(image.width), float(image.height))
    ratios = image.width / width, image.height / height
    if preprocess.fit == "pad":
        new_width, new_height = (max(1, round(side / max(ratios))) for side in image.size)
        left, top = (width - new_width) // 2, (height - new_height) // 2
        canvas = Image.new("RGB", (width, height), (preprocess.fill,) * 3)
        canvas.paste(image.resize((new_width, new_height), filter_), (left, top))
        return canvas, _window(image, (new_width, new_height), (-left, -top, width - left, height - top))
    margin = (preprocess.shortest or min(preprocess.size)) / min(preprocess.size)
    if preprocess.fit == "squash":
        new_width, new_height = round(margin * width), round(margin * height)
    elif width == height:
        # As torchvision has it: the whole part of the longer side.
        shortest = preprocess.shortest or width
        new_width, new_height = (int(shortest * side / min(image.size)) for side in image.size)
    else:
        new_width, new_height = (round(margin * side / min(ratios)) for side in image.size)
    left, top = round((new_width - width) / 2), round((new_height - height) / 2)
    crop = (left, top, left + width, top + height)
    window = _window(image, (new_width, new_height), crop)
    if new_width * new_height <= _MAX_RESIZED:
        return image.resize((new_width, new_height), filter_).crop(crop), window
    # In one step, equal but for rounding: a sliver of 1 x 5000 pixels must not become 96 x 480,000.
    return image.resize((width, height), filter_, box=window), window


def _window(image: Image.Image, size: tuple[int, int], crop: tuple[int, int, int, int]) -> Window:
    """A crop of the resized image, in pixels of the image."""
    left, top, right, bottom = crop
    x, y = image.width, image.height
    return left * x / size[0], top * y / size[1], right * x / size[0], bottom * y / size[1]
