"""A user's own preprocessing: read as a Preprocess and compared with its own output, or else run as it is."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any

import numpy as np
import torch
from PIL import Image

from concept_cam.backbones.backbone import Backbone
from concept_cam.backbones.processors import read_processor
from concept_cam.backbones.usertransform import (
    TransformFailed,
    UserTransform,
    library_of,
    name_of,
    refusal,
    run,
    without_chance,
)
from concept_cam.backbones.windows import find_window
from concept_cam.errors import BackboneError, ConceptCamError, ImageError, OptionError
from concept_cam.preprocess import Fit, Preparation, Preprocess, Size, check_fit

_SILENT = {"MaybeConvertMode", "MaybeToTensor", "ToTensor", "PILToTensor", "ToImage", "ToDtype", "ConvertImageDtype", "RGB"}
"""Steps that a Preprocess takes anyway."""

_EXACT = 0.02
"""Grey levels by which pixels of what was read may differ from those of the transform: the rounding of single precision."""

_ALIKE = 3.0, 1800.0
"""Grey levels by which smooth images may differ where only the resizing differs; and by which they change if a
crop lies a pixel beside, times the side: libraries round halves of a pixel each in its own way."""

_SHAPES = ((1.71, 1.13), (0.83, 1.45), (1.3, 1.3), (0.61, 0.61), (0.7, 3.1), (1.07, 2.9), (2.03, 1.57), (1.19, 1.26))
"""(height, width) of test images, in sides of what was read: of several aspects, larger and smaller."""

_SIZES = ((431, 640), (500, 375), (512, 512))
"""(height, width) of test images for a transform of which nothing is known."""

_REPEATS = 8

_KNOWN = {"torchvision", "timm", "open_clip", "clip", "transformers"}
"""Where steps come from whose every instance does what its attributes say."""


def read_transform(given: Any) -> Preparation:
    """What a model's input is made by.

    A transform whose steps are known is read: it becomes a ``Preprocess``, which can be had at other sizes and fits. What was
    read is compared with what the transform gives for test images of several sizes and aspects. If a pixel differs, or the
    transform cannot be read, it is run on every image: the model gets what it gives, to the bit, and the window that it shows
    is found by test images of the same size (``UserTransform``). Other sizes and fits are then to be had only if it differs by
    a few grey levels, as processors of transformers do that do not resize by Pillow.

    A copy is taken: what is changed in the transform later is not seen.

    Args:
        given: a Preprocess, which is taken as it is; a transform of torchvision (v1 or v2), open_clip, timm or albumentations;
            the preset that torchvision's weights bring (``weights.transforms()``); a processor of transformers; or a function
            of your own that takes an RGB image of PIL and gives a tensor (3, height, width).

    Raises:
        BackboneError: it is random, fails, gives no (3, height, width), or what it gives is no window of the image: mirrored,
            turned, warped, repeated, or chosen by what the image shows.

    Example:
        >>> from torchvision.models import ResNet50_Weights
        >>> preprocess = read_transform(ResNet50_Weights.IMAGENET1K_V2.transforms())
        >>> preprocess.size, preprocess.shortest
        ((224, 224), 232)
    """
    if isinstance(given, Preparation):
        return given
    # A processor of images and texts has one of images within.
    given = getattr(given, "image_processor", given)
    if not callable(given):
        raise BackboneError(
            f"{type(given).__name__} is no preprocessing; expected a transform that takes an RGB image of PIL, or a "
            "concept_cam Preprocess."
        )
    with suppress(Exception):
        given = copy.deepcopy(given)
    try:
        with without_chance(given):
            read = _read(given)
            if read and _is_known(given) and _off(given, read, _noise) <= _EXACT:
                return read
            alike = read and _off(given, read, _smooth) <= _ALIKE[0] + _ALIKE[1] / min(read.size)
            return _measured(given, read if alike else None)
    except ImageError as error:
        raise BackboneError(str(error)) from error


def _read(given: Any) -> Preprocess | None:
    """What its attributes say that it does; None if they say something that a Preprocess cannot."""
    try:
        if hasattr(given, "image_mean"):
            return read_processor(given)
        if hasattr(given, "crop_size") and hasattr(given, "resize_size"):
            return Preprocess(
                size=_pair(given.crop_size),
                mean=tuple(given.mean),
                std=tuple(given.std),
                interpolation=_interpolation(given.interpolation),
                shortest=_pair(given.resize_size)[0],
            )
        return _of_steps(list(getattr(given, "transforms", ())))
    except (ConceptCamError, AttributeError, KeyError, TypeError, ValueError, IndexError):
        return None


def _of_steps(steps: list[Any]) -> Preprocess | None:
    found: dict[str, Any] = {"fit": "squash"}
    for step in steps:
        kind = type(step).__name__
        if kind == "Normalize":
            found |= {"mean": _floats(step.mean), "std": _floats(step.std)}
        elif kind == "Resize" and getattr(step, "max_size", None) is None and step.size is not None:
            # One side alone is the shorter one; torchvision's v2 keeps it in a list.
            one = isinstance(step.size, int) or len(step.size) == 1
            found |= {"shortest": _pair(step.size)[0]} if one else {"size": _pair(step.size)}
            found["interpolation"] = _interpolation(step.interpolation)
        elif kind == "ResizeKeepRatio":
            fit: Fit = "pad" if step.longest else "crop"
            found |= {"size": _pair(step.size), "interpolation": _interpolation(step.interpolation), "fit": fit}
        elif kind in ("CenterCrop", "CenterCropOrPad"):
            found |= {"size": _pair(step.size), "fit": "pad" if found["fit"] == "pad" else "crop"}
            found["fill"] = getattr(step, "fill", 0)
        elif kind not in _SILENT and getattr(step, "__name__", "") not in ("_convert_to_rgb", "_convert_image_to_rgb"):
            return None
    return Preprocess(**found) if {"size", "mean", "std"} <= set(found) else None


def _pair(size: Any) -> tuple[int, int]:
    sides = [size] if isinstance(size, int) else list(size)
    return int(sides[0]), int(sides[-1])


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _interpolation(mode: Any) -> Any:
    """Pillow's name of it: torchvision has an enumeration, timm a name or a number."""
    if isinstance(mode, int):
        return Image.Resampling(mode).name.lower()
    return getattr(mode, "value", mode)


def _is_known(given: Any) -> bool:
    """Whether it and all its steps are of libraries that are known, so that what they did once, they always do."""
    kinds = [part if hasattr(part, "__name__") else type(part) for part in _steps(given)]
    return all(kind.__module__.partition(".")[0] in _KNOWN for kind in kinds)


def _off(given: Any, read: Preprocess, scene: Callable[[Size], Image.Image]) -> float:
    """The largest difference between what was read and what it gives, in grey levels, over all test images."""
    worst, side, shorter = 0.0, max(read.size), read.shortest or min(read.size)
    sizes = [(round(down * side), round(across * side)) for down, across in _SHAPES]
    # Crops whose margin is a half of a pixel, or is not.
    sizes += [
        size for more in range(4) for long in [shorter + side // 4 + more] for size in ((shorter, long), (long, shorter))
    ]
    for size in sizes:
        image = scene(size)
        shown, ours = run(given, image), read.view(image)[0]
        if shown.shape != ours.shape:
            return inf
        levels = (shown.double() - ours).abs() * ours.new_tensor(read.std).abs()[:, None, None] * 255
        worst = max(worst, float(levels.max()))
    return worst


def _noise(size: Size) -> Image.Image:
    """A test image that no two filters bring to the same pixels."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))


def _smooth(size: Size) -> Image.Image:
    """A test image of waves across a slope, so that no two places look alike, nor much unlike their neighbours."""
    y, x = np.meshgrid(*(np.linspace(0, 1, count) for count in size), indexing="ij")
    waves = ((1.3, 2.1, 0.0), (2.2, -0.7, 1.0), (-1.1, 1.6, 2.0))
    colours = [128 + 60 * np.sin(2 * np.pi * (across * x + down * y) + start) + 30 * (x - y) for across, down, start in waves]
    return Image.fromarray(np.stack(colours, 2).round().astype(np.uint8))


def _measured(given: Any, alike: Preprocess | None) -> UserTransform:
    """The transform itself, tried on images of three aspects; larger ones if it fails on small ones."""
    try:
        found, largest = _try(given, 1)
    except TransformFailed as error:
        try:
            found, largest = _try(given, 4)
        except TransformFailed:
            raise error from None
    return UserTransform(given, found[-1], len(set(found)) > 1, largest, alike)


def _try(given: Any, scale: int) -> tuple[list[Size], float]:
    """The sizes of what it gives for images of three aspects, a square one last, and the largest absolute value.

    Raises:
        ImageError: it is random, or its window cannot be found.
    """
    found: list[Size] = []
    largest = 0.0
    for height, width in _SIZES:
        size = height * scale, width * scale
        image = _noise(size)
        first = run(given, image)
        largest = max(largest, float(first.abs().max()))
        repeats = range(1 if found else _REPEATS)
        if _chancy(given) or any(not torch.equal(run(given, image), first) for _ in repeats):
            raise ImageError(f"The transform {name_of(given)} is random; give the one for evaluation.")
        try:
            found.append(find_window(partial(run, given), size)[0])
        except ImageError as error:
            raise ImageError(
                f"{refusal(given, image, error)}; give one for evaluation, or a concept_cam Preprocess."
            ) from error
    return found, largest


def _chancy(given: Any) -> bool:
    """Whether a step of albumentations is applied only sometimes: it draws from generators of its own."""
    steps = list(_steps(given)) if "albumentations" in library_of(given) else []
    return any(0 < getattr(step, "p", 1) < 1 for step in steps)


def _steps(given: Any) -> Iterator[Any]:
    yield given
    for step in getattr(given, "transforms", ()):
        yield from _steps(step)


def preprocess_for(backbone: Backbone, fit: Fit | None, size: int | Size | None) -> Preparation:
    """The model's own, with what the user wants otherwise; a size that the model cannot take is found now.

    Args:
        backbone: the model.
        fit: how an image is made to fit the input; None for the model's own way.
        size: of the input in pixels, (height, width) or the side of a square; None for the model's own.

    Raises:
        OptionError: no such fit, a size below one, or a transform that is run as it is and has no other.
        BackboneError: the model cannot take that size.
    """
    own = backbone.preprocess
    if fit == own.fit:
        fit = None
    if fit is not None:
        check_fit(fit)
    wanted = own.size if size is None else (size, size) if isinstance(size, int) else (size[0], size[1])
    if min(wanted) < 1:
        raise OptionError(f"size is {size}; expected the side of a square, or (height, width), in pixels.")
    if isinstance(own, UserTransform) and (fit is not None or wanted != own.size):
        other = own.other(wanted, fit)
        backbone.at_size(wanted)
        return other
    if wanted != own.size:
        own = backbone.at_size(wanted).preprocess
    return own if fit is None else own.fitted(fit)
