"""An uploaded image: read as all images are, within the limits of the page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

from PIL import Image

from concept_cam.decoding import opened
from concept_cam.demo.limits import Limits
from concept_cam.errors import ImageError
from concept_cam.images import read_image


@final
@dataclass(frozen=True, eq=False)
class Upload:
    """An image that a visitor gave.

    Attributes:
        name: of the file.
        content: the file as it came; or an image that was drawn here.
    """

    name: str
    content: bytes | Image.Image

    @classmethod
    def of(cls, path: str, limits: Limits) -> Upload:
        """The upload that lies at a path; the size of the image is read from its header, before it is decoded.

        Raises:
            ImageError: it is too large, or no image.
        """
        file = Path(path)
        if (size := file.stat().st_size) > limits.max_bytes:
            raise ImageError(
                f"{file.name}: the file has {size:,} bytes, but this page takes at most {limits.max_bytes:,}; make it smaller "
                "first."
            )
        content = file.read_bytes()
        with opened(content, file.name) as stored:
            width, height = stored.size
        if width * height > limits.max_pixels:
            raise ImageError(
                f"{file.name}: {width} x {height} pixels, but this page takes at most {limits.max_pixels:,}; make it smaller "
                "first."
            )
        return cls(file.name, content)

    def image(self) -> Image.Image:
        """The image, upright and in RGB.

        Raises:
            ImageError: it is damaged.
        """
        return read_image(self.content, self.name)
