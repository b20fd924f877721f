"""Images for a report: the evidence on one of them, drawn at full size beside the page and small on it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from concept_cam.audit.explored import Explored
from concept_cam.audit.findings import Audit
from concept_cam.audit.maps import Drawing
from concept_cam.drawing import map_beside, map_on
from concept_cam.errors import ImageError
from concept_cam.files import write_image
from concept_cam.page import Thumbnail

IMAGES = "images"
"""The folder of full images, beside the page."""

_SMALL = 224
_LONGEST = 100
"""Letters of a file name that are to be read."""

_WARM, _COLD = (
    torch.tensor([[200.0, 40, 20]], dtype=torch.float32, device="cpu"),
    torch.tensor([[30.0, 80, 190]], dtype=torch.float32, device="cpu"),
)


@final
@dataclass(frozen=True, eq=False)
class Thumbnails:
    """Draws the maps of an audit on its images, each of which is read again; the model is not needed.

    Attributes:
        audit: whose.
        folder: of the page; full images go into its ``images/``.
        prefix: of their names.
        explorer: that images are linked to, if there is one.
    """

    audit: Audit
    folder: Path
    prefix: str = ""
    explorer: Explored | None = None
    _drawn: dict[str, Thumbnail] = field(default_factory=dict)

    def decision(self, at: int, caption: str | None = None) -> Thumbnail | None:
        """The evidence for the prediction of an image against its runner-up.

        Args:
            at: the position of its row in ``Audit.good``.
            caption: by default the name of the image.

        Returns:
            None if the image is gone or has changed.
        """
        row = self.audit.good[at]
        drawing = self.audit.drawings([at])[at]
        return self._draw(at, drawing, drawing.decision, (row.predicted, [row.runner_up]), caption)

    def background(self, at: int, caption: str | None = None) -> Thumbnail | None:
        """Where an image shows the background that moves it most, and no other.

        Args:
            at: the position of its row in ``Audit.good``.
            caption: by default the name of the image.

        Returns:
            None if the image is gone or has changed, or has no such map.
        """
        text, drawing = self.audit.good[at].background, self.audit.drawings([at])[at]
        others = [other for other in self.audit.setup.backgrounds if other != text]
        if drawing.scene is None or not drawing.scene.any():
            return None
        return self._draw(at, drawing, drawing.scene, (text, others), caption)

    def _draw(
        self,
        at: int,
        drawing: Drawing,
        grid: Float[Tensor, "rows cols"],
        compared: tuple[str, Sequence[str]],
        caption: str | None,
    ) -> Thumbnail | None:
        target, references = compared
        row = self.audit.good[at]
        name = f"{self.prefix}{_file_name(self.audit.numbers[at], row.image, target, references)}"
        if name not in self._drawn:
            try:
                image = drawing.image(self.audit.folder)
                # A copy that was kept is smaller than the image.
                size = (image.height, image.width)
                placement = drawing.placement if drawing.digest else drawing.placement.scaled(size)
                sheet = map_beside(image, placement, grid, f"{target}, not {', '.join(references)}")
            except ImageError:
                return None
            write_image(self.folder / IMAGES / name, sheet)
            small = image.copy()
            small.thumbnail((_SMALL, _SMALL), Image.Resampling.LANCZOS)
            overlay = map_on(small, placement.scaled((small.height, small.width)), grid)
            explore = None
            if self.explorer is not None:
                whole, strength = image if drawing.digest else None, self.audit.setup.strength
                explore = self.explorer.link(self.audit.numbers[at], row.image, whole, compared, strength)
            self._drawn[name] = Thumbnail(overlay, "", f"{IMAGES}/{name}", explore)
        drawn = self._drawn[name]
        return Thumbnail(drawn.image, row.image if caption is None else caption, drawn.link, drawn.explore)


def mean_map(map_: Float[Tensor, "side side"], caption: str) -> Thumbnail:
    """A signed map alone: warm for the first concept, cold for the second, white for neither."""
    strength = (map_ / map_.abs().amax().clamp(min=torch.finfo(map_.dtype).tiny))[..., None].float()
    colour = torch.where(strength > 0, _WARM, _COLD)
    pixels = 255 + strength.abs() * (colour - 255)
    image = Image.fromarray(pixels.round().clamp(0, 255).to(torch.uint8).numpy())
    return Thumbnail(image.resize((_SMALL, _SMALL), Image.Resampling.BICUBIC), caption)


def _file_name(index: int, image: str, target: str, references: Sequence[str]) -> str:
    """Which image it is and what is drawn on it, to be read; and a digest, for names of which nothing can be read."""
    what = f"{_slug(image)}-{_slug(target)}" + (f"-not-{_slug(references[0])}" if len(references) == 1 else "")
    digest = hashlib.sha256("\n".join((target, *references)).encode(errors="replace")).hexdigest()[:8]
    return f"{index:05d}-{what[:_LONGEST].strip('-')}-{digest}.png"


def _slug(text: str) -> str:
    return re.sub(r"[^0-9a-z]+", "-", text.lower()).strip("-")
