"""The image processors of transformers, read as a Preprocess."""

from __future__ import annotations

from math import isqrt
from typing import Any

from PIL import Image

from concept_cam.errors import BackboneError
from concept_cam.images import Fit, Preprocess, Size

_CROPPED_BELOW = 384
"""ConvNeXt's processor crops to inputs below this, and squashes to those above."""


def read_processor(given: Any) -> Preprocess:
    """What an image processor of transformers does, without running it.

    Pixels are Pillow's: processors that resize by torchvision differ by a few grey levels.

    Raises:
        BackboneError: it does not say to what size it brings an image.

    Example:
        >>> from transformers import SiglipImageProcessor
        >>> read_processor(SiglipImageProcessor(size={"height": 256, "width": 256})).fit
        'squash'
    """
    mean, std = _scale(given)
    common: dict[str, Any] = {
        "mean": mean,
        "std": std,
        "interpolation": Image.Resampling(int(given.resample)).name.lower(),
    }
    if getattr(given, "max_num_patches", None):
        size = near_square(given.max_num_patches, given.patch_size)
        return Preprocess(size, fit="native", stride=given.patch_size, **common)
    sides, crop = dict(given.size or {}), dict(getattr(given, "crop_size", None) or {})
    side = sides.get("shortest_edge")
    if not side and "height" not in sides:
        raise BackboneError(f"{type(given).__name__} says no size that is known ({sides}); give a concept_cam Preprocess.")
    if side and side < _CROPPED_BELOW and getattr(given, "crop_pct", None):
        return Preprocess((side, side), shortest=int(side / given.crop_pct), **common)
    fit: Fit = "crop" if side else "squash"
    before = (side, side) if side else (sides["height"], sides["width"])
    if getattr(given, "do_center_crop", False) and crop:
        return Preprocess((crop["height"], crop["width"]), fit=fit, shortest=min(before), **common)
    return Preprocess(before, fit="squash", **common)


def _scale(given: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation on a scale where white is 1, of all that a processor does to values."""
    white = 255 * given.rescale_factor if getattr(given, "do_rescale", True) else 255.0
    # EfficientNet's, for ALIGN: values may be moved to -1 to 1 first, and divided by the deviation twice.
    moved = float(bool(getattr(given, "rescale_offset", False)))
    normalized = getattr(given, "do_normalize", True)
    means = given.image_mean if normalized else (0.0,) * 3
    deviations = given.image_std if normalized else (1.0,) * 3
    again = given.image_std if getattr(given, "include_top", False) else (1.0,) * 3
    mean = tuple((moved + m) / white for m in means)
    return mean, tuple(s * a / white for s, a in zip(deviations, again, strict=True))


def near_square(patches: int, side: int) -> Size:
    """The size of a grid of so many patches that is nearest to a square."""
    rows = next(n for n in range(isqrt(patches), 0, -1) if patches % n == 0)
    return rows * side, patches // rows * side
