"""IMAGE IN, already preprocessed: a tensor is the model's input as it is, and its map lies in its own pixels."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from PIL import Image
from torch import Tensor

from concept_cam.backbones.backbone import Backbone
from concept_cam.errors import ImageError, OptionError
from concept_cam.images import Frame, Placement, Source, read_image
from concept_cam.preprocess import Preparation

if TYPE_CHECKING:
    Given: TypeAlias = Source | Tensor
    Several: TypeAlias = Iterable[Given]
else:
    # Types are checked at run time in tests: there too, what is no image shall be refused here, in words.
    Given = Several = Any

Read: TypeAlias = tuple[Frame, Image.Image | None]
"""What the model gets, and the image as it was read; None of a tensor."""

_FAR = 10
"""Values so many times further from zero than those of any normalised image were hardly normalised."""


def as_images(given: Several) -> Sequence[Given]:
    """Several images: a list of them, or a tensor (B, 3, height, width), which is so many; (3, height, width) is one.

    Raises:
        ImageError: it is one image that is no tensor, or not several of anything.
    """
    if isinstance(given, Tensor):
        return [given] if given.ndim == 3 else list(given) if given.ndim == 4 else [_as_image(given)]
    if isinstance(given, str | PathLike | Image.Image):
        raise ImageError("A batch is several images; put this one into a list, or call the localizer with it.")
    if not isinstance(given, Iterable):
        raise ImageError(
            f"A {type(given).__name__} is no batch; expected a list of images, or a tensor (B, 3, height, width)."
        )
    return list(given)


def as_file(given: Given) -> Source:
    """What can be read as an image.

    Raises:
        ImageError: it is nothing of the kind.
    """
    if not isinstance(given, str | PathLike | Image.Image):
        raise ImageError(
            f"{type(given).__name__} is no image; expected a path, a PIL image (Image.fromarray makes one), or a tensor."
        )
    return given


def _as_image(given: Tensor) -> Tensor:
    """(3, height, width) of a tensor (1, 3, height, width) too.

    Raises:
        ImageError: it has another shape.
    """
    shape = tuple(given.shape)
    if given.ndim == 4 and shape[0] != 1:
        raise ImageError(f"A tensor of shape {shape} is {shape[0]} images; give it to batch, or one of them here.")
    if given.ndim not in (3, 4) or shape[-3] != 3 or 0 in shape:
        last = " (channels come first: permute it)" if given.ndim in (3, 4) and shape[-1] == 3 else ""
        raise ImageError(f"A tensor of shape {shape} is no image; expected (3, height, width){last}.")
    return given.reshape(shape[-3:])


def read_given(given: Given, preprocess: Preparation, told: Sequence[str], backbone: Backbone) -> Read:
    """An image as the model gets it, and as it was read: upright, in RGB.

    Args:
        given: a path, a PIL image or a tensor.
        preprocess: how images are prepared; a tensor is prepared already.
        told: those of fit and size that the user chose.
        backbone: the model.

    Raises:
        ImageError: it cannot be read, or is no image.
        OptionError: it is a tensor, and the user chose another size, or how to fit images.
    """
    if isinstance(given, Tensor):
        return frame_of(given, preprocess, told, backbone.device, backbone.dtype), None
    read = read_image(as_file(given))
    return Frame.of(read, preprocess), read


def frame_of(given: Tensor, preprocess: Preparation, told: Sequence[str], device: torch.device, dtype: torch.dtype) -> Frame:
    """A preprocessed image as the model gets it: moved to the model, and otherwise as it is.

    Args:
        given: (3, height, width), or (1, 3, height, width).
        preprocess: how other images are prepared, which says how far from zero pixels are as a rule.
        told: those of fit and size that the user chose.
        device: of the model.
        dtype: of the model.

    Raises:
        ImageError: it has another shape, or holds integers, or numbers that are not finite.
        OptionError: the user chose another size, or how to fit images.

    Warns:
        UserWarning: its values are far from those of a normalised image.
    """
    image = _as_image(given)
    if not image.is_floating_point():
        raise ImageError(
            f"A tensor of {image.dtype} is no input of a model; normalise it as the model was trained, "
            "or give a PIL image (torchvision's to_pil_image makes one)."
        )
    pixels = image.detach().to(device, dtype)
    if not bool(pixels.isfinite().all()):
        raise ImageError(f"The tensor of shape {tuple(image.shape)} holds numbers that are not finite in {dtype}.")
    usual = preprocess.largest
    largest = float(pixels.abs().max())
    if largest > _FAR * usual:
        warnings.warn(
            f"The tensor has values up to {largest:.0f}; images normalised for this model have {usual:.1f} at most. "
            "A tensor is the model's input as it is: was it normalised?",
            stacklevel=2,
        )
    height, width = (int(side) for side in pixels.shape[1:])
    if "fit" in told or ("size" in told and (height, width) != preprocess.size):
        raise OptionError(
            f"The localizer was told a {' and a '.join(told)}, but a tensor of {height} x {width} pixels is the model's input "
            "as it is; leave them out, or give a path or a PIL image."
        )
    return Frame(pixels, Placement((0.0, 0.0, float(width), float(height)), (height, width)))
