"""What a run on disk is of: the numbers of the model, how images are prepared, and which images and labels there are."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from os import PathLike
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from concept_cam.datasets import Dataset, Example
from concept_cam.errors import ConceptCamError
from concept_cam.localizer import Localizer

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def identity_of(localizer: Localizer, dataset: Dataset) -> dict[str, str]:
    """Digests that are the same in another process: a folder is resumed only where all of them are.

    Args:
        localizer: model and preprocessing.
        dataset: its examples are gone through once; files are read in full, so that another image by the same name is noticed.
    """
    backbone = localizer.backbone.original
    # A function says where it lies in memory, which is elsewhere in another process.
    preprocessing = _ADDRESS.sub("", repr(localizer.preprocess))
    return {
        "model_digest": digest_of_module(backbone.module, str(getattr(backbone, "head", None))),
        "preprocessing_digest": hashlib.sha256(preprocessing.encode()).hexdigest(),
        "images_digest": digest_of_examples(dataset.examples),
    }


def digest_of_module(module: nn.Module, *more: str) -> str:
    """Of the numbers in all parameters and buffers, wherever they lie and whatever holds the model.

    Example:
        >>> from torch import nn
        >>> norm = nn.LayerNorm(4)
        >>> before = digest_of_module(norm)
        >>> nn.init.constant_(norm.bias, 1e-6) is norm.bias, digest_of_module(norm) == before
        (True, False)
    """
    digest = hashlib.sha256(repr(more).encode())
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            digest.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
            if not tensor.is_meta:
                plain = tensor.detach().cpu().contiguous().reshape(-1)
                digest.update(plain.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def digest_of_examples(examples: Iterable[Example]) -> str:
    """Of names, labels and images, in their order."""
    digest = hashlib.sha256()
    for example in examples:
        about = example.name, example.label, example.rival, example.boxes, sorted(example.extra.items())
        digest.update(repr(about).encode(errors="surrogateescape"))
        digest.update(_content(example))
    return digest.hexdigest()


def _content(example: Example) -> bytes:
    """Of the image; of one that cannot be read nothing."""
    picture = example.picture
    try:
        if isinstance(picture, str | PathLike):
            return hashlib.sha256(Path(picture).read_bytes()).digest()
        image = picture if isinstance(picture, Image.Image) else picture()
        return hashlib.sha256(repr((image.mode, image.size)).encode() + image.tobytes()).digest()
    except (OSError, ConceptCamError):
        return b""
