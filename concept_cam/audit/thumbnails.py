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
from PIL import Image, ImageChops, ImageFilter
from torch import Tensor

from concept_cam.audit.columns import AuditRow
from concept_cam.audit.explored import Explored
from concept_cam.audit.findings import Audit
from concept_cam.audit.maps import Drawing
from concept_cam.drawing import map_beside, map_on
from concept_cam.errors import ImageError
from concept_cam.files import write_image
from concept_cam.images import Placement
from concept_cam.metrics import strongest
from concept_cam.page import Thumbnail

IMAGES = "images"
"""The folder of full images, beside the page."""

_SIDE = 320
_MASKED = 0.05
_GREY = (128, 128, 128)
_OUTLINE = (214, 0, 160)
_LONGEST = 100
"""Letters of a file name that are to be read."""

_WARM, _COLD = (
    torch.tensor([[200.0, 40, 20]], dtype=torch.float32, device="cpu"),
    torch.tensor([[30.0, 80, 190]], dtype=torch.float32, device="cpu"),
)


@final
@dataclass(frozen=True, eq=False)
class _Drawn:
    """An image, small, with a map."""

    image: Image.Image
    placement: Placement
    overlay: Image.Image
    link: str
    explore: str | None

    def as_thumbnail(self, image: Image.Image, caption: str) -> Thumbnail:
        explore = self.explore if image is self.overlay else None
        return Thumbnail(image, caption, self.link, explore, _SIDE)


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
    _drawn: dict[str, _Drawn] = field(default_factory=dict)

    def decision(self, at: int, caption: str | None = None) -> Thumbnail | None:
        """The evidence for the prediction of an image against its runner-up.

        Args:
            at: the position of its row in ``Audit.good``.
            caption: by default the name of the image.

        Returns:
            None if the image is gone or has changed.
        """
        drawn = self._decision(at)
        return None if drawn is None else drawn.as_thumbnail(drawn.overlay, self._caption(at, caption))

    def image(self, at: int, caption: str | None = None) -> Thumbnail | None:
        """The image itself.

        Args:
            at: the position of its row in ``Audit.good``.
            caption: by default the name of the image.

        Returns:
            None if the image is gone or has changed.
        """
        drawn = self._decision(at)
        return None if drawn is None else drawn.as_thumbnail(drawn.image, self._caption(at, caption))

    def evidence(self, at: int) -> tuple[Thumbnail, ...]:
        """An image, the contrastive map of its prediction, the image with the strongest 5 % masked, and the base map.

        Args:
            at: the position of its row in ``Audit.good``.

        Returns:
            Nothing if the image is gone or has changed.
        """
        drawn, row, drawing = self._decision(at), self.audit.good[at], self.audit.drawings([at])[at]
        if drawn is None:
            return ()
        base, masked = map_on(drawn.image, drawn.placement, drawing.base), _masked(drawn, drawing.decision)
        panels = (
            (drawn.image, f"image {row.image}, predicted as {row.predicted}"),
            (drawn.overlay, f"contrastive map, the evidence: for {row.predicted} and against {row.runner_up}"),
            (masked, f"its strongest {_MASKED:.0%} masked: {_lead(row)}"),
            (base, f"base map: for {row.predicted}, also where {row.runner_up} has the same"),
        )
        return tuple(drawn.as_thumbnail(*panel) for panel in panels)

    def _decision(self, at: int) -> _Drawn | None:
        row, drawing = self.audit.good[at], self.audit.drawings([at])[at]
        return self._draw(at, drawing, drawing.decision, (row.predicted, [row.runner_up]))

    def _caption(self, at: int, given: str | None) -> str:
        return self.audit.good[at].image if given is None else given

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
        drawn = self._draw(at, drawing, drawing.scene, (text, others))
        return None if drawn is None else drawn.as_thumbnail(drawn.overlay, self._caption(at, caption))

    def _draw(
        self,
        at: int,
        drawing: Drawing,
        grid: Float[Tensor, "rows cols"],
        compared: tuple[str, Sequence[str]],
    ) -> _Drawn | None:
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
            small.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
            placement = placement.scaled((small.height, small.width))
            explore = None
            if self.explorer is not None:
                whole, strength = image if drawing.digest else None, self.audit.setup.strength
                explore = self.explorer.link(self.audit.numbers[at], row.image, whole, compared, strength)
            overlay = map_on(small, placement, grid)
            self._drawn[name] = _Drawn(small, placement, overlay, f"{IMAGES}/{name}", explore)
        return self._drawn[name]


def _lead(row: AuditRow) -> str:
    """What masking does to the distance between the two classes, which is the relative drop in other words."""
    before = row.confidence - row.runner_up_probability
    after = before - row.rd5
    if after < 0:
        turned = f"the decision turns, {row.runner_up} is ahead by {-after:.2f} in probability"
        return f"{turned}; before, {row.predicted} was ahead by {before:.2f}"
    return f"{row.predicted} is ahead of {row.runner_up} by {after:.2f} in probability; before it was ahead by {before:.2f}"


def _masked(drawn: _Drawn, grid: Float[Tensor, "rows cols"]) -> Image.Image:
    """The image with the strongest pixels of a map masked, of those that the model saw."""
    heat = drawn.placement.project(grid.float())
    chosen = strongest(heat, _MASKED * float(heat.isfinite().double().mean()))
    masked = drawn.image.copy()
    mask = Image.fromarray(chosen.to(torch.uint8).mul(255).numpy())
    masked.paste(_GREY, mask=mask)
    # The model saw the grey; the outline is for those who look.
    masked.paste(_OUTLINE, mask=ImageChops.subtract(mask, mask.filter(ImageFilter.MinFilter(5))))
    return masked


def mean_map(map_: Float[Tensor, "side side"], caption: str) -> Thumbnail:
    """A signed map alone: warm for the first concept, cold for the second, white for neither."""
    strength = (map_ / map_.abs().amax().clamp(min=torch.finfo(map_.dtype).tiny))[..., None].float()
    colour = torch.where(strength > 0, _WARM, _COLD)
    pixels = 255 + strength.abs() * (colour - 255)
    image = Image.fromarray(pixels.round().clamp(0, 255).to(torch.uint8).numpy())
    return Thumbnail(image.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC), caption, side=_SIDE)


def _file_name(index: int, image: str, target: str, references: Sequence[str]) -> str:
    """Which image it is and what is drawn on it, to be read; and a digest, for names of which nothing can be read."""
    what = f"{slug(image)}-{slug(target)}" + (f"-not-{slug(references[0])}" if len(references) == 1 else "")
    digest = hashlib.sha256("\n".join((target, *references)).encode(errors="replace")).hexdigest()[:8]
    return f"{index:05d}-{what[:_LONGEST].strip('-')}-{digest}.png"


def slug(text: str) -> str:
    """Letters and digits of a text, to be read in the name of a file."""
    return re.sub(r"[^0-9a-z]+", "-", text.lower()).strip("-")
