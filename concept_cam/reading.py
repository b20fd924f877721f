"""IMAGE IN: what is in an image file, or in a PIL image, as RGB pixels or levels of a mask that lie upright."""

from __future__ import annotations

from os import PathLike

import numpy as np
from jaxtyping import Shaped
from PIL import Image

from concept_cam.decoding import check_size, located, opened, refusing
from concept_cam.errors import ConceptCamError, ImageError
from concept_cam.exif import TURNS, upright

Source = str | PathLike[str] | Image.Image

_STRIP = 1 << 20
"""Pixels that are converted at once."""


def read_image(source: Source | bytes, name: str | None = None) -> Image.Image:
    """Read an image as a person sees it: RGB, upright, the first frame of an animation.

    Transparency is laid on white, 16-bit greys (Pillow's modes that begin with I) are scaled to 8 bits, CMYK and palettes are
    converted. A file is opened by what is in it: ``formats.FORMATS`` are read, whatever it is called. A damaged EXIF block
    counts as none: the image is then upright as it is stored.

    Args:
        source: a path, what is in such a file, or a PIL image, which is left as it is.
        name: what messages call it; by default the path.

    Raises:
        ImageError: the file is missing, empty, cut short, too large or not an image. See ``decoding`` for the limits.
    """
    if isinstance(source, Image.Image):
        called = name or "the image"
        with refusing(called):
            check_size(source.size, called)
            source.load()
            return _upright_rgb(source, _told(source), called)
    if not isinstance(source, str | PathLike | bytes):
        raise ImageError(f"{type(source).__name__} is no image; expected a path or a PIL image (Image.fromarray makes one).")
    file, called = located(source, name)
    with opened(file, called) as stored:
        image = stored.pixels()
        if image.mode == "RGB" and stored.orientation == 1 and not image.has_transparency_data:
            return image
        return _upright_rgb(image, stored.orientation, called)


def seen(image: Image.Image) -> Image.Image:
    """What ``read_image`` gives of a PIL image, or the image itself if that is the same; not to be drawn on.

    Raises:
        ImageError: it cannot be read.
    """
    with refusing("the image"):
        check_size(image.size, "the image")
        image.load()
        if image.mode == "RGB" and _told(image) == 1 and not image.has_transparency_data:
            return image
    return read_image(image)


def read_levels(
    source: str | PathLike[str] | bytes, name: str | None = None, kind: type[ConceptCamError] = ImageError
) -> Shaped[np.ndarray, "height width"]:
    """The levels, or palette indices, of an upright image of one channel, as they are stored.

    Args:
        source: a file, or what is in one.
        name: what messages call it; by default the path.
        kind: of the error that is raised.

    Raises:
        ConceptCamError: of that kind: it cannot be read, or has several channels.
    """
    file, called = located(source, name)
    with opened(file, called, kind, "mask") as stored:
        if stored.image.mode not in ("1", "L", "P", "I") and not stored.image.mode.startswith("I;16"):
            raise kind(f"{called}: a mask has one channel of levels; this one is {stored.image.mode}.")
        return upright(np.array(stored.pixels()), stored.orientation)


def _told(image: Image.Image) -> int:
    """The orientation of a PIL image; upright if its EXIF block is damaged."""
    try:
        found = image.getexif().get(0x0112)
    except Exception:  # noqa: BLE001 - Pillow raises what it likes on a damaged block
        return 1
    return found if isinstance(found, int) and found in TURNS else 1


def _upright_rgb(image: Image.Image, orientation: int, name: str) -> Image.Image:
    width, height = image.size
    scale = _scale(image, name)
    rgb = Image.new("RGB", (height, width) if orientation >= 5 else (width, height))
    # In strips: besides the image as it is stored and as it will be, little is held.
    rows = max(1, _STRIP // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        strip = _rgb(image.crop((0, top, width, bottom)), scale)
        if orientation in TURNS:
            strip = strip.transpose(TURNS[orientation])
        place = height - bottom if orientation in (3, 4, 6, 7) else top
        rgb.paste(strip, (place, 0) if orientation >= 5 else (0, place))
    if "icc_profile" in image.info:
        rgb.info["icc_profile"] = image.info["icc_profile"]
    return rgb


def _scale(image: Image.Image, name: str) -> int:
    """What the values of a grey image are divided by; 0 for one of 8 bits a channel."""
    if image.mode == "F":
        raise ImageError(f"{name}: floating-point values have no agreed range; convert it to 8 or 16 bits.")
    if image.mode != "I":
        return 257 if image.mode.startswith("I;16") else 0
    low, high = image.getextrema()
    if not (isinstance(low, int) and isinstance(high, int) and low >= 0 and high <= 65535):
        raise ImageError(f"{name}: 32-bit values from {low:.0f} to {high:.0f}; expected 8 or 16 bits.")
    # Mode I alone may hold 8 bits as well.
    return 1 if high <= 255 else 257


def _rgb(strip: Image.Image, scale: int) -> Image.Image:
    if scale:
        # Pillow's own conversion of 16-bit greys would clip them at 255.
        values = np.asarray(strip).astype(np.int32)
        strip = Image.fromarray(((values + scale // 2) // scale).astype(np.uint8))
    if strip.has_transparency_data:
        layer = strip.convert("RGBA")
        strip = Image.new("RGBA", layer.size, "white")
        strip.alpha_composite(layer)
    return strip.convert("RGB")
