"""IMAGE IN: read an image file or a PIL image as upright RGB pixels, or as the levels of a mask."""

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
"""Number of pixels that are converted at once."""


def read_image(source: Source | bytes, name: str | None = None) -> Image.Image:
    """Read an image in RGB, upright; of an animation, the first frame.

    Transparency is composed onto white, 16-bit greys (Pillow's modes that start with I) are scaled to 8 bits, CMYK and
    palettes are converted. The format is recognised by the content, not by the name; see ``formats.FORMATS``. A damaged EXIF
    block is ignored, and the image keeps its stored orientation.

    Args:
        source: a path, the content of a file, or a PIL image, which is not changed.
        name: of the image in messages; by default the path.

    Raises:
        ImageError: the file is missing, empty, truncated, too large or not an image; ``decoding`` has the limits.

    Example:
        >>> from PIL import Image
        >>> from concept_cam.images import read_image
        >>> read_image(Image.new("L", (6, 4))).mode
        'RGB'
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
    """The result of ``read_image`` for a PIL image, or the image itself if it is equal; do not draw on it.

    Raises:
        ImageError: the image cannot be read.
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
    """Read the levels (or palette indices) of a one-channel image, upright and unscaled.

    Args:
        source: a path, or the content of a file.
        name: of the image in messages; by default the path.
        kind: class of the error that is raised.

    Raises:
        ConceptCamError: of that class: the image cannot be read, or has several channels.

    Example:
        >>> import io
        >>> from concept_cam.images import read_levels
        >>> file = io.BytesIO()
        >>> Image.new("L", (3, 2), 7).save(file, "PNG")
        >>> read_levels(file.getvalue()).tolist()
        [[7, 7, 7], [7, 7, 7]]
    """
    file, called = located(source, name)
    with opened(file, called, kind, "mask") as stored:
        if stored.image.mode not in ("1", "L", "P", "I") and not stored.image.mode.startswith("I;16"):
            raise kind(f"{called}: a mask has one channel of levels; this one is {stored.image.mode}.")
        return upright(np.array(stored.pixels()), stored.orientation)


def _told(image: Image.Image) -> int:
    """The orientation of a PIL image; 1 (upright) if its EXIF block is damaged."""
    try:
        found = image.getexif().get(0x0112)
    except Exception:  # noqa: BLE001 - Pillow raises what it likes on a damaged block
        return 1
    return found if isinstance(found, int) and found in TURNS else 1


def _upright_rgb(image: Image.Image, orientation: int, name: str) -> Image.Image:
    width, height = image.size
    scale = _scale(image, name)
    rgb = Image.new("RGB", (height, width) if orientation >= 5 else (width, height))
    # In strips, so that little memory is needed beside the stored and the converted image.
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
    """The divisor of the values of a grey image; 0 for 8 bits per channel."""
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
