"""DRAW: a signed map as colours on its image."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from concept_cam.errors import ImageError
from concept_cam.images import Placement
from concept_cam.reading import seen

_RAMP = np.array([(70, 0, 90), (190, 20, 90), (250, 90, 30), (255, 190, 40), (255, 250, 170)], dtype=float)
"""Colours from weak to strong evidence, evenly spaced; brightness rises monotonically, so that grey prints stay readable."""


def upright(image: Image.Image, placement: Placement, what: str = "map") -> Image.Image:
    """The image, upright, after a check that its size is that of a map's image; do not draw on it.

    Args:
        image: the image of the map.
        placement: of the map.
        what: what the placement belongs to, for the message.

    Raises:
        ImageError: the image has another size.

    Example:
        >>> from PIL import Image
        >>> from concept_cam.heat import upright
        >>> from concept_cam.images import Placement
        >>> upright(Image.new("RGB", (6, 4)), Placement((0.0, 0.0, 6.0, 4.0), image_size=(4, 6))).size
        (6, 4)
    """
    image = seen(image)
    height, width = placement.image_size
    if image.size != (width, height):
        raise ImageError(
            f"The image is {image.width} x {image.height}, but the {what} is of one of {width} x {height} pixels; "
            "give the image that was localized."
        )
    return image


def resized(image: Image.Image, placement: Placement, side: int) -> tuple[Image.Image, Placement]:
    """The image resized to a longer side, and the placement of a map on it.

    Args:
        image: of the size that the placement is for.
        placement: of the map.
        side: the longer side, in pixels.

    Example:
        >>> small, placement = resized(Image.new("RGB", (60, 40)), Placement((0, 0, 60, 40), (40, 60)), 30)
        >>> small.size, placement.window
        ((30, 20), (0.0, 0.0, 30.0, 20.0))
    """
    scale = side / max(image.size)
    width, height = (max(1, round(length * scale)) for length in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS), placement.scaled((height, width))


def blend(
    image: Image.Image, placement: Placement, grid: Float[Tensor, "rows cols"], onto: Image.Image | None = None
) -> Image.Image:
    """Blend a signed map with its image: strong evidence is bright and opaque, the rest of the image is greyed.

    Args:
        image: upright, in RGB, of the size that the placement is for.
        placement: of the map.
        grid: the map; it is scaled to its own maximum.
        onto: a canvas to draw on, at its upper left corner; by default a new one of the size of the image.

    Example:
        >>> import torch
        >>> from concept_cam.images import Placement
        >>> blend(Image.new("RGB", (60, 40)), Placement((0, 0, 60, 40), (40, 60)), torch.eye(4)).size
        (60, 40)
    """
    grid = grid.float().cpu()
    # Without evidence for the target there is nothing to scale, and nothing above zero to draw.
    hottest = max(float(np.nanmax(heat.numpy(), initial=0.0)) for _, heat in placement.strips(grid)) or 1.0
    canvas = Image.new("RGB", image.size) if onto is None else onto
    # In strips: a large image in floating point would take gigabytes.
    for rows, heat in placement.strips(grid):
        strip = np.asarray(image.crop((0, rows.start, image.width, rows.stop)), dtype=np.float32)
        canvas.paste(Image.fromarray(coloured(strip, heat.numpy() / hottest)), (0, rows.start))
    return canvas


def coloured(
    image: Float[np.ndarray, "height width 3"], strength: Float[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "height width 3"]:
    """Pixels of an image under evidence from 0 to 1; negative values show as 0, NaN as not seen.

    Example:
        >>> coloured(np.full((1, 2, 3), 100.0), np.array([[0.0, 1.0]])).max(-1).tolist()
        [[111, 238]]
    """
    positive = np.nan_to_num(strength, nan=0.0).clip(0, 1)
    steps = np.linspace(0, 1, len(_RAMP))
    colours = np.stack([np.interp(positive, steps, _RAMP[:, channel]) for channel in range(3)], axis=-1)
    calm = 0.45 * image + 0.55 * (0.75 * image.mean(-1, keepdims=True) + 45)
    opacity = 0.88 * np.clip(1.6 * positive, 0, 1)[..., None]
    mixed = np.where(np.isnan(strength)[..., None], 0.4 * image, (1 - opacity) * calm + opacity * colours)
    pixels: UInt8[np.ndarray, "height width 3"] = mixed.round().clip(0, 255).astype(np.uint8)
    return pixels
