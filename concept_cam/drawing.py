"""DRAW: heat maps on images, the base map beside the contrastive map, strips of strengths, maps by reference."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from concept_cam.errors import ImageError, OptionError
from concept_cam.images import Placement
from concept_cam.lettering import Lettering
from concept_cam.reading import seen
from concept_cam.result import Localization

_RAMP = np.array([(70, 0, 90), (190, 20, 90), (250, 90, 30), (255, 190, 40), (255, 250, 170)], dtype=float)
"""Colours from weak to strong evidence, evenly spaced; brightness rises monotonically, so that grey prints stay readable."""

_COLOURS = ((230, 120, 0), (0, 114, 178), (0, 158, 115), (204, 80, 150), (240, 220, 60), (86, 180, 233), (110, 60, 20))
"""Colours of references: those of Okabe and Ito, which colour-blind readers can distinguish, slightly darker."""

_PANEL, _STRIP_PANEL, _CELL = 360, 180, 200
_MARGIN, _LINE, _LETTERS = 12, 20, 14
_INK = (30, 30, 30)


def overlay(localization: Localization, image: Image.Image, *, base: bool = False) -> Image.Image:
    """Overlay the evidence for the target on the image, at the size of the image.

    Strong evidence is bright and opaque. Where there is none the image shows through, greyed; what the model did not see is
    darkened. Evidence against the target is not drawn. Each map is scaled to its own maximum.

    Args:
        localization: the result to draw.
        image: the image of that result.
        base: draw the base map instead of the contrastive map.

    Raises:
        ImageError: the image does not have the size of the localized image.

    Example:
        >>> from concept_cam import drawing, world
        >>> plate = world.draw_species("ember finch", seed=3)
        >>> result = world.localizer()(plate.image, "ember finch", "frost finch")
        >>> drawing.overlay(result, plate.image).size
        (384, 384)
    """
    image = upright(image, localization.placement)
    return _blend(image, localization.placement, localization.base_map if base else localization.map)


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
        >>> from concept_cam.drawing import upright
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


def _blend(image: Image.Image, placement: Placement, grid: Float[Tensor, "rows cols"]) -> Image.Image:
    grid = grid.float().cpu()
    # Without evidence for the target there is nothing to scale, and nothing above zero to draw.
    hottest = max(float(np.nanmax(heat.numpy(), initial=0.0)) for _, heat in placement.strips(grid)) or 1.0
    blended = image.copy()
    # In strips: a large image in floating point would take gigabytes.
    for rows, heat in placement.strips(grid):
        strip = np.asarray(image.crop((0, rows.start, image.width, rows.stop)), dtype=np.float32)
        blended.paste(Image.fromarray(_heat(strip, heat.numpy() / hottest)), (0, rows.start))
    return blended


def _heat(
    image: Float[np.ndarray, "height width 3"], strength: Float[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "height width 3"]:
    """Pixels of an image under evidence from 0 to 1; negative values show as 0, NaN as not seen."""
    positive = np.nan_to_num(strength, nan=0.0).clip(0, 1)
    steps = np.linspace(0, 1, len(_RAMP))
    colours = np.stack([np.interp(positive, steps, _RAMP[:, channel]) for channel in range(3)], axis=-1)
    calm = 0.45 * image + 0.55 * (0.75 * image.mean(-1, keepdims=True) + 45)
    opacity = 0.88 * np.clip(1.6 * positive, 0, 1)[..., None]
    mixed = np.where(np.isnan(strength)[..., None], 0.4 * image, (1 - opacity) * calm + opacity * colours)
    pixels: UInt8[np.ndarray, "height width 3"] = mixed.round().clip(0, 255).astype(np.uint8)
    return pixels


def side_by_side(localization: Localization, image: Image.Image) -> Image.Image:
    """Draw the image, the base map and the contrastive map side by side, with captions.

    Raises:
        ImageError: the image does not have the size of the localized image.

    Example:
        >>> from concept_cam import drawing, world
        >>> plate, localizer = world.draw_species("ember finch", seed=3), world.localizer()
        >>> result = localizer(plate.image, "ember finch", "frost finch")
        >>> drawing.side_by_side(result, plate.image).size
        (1128, 424)
    """
    image = upright(image, localization.placement)
    comparison = localization.comparison
    others = f" against {', '.join(comparison.references)}" if comparison.references else ""
    small, placement = _small(image, localization.placement, _PANEL)
    return _captioned(
        [
            (small, "image"),
            (_blend(small, placement, localization.base_map), f"base map: {comparison.target}"),
            (_blend(small, placement, localization.map), f"contrastive map: {comparison.target}{others}"),
        ]
    )


def map_on(image: Image.Image, placement: Placement, grid: Float[Tensor, "rows cols"]) -> Image.Image:
    """A signed map on its image, as ``overlay`` draws it.

    Args:
        image: that the map is of.
        placement: of the map.
        grid: the map.

    Raises:
        ImageError: the image is not of the size that the placement is for.

    Example:
        >>> import torch
        >>> from PIL import Image
        >>> from concept_cam.images import Placement
        >>> map_on(Image.new("RGB", (60, 40)), Placement((0, 0, 60, 40), (40, 60)), torch.eye(4)).size
        (60, 40)
    """
    return _blend(upright(image, placement), placement, grid)


def map_beside(image: Image.Image, placement: Placement, grid: Float[Tensor, "rows cols"], caption: str) -> Image.Image:
    """The image, and a signed map on it with its caption.

    Args:
        image: that the map is of.
        placement: of the map.
        grid: the map.
        caption: of the map, such as its target.

    Raises:
        ImageError: the image is not of the size that the placement is for.

    Example:
        >>> import torch
        >>> from PIL import Image
        >>> from concept_cam.images import Placement
        >>> map_beside(Image.new("RGB", (60, 40)), Placement((0, 0, 60, 40), (40, 60)), torch.eye(4), "a finch").width
        756
    """
    small, placement = _small(upright(image, placement), placement, _PANEL)
    return _captioned([(small, "the image"), (_blend(small, placement, grid), caption)])


def strip(localizations: Sequence[Localization], image: Image.Image) -> Image.Image:
    """Draw the maps of one comparison at several strengths side by side, from ``Localizer.sweep``.

    Raises:
        ImageError: the image does not have the size of the localized image.

    Example:
        >>> from concept_cam import drawing, world
        >>> plate, localizer = world.draw_species("ember finch", seed=3), world.localizer()
        >>> maps = localizer.sweep(plate.image, "ember finch", "frost finch", strengths=(0.0, 0.6, 1.0))
        >>> drawing.strip(maps, plate.image).size
        (648, 244)
    """
    small, placement = _small(upright(image, localizations[0].placement), localizations[0].placement, _STRIP_PANEL)
    return _captioned([(_blend(small, placement, one.map), f"strength {one.comparison.strength:g}") for one in localizations])


def by_reference(localizations: Sequence[Localization], image: Image.Image) -> Image.Image:
    """Colour each pixel by the reference against which its evidence is strongest, from ``Localizer.against_each``.

    Pixels without positive evidence have no colour; the stronger the evidence, the more opaque the colour.

    Raises:
        ImageError: the image does not have the size of the localized image.
        OptionError: there are more references than colours.

    Example:
        >>> from concept_cam import drawing, world
        >>> plate, localizer = world.draw_species("ember finch", seed=3), world.localizer()
        >>> maps = localizer.against_each(plate.image, "ember finch", ["frost finch", "willow finch"])
        >>> drawing.by_reference(maps, plate.image).width
        384
    """
    if len(localizations) > len(_COLOURS):
        raise OptionError(f"{len(localizations)} references; there are {len(_COLOURS)} colours, so give at most that many.")
    small, placement = _small(upright(image, localizations[0].placement), localizations[0].placement, _PANEL)
    maps = np.stack([placement.project(one.map.float().cpu()).numpy() for one in localizations])
    strongest = np.nan_to_num(maps.max(0), nan=0.0).clip(min=0)
    opacity = 0.85 * np.sqrt(strongest / (strongest.max() or 1.0))[..., None]
    colours = np.array(_COLOURS, dtype=float)[np.nan_to_num(maps, nan=-np.inf).argmax(0)]
    pixels = np.asarray(small, dtype=float)
    calm = 0.45 * pixels + 0.55 * (0.75 * pixels.mean(-1, keepdims=True) + 45)
    mixed = Image.fromarray(((1 - opacity) * calm + opacity * colours).round().clip(0, 255).astype(np.uint8))
    sheet = _captioned([(mixed, f"{localizations[0].comparison.target} against")])
    legend = Image.new("RGB", (sheet.width, len(localizations) * _LINE + _MARGIN), "white")
    write, font = ImageDraw.Draw(legend), Lettering(_LETTERS)
    for k, (one, colour) in enumerate(zip(localizations, _COLOURS, strict=False)):
        write.rectangle((_MARGIN, k * _LINE + 3, _MARGIN + 12, k * _LINE + 15), fill=colour)
        name = shortened(one.comparison.references[0], font, sheet.width - 4 * _MARGIN)
        font.write(write, (_MARGIN + 20, k * _LINE), name, _INK)
    whole = Image.new("RGB", (sheet.width, sheet.height + legend.height), "white")
    whole.paste(sheet)
    whole.paste(legend, (0, sheet.height))
    return whole


def _small(image: Image.Image, placement: Placement, side: int) -> tuple[Image.Image, Placement]:
    """The image resized to a longer side, and the placement of the map on it."""
    scale = side / max(image.size)
    width, height = (max(1, round(length * scale)) for length in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS), placement.scaled((height, width))


def _captioned(panels: Sequence[tuple[Image.Image, str]]) -> Image.Image:
    """Panels of one size in a row, each with a caption of at most two lines."""
    width, height = panels[0][0].size
    cell = max(width, _CELL)
    sheet = Image.new("RGB", (len(panels) * cell + (len(panels) + 1) * _MARGIN, height + 2 * _MARGIN + 2 * _LINE), "white")
    write, font = ImageDraw.Draw(sheet), Lettering(_LETTERS)
    for i, (panel, caption) in enumerate(panels):
        left = _MARGIN + i * (cell + _MARGIN)
        sheet.paste(panel, (left, _MARGIN))
        for k, line in enumerate(_wrapped(caption, font, cell)):
            font.write(write, (left, _MARGIN + height + 4 + k * _LINE), line, _INK)
    return sheet


def _wrapped(text: str, font: Lettering, width: int) -> list[str]:
    """The text in at most two lines; a longer text ends in an ellipsis."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > 2:
        lines = [lines[0], " ".join(lines[1:])]
    return [shortened(line, font, width) for line in lines]


def shortened(line: str, font: Lettering, width: float) -> str:
    """The line, shortened with an ellipsis to a width.

    Args:
        line: a text.
        font: measures it.
        width: largest width in pixels.

    Example:
        >>> from concept_cam.drawing import shortened
        >>> from concept_cam.lettering import Lettering
        >>> shortened("a very long name of a species", Lettering(14), 100)
        'a very long ...'
    """
    if font.getlength(line) <= width:
        return line
    # The longest beginning that fits, by bisection: a label may have any length.
    fits = bisect_left(range(len(line)), True, key=lambda end: font.getlength(f"{line[: end + 1]} ...") > width)
    return f"{line[:fits].rstrip(', ')} ..."
