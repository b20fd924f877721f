"""Results become pictures: heat on the picture, and the base map beside the finer one."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from concept_cam.images import read_picture
from concept_cam.result import Localization

_RAMP = np.array([(70, 0, 90), (190, 20, 90), (250, 90, 30), (255, 190, 40), (255, 250, 170)], dtype=float)
"""Colours from faint to strong evidence, evenly spaced; brightness rises throughout, so that grey prints read right."""

_PANEL = 360
_MARGIN, _LINE = 12, 20


def overlay(localization: Localization, picture: Image.Image, *, base: bool = False) -> Image.Image:
    """The evidence for the target on the picture, at the picture's own size.

    Strong evidence is bright and opaque, none shows the picture, greyed; what the model did not see is darkened. Evidence
    against the target is not drawn. Every map is scaled to its own maximum.
    """
    return Image.fromarray(_blend(np.asarray(read_picture(picture)), localization.heatmap(base=base)))


def _blend(
    picture: UInt8[np.ndarray, "height width 3"], heatmap: Float[Tensor, "height width"]
) -> UInt8[np.ndarray, "height width 3"]:
    unseen = heatmap.isnan().numpy()[..., None]
    heat = heatmap.nan_to_num(nan=0.0).clamp(min=0).double()
    strength = (heat / heat.max().clamp(min=torch.finfo(heat.dtype).tiny)).numpy()
    colours = np.stack([np.interp(strength, np.linspace(0, 1, len(_RAMP)), _RAMP[:, c]) for c in range(3)], axis=-1)
    calm = 0.45 * picture + 0.55 * (0.75 * picture.mean(-1, keepdims=True) + 45)
    opacity = 0.88 * np.clip(1.6 * strength, 0, 1)[..., None]
    blended: np.ndarray = np.where(unseen, 0.4 * picture, (1 - opacity) * calm + opacity * colours)
    pixels: UInt8[np.ndarray, "height width 3"] = blended.round().clip(0, 255).astype(np.uint8)
    return pixels


def side_by_side(localization: Localization, picture: Image.Image) -> Image.Image:
    """The picture, the base map and the finer map, with captions."""
    picture = read_picture(picture)
    comparison = localization.comparison
    others = ", ".join(comparison.references) or "nothing"
    panels = [
        (picture, "the picture"),
        (overlay(localization, picture, base=True), f"{comparison.target}"),
        (overlay(localization, picture), f"{comparison.target}, not {others}"),
    ]
    scale = _PANEL / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    cell = max(width, 200)
    sheet = Image.new("RGB", (3 * cell + 4 * _MARGIN, height + 2 * _MARGIN + 2 * _LINE), "white")
    write, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for i, (panel, caption) in enumerate(panels):
        left = _MARGIN + i * (cell + _MARGIN)
        sheet.paste(panel.resize((width, height), Image.Resampling.LANCZOS), (left, _MARGIN))
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
