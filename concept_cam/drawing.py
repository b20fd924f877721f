"""DRAW: heat maps on images, the base map beside the contrastive map, strips of strengths, maps by reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from concept_cam.comparison import Comparison
from concept_cam.errors import OptionError
from concept_cam.heat import blend, resized, upright
from concept_cam.images import Placement
from concept_cam.legend import lines_of, meaning, strip_of, with_legend
from concept_cam.lettering import Lettering, shortened, wrapped
from concept_cam.result import Localization

_COLOURS = ((230, 120, 0), (0, 114, 178), (0, 158, 115), (204, 80, 150), (240, 220, 60), (86, 180, 233), (110, 60, 20))
"""Colours of references: those of Okabe and Ito, which colour-blind readers can distinguish, slightly darker."""

_PANEL, _STRIP_PANEL, _CELL = 360, 180, 200
_MARGIN, _LINE, _LETTERS = 12, 20, 14
_INK = (30, 30, 30)


def overlay(localization: Localization, image: Image.Image, *, base: bool = False, legend: bool = False) -> Image.Image:
    """Overlay the evidence for the target on the image, at the size of the image unless it has a legend.

    Strong evidence is bright and opaque. Where there is none the image shows through, greyed; what the model did not see is
    darkened. Evidence against the target is not drawn. Each map is scaled to its own maximum.

    Args:
        localization: the result to draw.
        image: the image of that result.
        base: draw the base map instead of the contrastive map.
        legend: add a strip beneath the image that says what the colours mean. The upper part stays the same, pixel by pixel;
            a narrow image gets a white margin on the right.

    Raises:
        ImageError: the image does not have the size of the localized image.

    Example:
        >>> from concept_cam import drawing, world
        >>> plate = world.draw_species("ember finch", seed=3)
        >>> result = world.localizer()(plate.image, "ember finch", "frost finch")
        >>> drawing.overlay(result, plate.image).size, drawing.overlay(result, plate.image, legend=True).size
        ((384, 384), (384, 494))
    """
    image, grid = upright(image, localization.placement), localization.base_map if base else localization.map
    if legend:
        return with_legend(image, localization.placement, grid, localization.comparison, base=base)
    return blend(image, localization.placement, grid)


def side_by_side(localization: Localization, image: Image.Image, *, legend: bool = True) -> Image.Image:
    """Draw the image, the base map and the contrastive map side by side, with captions.

    Args:
        localization: the result to draw.
        image: the image of that result.
        legend: say beneath what the colours mean.

    Raises:
        ImageError: the image does not have the size of the localized image.

    Example:
        >>> from concept_cam import drawing, world
        >>> plate, localizer = world.draw_species("ember finch", seed=3), world.localizer()
        >>> result = localizer(plate.image, "ember finch", "frost finch")
        >>> drawing.side_by_side(result, plate.image).size
        (1128, 486)
    """
    image = upright(image, localization.placement)
    comparison = localization.comparison
    others = f" against {', '.join(comparison.references)}" if comparison.references else ""
    small, placement = resized(image, localization.placement, _PANEL)
    lines = lines_of(_of_both(comparison), placement, localization.base_map, localization.map)
    return _captioned(
        [
            (small, "image"),
            (blend(small, placement, localization.base_map), f"base map: {comparison.target}"),
            (blend(small, placement, localization.map), f"contrastive map: {comparison.target}{others}"),
        ],
        lines if legend else (),
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
    return blend(upright(image, placement), placement, grid)


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
    small, placement = resized(upright(image, placement), placement, _PANEL)
    lines = lines_of(f"evidence for {caption}", placement, grid)
    return _captioned([(small, "the image"), (blend(small, placement, grid), caption)], lines)


def strip(localizations: Sequence[Localization], image: Image.Image) -> Image.Image:
    """Draw the maps of one comparison at several strengths side by side, from ``Localizer.sweep``.

    Raises:
        ImageError: the image does not have the size of the localized image.

    Example:
        >>> from concept_cam import drawing, world
        >>> plate, localizer = world.draw_species("ember finch", seed=3), world.localizer()
        >>> maps = localizer.sweep(plate.image, "ember finch", "frost finch", strengths=(0.0, 0.6, 1.0))
        >>> drawing.strip(maps, plate.image).size
        (648, 306)
    """
    small, placement = resized(upright(image, localizations[0].placement), localizations[0].placement, _STRIP_PANEL)
    panels = [(blend(small, placement, one.map), f"strength {one.comparison.strength:g}") for one in localizations]
    asked = localizations[0].comparison
    others = f", minus strength x that for {', '.join(asked.references)}" if asked.references else ""
    return _captioned(panels, lines_of(f"evidence for {asked.target}{others}", placement, *(one.map for one in localizations)))


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
    small, placement = resized(upright(image, localizations[0].placement), localizations[0].placement, _PANEL)
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


def _of_both(comparison: Comparison) -> str:
    """What a bright place of the base map and of the contrastive map is evidence for."""
    own, contrastive = meaning(comparison, base=True), meaning(comparison)
    return own if contrastive == own else f"{own}; in the contrastive map{contrastive.removeprefix(own)[1:]}"


def _captioned(panels: Sequence[tuple[Image.Image, str]], legend: Sequence[str] = ()) -> Image.Image:
    """Panels of one size in a row, each with a caption of at most two lines; beneath them the legend."""
    width, height = panels[0][0].size
    cell = max(width, _CELL)
    font = Lettering(_LETTERS)
    captions = [wrapped(caption, font, cell, 2) for _, caption in panels]
    across = len(panels) * cell + (len(panels) + 1) * _MARGIN
    down = height + 2 * _MARGIN + max(map(len, captions)) * _LINE
    strip = strip_of(legend, across, _LETTERS) if legend else Image.new("RGB", (0, 0))
    sheet = Image.new("RGB", (max(across, strip.width), down + strip.height), "white")
    sheet.paste(strip, (0, down))
    write = ImageDraw.Draw(sheet)
    for i, ((panel, _), caption) in enumerate(zip(panels, captions, strict=True)):
        left = _MARGIN + i * (cell + _MARGIN)
        sheet.paste(panel, (left, _MARGIN))
        for k, line in enumerate(caption):
            font.write(write, (left, _MARGIN + height + 4 + k * _LINE), line, _INK)
    return sheet
