"""IMAGE IN: resize, crop and normalise an image as its model does, and record the window that the input shows."""

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
"""Pillow's names of filters."""

_FILTERS = get_args(Interpolation)

_MAX_RESIZED = 16_000_000
"""Above this number of pixels before the crop, resize and crop are one step."""

Window = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels of the image."""

Size = tuple[int, int]
"""(height, width) in pixels."""

Fit = Literal["crop", "pad", "squash", "native"]
"""How an image is fitted to the aspect ratio of the input; see ``Preprocess``."""


def check_fit(fit: str) -> None:
    """Raise OptionError unless the argument is one of ``Fit``.

    Example:
        >>> check_fit("native")
    """
    known = get_args(Fit)
    if fit not in known:
        raise OptionError(f"No fit {fit!r}.{did_you_mean(fit, known)} There are {', '.join(known)}.")


class Preparation(ABC):
    """How an image becomes the input of a model: a ``Preprocess``, or a transform of the user that is run as it is.

    Attributes:
        size: (height, width) of the input in pixels; where the size varies, that for a square image.
        fit: how the image is fitted to the aspect ratio of the input; see ``Preprocess``.
        stride: side of a patch in pixels.
        varies: whether the size of the input depends on the aspect ratio of the image.
        largest: the largest absolute value of an input made of an ordinary image.
    """

    size: Size
    fit: str
    stride: int
    varies: bool
    largest: float

    @abstractmethod
    def view(self, image: Image.Image) -> tuple[Float[Tensor, "3 height width"], Window]:
        """The model's input for an image from ``read_image``, and the window of the image that it shows.

        Raises:
            ImageError: the transform of the user fails on the image, or its window cannot be found.
        """

    @abstractmethod
    def resized(self, size: Size) -> Preparation:
        """The same preprocessing for another input size."""

    @abstractmethod
    def fitted(self, fit: Fit) -> Preparation:
        """The same preprocessing with another fit."""

    @abstractmethod
    def strided(self, stride: int) -> Preparation:
        """The same preprocessing for a model with patches of another side."""


@final
@dataclass(frozen=True)
class Preprocess(Preparation):
    """The preprocessing of a model: resize, crop and normalisation.

    Attributes:
        size: (height, width) of the input in pixels.
        mean, std: of each channel, on a scale where white is 1.
        fit: ``crop`` resizes the image to fill the input and crops the centre, ``pad`` resizes it to fit inside and pads,
            ``squash`` changes its aspect ratio to that of the input, ``native`` gives the input the aspect ratio of the
            image, with at most as many patches as ``size`` has.
        interpolation: Pillow's name of the filter.
        fill: grey level of the padding, 0 to 255.
        shortest: shorter side of the resized image before the crop, where it is larger than the input (torchvision's
            ``Resize(256)`` before ``CenterCrop(224)``).
        stride: side of a patch in pixels; with ``native``, the sides of the input are multiples of it.

    Raises:
        OptionError: a value is out of range, or there is no such fit or filter.

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
            raise OptionError(f"std is {self.std}; expected no zero, because pixels are divided by it.")
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
        """Whether the input has the aspect ratio of the image."""
        return self.fit == "native"

    @property
    def largest(self) -> float:  # type: ignore[override]
        """The largest absolute value that black or white has after normalisation, over channels."""
        return max(max(abs(0 - m), abs(1 - m)) / abs(s) for m, s in zip(self.mean, self.std, strict=True))

    def view(self, image: Image.Image) -> tuple[Float[Tensor, "3 height width"], Window]:
        """The resized, cropped and normalised image, equal to the model's own transform with Pillow, and its window."""
        view, window = _fit(image, self)
        pixels = torch.from_numpy(np.array(view)).permute(2, 0, 1).float() / 255
        mean, std = (pixels.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (pixels - mean) / std, window

    def strided(self, stride: int) -> Preprocess:
        """The same preprocessing for a model with patches of another side."""
        return replace(self, stride=stride)

    def resized(self, size: Size) -> Preprocess:
        """The same preprocessing for another input size; a crop removes the same share of the image."""
        shortest = self.shortest and max(min(size), round(self.shortest * min(size) / min(self.size)))
        return replace(self, size=size, shortest=shortest)

    def fitted(self, fit: Fit) -> Preprocess:
        """The same preprocessing with another fit, of the whole image; padding has the mean colour, 0 after normalisation."""
        if fit == self.fit:
            return self
        return replace(self, fit=fit, fill=round(255 * sum(self.mean) / len(self.mean)), shortest=None)

    def size_for(self, image: Size) -> Size:
        """The input size for an image of some (height, width): ``size``, except with the fit ``native``.

        ``native`` follows the rule of SigLIP 2's NaFlex processor, solved exactly: the largest scale at which the image
        touches at most as many patches as ``size`` has; each side is then stretched to whole patches.
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
        # As in torchvision: the integer part of the longer side.
        shortest = preprocess.shortest or width
        new_width, new_height = (int(shortest * side / min(image.size)) for side in image.size)
    else:
        new_width, new_height = (round(margin * side / min(ratios)) for side in image.size)
    left, top = round((new_width - width) / 2), round((new_height - height) / 2)
    crop = (left, top, left + width, top + height)
    window = _window(image, (new_width, new_height), crop)
    if new_width * new_height <= _MAX_RESIZED:
        return image.resize((new_width, new_height), filter_).crop(crop), window
    # In one step, equal up to rounding: an image of 1 x 5000 pixels must not become one of 96 x 480,000.
    return image.resize((width, height), filter_, box=window), window


def _window(image: Image.Image, size: tuple[int, int], crop: tuple[int, int, int, int]) -> Window:
    """The window of a crop of the resized image, in pixels of the image."""
    left, top, right, bottom = crop
    x, y = image.width, image.height
    return left * x / size[0], top * y / size[1], right * x / size[0], bottom * y / size[1]
