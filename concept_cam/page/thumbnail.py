"""An image as a page shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from PIL import Image

from concept_cam.errors import OptionError


@final
@dataclass(frozen=True, eq=False)
class Thumbnail:
    """An image of any size, shown small.

    Attributes:
        image: as ``concept_cam.images.read_image`` accepts it; the page embeds a copy that is no larger than ``side``.
        caption: text below the image, and its alternative text.
        link: path of the full image relative to the folder of the page, ``images/gold crest #3.png``, with ``/`` between
            folders; the page percent-encodes it.
        explore: the link to the image in the explorer beside the page, as ``explorer.Beside`` gives it: encoded already.
        side: of the embedded copy, in pixels at most.

    Raises:
        OptionError: a link is empty, absolute or begins with a scheme.
    """

    image: Image.Image
    caption: str
    link: str | None = None
    explore: str | None = None
    side: int = 224

    def __post_init__(self) -> None:
        check_link(self.link)
        check_link(None if self.explore is None else self.explore.partition("#")[0])


def check_link(link: str | None) -> None:
    """Refuse a link that does not lead to a file near the page.

    Raises:
        OptionError: it is empty, absolute or begins with a scheme.
    """
    if link is not None and (not link or link.startswith("/") or "\\" in link or ":" in link.split("/")[0]):
        raise OptionError(
            f"The link {link!r} is not a path from the page's folder; expected one such as 'images/finch.png': relative, "
            "with / between folders and no colon in the first name (Path.as_posix() makes one)."
        )
