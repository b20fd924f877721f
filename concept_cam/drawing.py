"""Results become pictures: heat on the picture, and the base map beside the finer one."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from concept_cam.errors import PictureError
from concept_cam.images import Placement, read_picture
from concept_cam.result import Localization

_RAMP = np.array([(70, 0, 90), (190, 20, 90), (250, 90, 30), (255, 190, 40), (255, 250, 170)], dtype=float)
"""Colours from faint to strong evidence, evenly spaced; brightness rises throughout, so that grey prints read right."""

_PANEL = 360
_STRIP = 256
_MARGIN, _LINE = 12, 20


def overlay(localization: Localization, picture: Image.Image, *, base: bool = False) -> Image.Image:
    """The evidence for the target on the picture, at the picture's own size.

    Strong evidence is bright and opaque, none shows the picture, greyed; what the model did not see is darkened. Evidence
    against the target is not drawn. Every map is scaled to its own maximum.

    Raises:
        PictureError: the picture is not of the size that was localized.

    Example:
        >>> from concept_cam import drawing, fieldguide
        >>> plate = fieldguide.draw_species("ember finch", seed=3)
        >>> result = fieldguide.localizer()(plate.picture, "ember finch", "frost finch")
        >>> drawing.overlay(result, plate.picture).size
        (384, 384)
    """
    picture = _same(picture, localization)
    return _blend(picture, localization.placement, localization.base_map if base else localization.map)


def _same(picture: Image.Image, localization: Localization) -> Image.Image:
    """The picture upright, if it can be the one that was localized."""
    picture = read_picture(picture)
    height, width = localization.placement.picture_size
    if picture.size != (width, height):
        raise PictureError(
            f"The picture is {picture.width} x {picture.height}, but the map is of one of {width} x {height} pixels; "
            "draw on the picture that was localized."
        )
    return picture


def _blend(picture: Image.Image, placement: Placement, grid: Float[Tensor, "rows cols"]) -> Image.Image:
    heatmap = placement.project(grid).numpy()
    # Without evidence for the target there is nothing to scale, and nothing above zero to draw.
    hottest = float(np.nanmax(heatmap, initial=0.0)) or 1.0
    blended = picture.copy()
    # In strips: a large picture in floating point would take gigabytes.
    for top in range(0, picture.height, _STRIP):
        strip = np.asarray(picture.crop((0, top, picture.width, min(top + _STRIP, picture.height))), dtype=np.float32)
        blended.paste(Image.fromarray(_heat(strip, heatmap[top : top + _STRIP] / hottest)), (0, top))
    return blended


def _heat(
    picture: Float[np.ndarray, "height width 3"], strength: Float[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "height width 3"]:
    """Pixels of a picture under evidence from 0 to 1; less than 0 shows as none, NaN as not seen."""
    positive = np.nan_to_num(strength, nan=0.0).clip(0, 1)
    steps = np.linspace(0, 1, len(_RAMP))
    colours = np.stack([np.interp(positive, steps, _RAMP[:, channel]) for channel in range(3)], axis=-1)
    calm = 0.45 * picture + 0.55 * (0.75 * picture.mean(-1, keepdims=True) + 45)
    opacity = 0.88 * np.clip(1.6 * positive, 0, 1)[..., None]
    mixed = np.where(np.isnan(strength)[..., None], 0.4 * picture, (1 - opacity) * calm + opacity * colours)
    pixels: UInt8[np.ndarray, "height width 3"] = mixed.round().clip(0, 255).astype(np.uint8)
    return pixels


def side_by_side(localization: Localization, picture: Image.Image) -> Image.Image:
    """The picture, the base map and the finer map, with captions.

    Raises:
        PictureError: the picture is not of the size that was localized.
    """
    picture = _same(picture, localization)
    comparison = localization.comparison
    others = ", ".join(comparison.references) or "nothing"
    scale = _PANEL / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    small = picture.resize((width, height), Image.Resampling.LANCZOS)
    placement = localization.placement.scaled((height, width))
    panels = [
        (small, "the picture"),
        (_blend(small, placement, localization.base_map), comparison.target),
        (_blend(small, placement, localization.map), f"{comparison.target}, not {others}"),
    ]
    cell = max(width, 200)
    sheet = Image.new("RGB", (3 * cell + 4 * _MARGIN, height + 2 * _MARGIN + 2 * _LINE), "white")
    write, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for i, (panel, caption) in enumerate(panels):
        left = _MARGIN + i * (cell + _MARGIN)
        sheet.paste(panel, (left, _MARGIN))
        for k, line in enumerate(_wrapped(caption, font, cell)):
            write.text((left, _MARGIN + height + 4 + k * _LINE), line, fill=(30, 30, 30), font=font)
    return sheet


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """At most two lines; what does not fit ends in an ellipsis."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > 2:
        lines = [lines[0], " ".join(lines[1:])]
    return [_shortened(line, font, width) for line in lines]


def _shortened(line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(f"{line} ...") > width:
        line = line[:-1]
    return f"{line.rstrip(', ')} ..."
