"""Images for a report: what decided on one of them, drawn at full size beside the page and small on it."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from concept_cam.audit.findings import Audit
from concept_cam.datasets import Example
from concept_cam.drawing import overlay, side_by_side
from concept_cam.errors import ComparisonError, ImageError
from concept_cam.files import write_image
from concept_cam.localizer import Localizer
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
    """Draws what an audit found on its images; each image is read again when it is drawn.

    Attributes:
        audit: whose.
        folder: of the page; full images go into its ``images/``.
        prefix: of their names.
    """

    audit: Audit
    folder: Path
    prefix: str = ""
    _drawn: dict[str, Thumbnail] = field(default_factory=dict)

    @cached_property
    def _examples(self) -> dict[str, int]:
        return {row["image"]: index for index, row in enumerate(self.audit.rows)}

    def decision(self, image: str, caption: str) -> Thumbnail | None:
        """What decided on an image: what it is predicted as, against its runner-up; None if it is not there any more."""
        row, examiner = self.audit.rows[self._examples[image]], self.audit.examiner
        return self._draw(image, examiner.localizer, row["predicted"], [row["runner_up"]], caption)

    def background(self, image: str, text: str, caption: str) -> Thumbnail | None:
        """Where an image shows a background and no other."""
        examiner = self.audit.examiner
        others = [other for other in examiner.backgrounds if other != text]
        return self._draw(image, examiner.scene_localizer, text, others, caption)

    def _draw(self, image: str, localizer: Localizer, target: str, references: list[str], caption: str) -> Thumbnail | None:
        index = self._examples[image]
        name = f"{self.prefix}{_file_name(index, image, target, references)}"
        if name not in self._drawn:
            example: Example = self.audit.dataset.examples[index]
            try:
                with warnings.catch_warnings():
                    # That what a model confuses is not alike in its texts is for the page to show.
                    warnings.simplefilter("ignore", UserWarning)
                    pixels = example.read()
                    found = localizer(pixels, target, references, strength=self.audit.examiner.strength)
            except (ImageError, ComparisonError):
                # Gone since it was looked at, or texts that the model cannot tell apart: the page does without it.
                return None
            write_image(self.folder / IMAGES / name, side_by_side(found, pixels))
            small = overlay(found, pixels)
            small.thumbnail((_SMALL, _SMALL))
            self._drawn[name] = Thumbnail(small, caption, f"{IMAGES}/{name}")
        drawn = self._drawn[name]
        return Thumbnail(drawn.image, caption, drawn.link)


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
