"""What a visitor may ask of the page, and how much of it is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from concept_cam.errors import OptionError


@final
@dataclass(frozen=True)
class Limits:
    """The limits of a page.

    Attributes:
        max_bytes: of an uploaded file.
        max_pixels: of an uploaded image.
        images: how many are kept at once, of all visitors together; the one that was used least recently is dropped.

    Raises:
        OptionError: one is below 1.

    Example:
        >>> from concept_cam.demo import Limits
        >>> Limits(max_pixels=1_000_000).images
        16
    """

    max_bytes: int = 20_000_000
    max_pixels: int = 25_000_000
    images: int = 16

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise OptionError(f"{name} is {value}; expected 1 or more.")


LETTERS = 200
"""Of a target or a reference, at most."""

REFERENCES = 20
"""Of one comparison, at most."""
