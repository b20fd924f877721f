"""The image that a visitor looks at, and those of all visitors."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import final

from PIL import Image

from concept_cam.demo.upload import Upload
from concept_cam.errors import ImageError
from concept_cam.field import ConceptField
from concept_cam.images import Placement


@final
@dataclass(frozen=True, eq=False)
class View:
    """An image with what is kept of it, so that another question takes no forward pass.

    Attributes:
        upload: the image as it was given.
        small: a small copy, upright and in RGB, to draw on.
        field: of a linear method.
        method: the name of that method.
        suggested: the target that the page suggested for it; empty if the visitor named one.
    """

    upload: Upload
    small: Image.Image
    field: ConceptField
    method: str
    suggested: str = ""

    def on_small(self, placement: Placement) -> Placement:
        """A placement on the small copy."""
        return placement.scaled((self.small.height, self.small.width))


@final
class Views:
    """The views of all visitors by a key that nobody can guess: so many at most, so that memory is bounded.

    Args:
        most: how many.
    """

    def __init__(self, most: int) -> None:
        self._most, self._lock = most, Lock()
        self._kept: OrderedDict[str, View] = OrderedDict()

    def put(self, view: View, key: str | None = None) -> str:
        """Keep a view in the place of that of a key, and return its new key.

        Another view of the same image keeps the key: a question that is on its way still finds it.
        """
        with self._lock:
            before = self._kept.pop(key or "", None)
            fresh = key if key and before is not None and before.upload is view.upload else secrets.token_hex(16)
            self._kept[fresh] = view
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return fresh

    def get(self, key: str | None) -> View:
        """The view of a key.

        Raises:
            ImageError: there is none, or it was dropped.
        """
        if key is None:
            raise ImageError("There is no image yet; choose one.")
        with self._lock:
            if key not in self._kept:
                raise ImageError("This image was dropped, since others were opened meanwhile; choose it again.")
            self._kept.move_to_end(key)
            return self._kept[key]

    def suggested(self, key: str | None) -> str:
        """The target that the page suggested for the view of a key; empty if there is none."""
        with self._lock:
            view = self._kept.get(key or "")
        return "" if view is None else view.suggested

    def drop(self, key: str | None) -> None:
        """Forget a view."""
        with self._lock:
            self._kept.pop(key or "", None)
