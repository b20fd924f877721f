"""What the rows of a run depend on: model, preprocessing, texts, methods, examples, and the versions of what computes them."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from os import PathLike
from typing import Any

import torch

from concept_cam.backbones.backbone import Backbone
from concept_cam.datasets import Dataset, Example
from concept_cam.errors import DatasetError, Unreachable
from concept_cam.localizer import Localizer
from concept_cam.methods import Method
from concept_cam.outside import chunks_of
from concept_cam.runs.crew import crew
from concept_cam.runs.digests import digest_of
from concept_cam.runs.share import share

_COMPUTE = ("concept-cam", "torch", "torchvision", "open_clip_torch", "timm", "transformers", "numpy", "pillow")
"""Whose version may change a row."""

_REGIONS = ("region", "parts", "boxes", "points")


def identity_of(
    localizer: Localizer, dataset: Dataset, methods: Mapping[str, Method] | None = None, texts: Sequence[str] = ()
) -> dict[str, Any]:
    """Versions and digests that are the same in another process: a folder is resumed only where all of them are.

    A worker takes those of the process that has started it, which has read all images.

    Args:
        localizer: model and preprocessing.
        dataset: every example is read once, images and masks in full, so that a change under the same name is noticed.
        methods: by their names; the code of a function counts, see ``digests``.
        texts: the sentences that are embedded.

    Raises:
        DatasetError: two examples have one name and label.

    Example:
        >>> from concept_cam import world
        >>> from concept_cam.runs import identity_of
        >>> from concept_cam.world.dataset import birds_dataset
        >>> first, again, fewer = (identity_of(world.localizer(), birds_dataset(count)) for count in (2, 2, 1))
        >>> first == again, [name for name in first if first[name] != fewer[name]]
        (True, ['images_digest', 'labels_digest', 'regions_digest'])
    """
    if (part := share()) is not None:
        return dict(part.identity)
    own = localizer.backbone.original
    found = {
        "versions": versions(),
        "device": own.device.type,
        "model_digest": digest_of(own.module, getattr(own, "head", None), getattr(own, "call", None)),
        "preprocessing_digest": digest_of(localizer.preprocess),
        "texts_digest": _digest_of_texts(own, texts),
        "method_digests": {name: digest_of(method) for name, method in (methods or {}).items()},
        **digests_of_examples(dataset.examples),
    }
    if (others := crew()) is not None:
        others.identity = found
    return found


def name_of_example(example: Example) -> str:
    """What tells an example from all others of its data set: an image may have several labels.

    Example:
        >>> from concept_cam.datasets import Example
        >>> from concept_cam.runs import name_of_example
        >>> name_of_example(Example("a.png", "a.png", "house finch")).splitlines()
        ['a.png', 'house finch']
    """
    return f"{example.name}\n{example.label}"


def versions() -> dict[str, str]:
    """Of Python, this library and all that computes; of what is not installed nothing."""
    found = {"python": platform.python_version()}
    for name in _COMPUTE:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def digests_of_examples(examples: Iterable[Example]) -> dict[str, str]:
    """Of the images, of what they are called and show, and of where; in their order.

    Raises:
        DatasetError: two examples have one name and label.
    """
    images, labels, regions = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    seen = set[tuple[str, str]]()
    for example in examples:
        if (example.name, example.label) in seen:
            raise DatasetError(
                f"Two examples are called {example.name!r} and show {example.label!r}, so their rows could not be told apart; "
                "rename one."
            )
        seen.add((example.name, example.label))
        images.update(_image(example))
        told = {f.name: getattr(example, f.name) for f in fields(example) if f.name not in ("image", *_REGIONS)}
        labels.update(digest_of(told).encode())
        regions.update(_regions(example).encode())
    return {
        "images_digest": images.hexdigest(),
        "labels_digest": labels.hexdigest(),
        "regions_digest": regions.hexdigest(),
    }


def _image(example: Example) -> bytes:
    """A digest of the image, of one that cannot be read of the error."""
    image = example.image
    try:
        if isinstance(image, str | PathLike):
            digest = hashlib.sha256()
            for chunk in chunks_of(image):
                digest.update(chunk)
            return digest.digest()
        return digest_of(image() if callable(image) else image).encode()
    except (MemoryError, Unreachable):
        raise
    except Exception as error:  # noqa: BLE001  (whatever comes of it, it is a row that says so)
        return type(error).__name__.encode()


def _regions(example: Example) -> str:
    """A digest of the pixels of all regions, and of boxes and points."""
    held: list[Any] = [example.boxes, example.points]
    for name, region in (("", example.region), *example.parts):
        try:
            held.append((name, region() if region else None))
        except (MemoryError, Unreachable):
            raise
        except Exception as error:  # noqa: BLE001  (as above)
            held.append((name, type(error).__name__))
    return digest_of(held)


def _digest_of_texts(backbone: Backbone, texts: Sequence[str]) -> str:
    """Of the tokens of texts, and so of templates, names and tokenizer; of what has no tokenizer, of the texts."""
    tokenizer = getattr(backbone, "tokenizer", None)
    with torch.device("cpu"):
        return digest_of(tuple(texts), tokenizer(list(texts)) if tokenizer is not None and texts else None)
