"""The maps of an audit as a batch on disk holds them, and where their images are found again."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from concept_cam.address import absolute, address_of, is_remote, seen_from
from concept_cam.datasets import Example
from concept_cam.errors import Unreachable
from concept_cam.images import Placement
from concept_cam.outside import chunks_of

THUMBNAIL = 360
"""The longer side of a copy that is kept of an image that is no file."""


MAPS = ("decision", "base", "scene")
"""The maps of an image at the grid of the model."""


def packed(images: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of some images in one of each kind; maps at their own grids one after another, as these may differ.

    Args:
        images: the tensors of each; see ``Examiner.examine``.
    """
    if not images:
        return {}
    grids = [list(image["decision"].shape) for image in images]
    found = {name: torch.stack([image[name] for image in images]) for name in images[0] if name not in MAPS}
    found |= {name: torch.cat([image[name].flatten() for image in images]) for name in MAPS}
    return found | {"grids": torch.tensor(grids, dtype=torch.int64, device="cpu")}


def numbers_of(placement: Placement) -> Float[Tensor, " 10"]:
    """A placement as numbers: its window, the size of its image, and what its cells cover."""
    cells = placement.cells or placement.window
    return torch.tensor([*placement.window, *placement.image_size, *cells], dtype=torch.float64, device="cpu")


@final
class Sources:
    """Where the images of a batch are found again: the name and a digest of a file; of what is no file a small copy.

    An image in an object store has a copy too, unless the audit is in the same bucket: who reads an audit of others shall not
    ask stores for what it names.

    Args:
        examples: of the batch.
        folder: of the audit; files are named relative to it.
    """

    def __init__(self, examples: Sequence[Example], folder: Path) -> None:
        self._folder, self._copies = folder, dict[int, bytes]()
        self.examples = [
            one if self._is_found(one) else replace(one, image=partial(self._copied, k, one)) for k, one in enumerate(examples)
        ]

    def _copied(self, index: int, example: Example) -> Image.Image:
        image = example.read()
        small, stream = image.copy(), io.BytesIO()
        small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        small.save(stream, "JPEG", quality=90, subsampling=0)
        self._copies[index] = stream.getvalue()
        return image

    def tensors(self, used: Sequence[int]) -> dict[str, Tensor]:
        """The sources of the examples that were used, once these have been read, as bytes.

        Args:
            used: their indices.
        """
        held = [(self._copies[k], b"") if k in self._copies else self._file(self.examples[k]) for k in used]
        ends = torch.tensor([len(source) for source, _ in held], dtype=torch.int64, device="cpu").cumsum(0)
        digests = b"".join(digest or bytes(32) for _, digest in held)
        return {
            "sources": _bytes(b"".join(source for source, _ in held)),
            "source_ends": ends,
            "digests": _bytes(digests).reshape(-1, 32),
        }

    def _file(self, example: Example) -> tuple[bytes, bytes]:
        if not isinstance(example.image, str | os.PathLike):
            return b"", b""
        path = _without_links(example.image)
        return os.fsencode(seen_from(_without_links(self._folder), path)), digest_of_file(path)

    def _is_found(self, example: Example) -> bool:
        """Whether the image is found again by its name."""
        if not isinstance(example.image, str | os.PathLike):
            return False
        image, folder = absolute(example.image), absolute(self._folder)
        return not is_remote(image) or image.parts[:2] == folder.parts[:2]


def _without_links(path: str | os.PathLike[str]) -> Path:
    return absolute(path) if is_remote(path) else address_of(os.path.realpath(path))


def digest_of_file(path: str | os.PathLike[str]) -> bytes:
    """SHA-256 of a file; of one that cannot be read, zeros."""
    digest = hashlib.sha256()
    try:
        for chunk in chunks_of(path):
            digest.update(chunk)
    except Unreachable:
        raise
    except (OSError, ValueError):
        return bytes(32)
    return digest.digest()


def _bytes(content: bytes) -> Tensor:
    if not content:
        return torch.empty(0, dtype=torch.uint8, device="cpu")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)
