"""Which images of a data set are together in a mosaic: those that the model classifies correctly, four and four."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, final

from concept_cam.concepts import ConceptBank
from concept_cam.datasets import Dataset, Example
from concept_cam.errors import ConceptCamError, DatasetError, OptionError
from concept_cam.evaluation.embeddings import embeddings_of
from concept_cam.localizer import Localizer
from concept_cam.preprocess import Preparation, Preprocess

KINDS = ("nearest", "random")
"""Which classes are around the target: its three nearest by embedding, or any three."""


@final
@dataclass(frozen=True)
class Candidate:
    """An image that is classified correctly.

    Attributes:
        index: of its example.
        name: of its example.
        label: its class.
        shown: all labels that the data set has for this image.
    """

    index: int
    name: str
    label: str
    shown: frozenset[str]


def same_sized(preprocess: Preparation) -> Preparation:
    """How images are prepared that lie side by side: at native aspect each would have a size of its own.

    Raises:
        OptionError: a transform of the user's gives images of several sizes.
    """
    if not preprocess.varies:
        return preprocess
    if not isinstance(preprocess, Preprocess):
        raise OptionError(
            "Mosaics need images of one size; the transform gives images of another aspect another size. Give one that crops "
            "or squashes to one size."
        )
    return preprocess.fitted("squash")


def check_single(dataset: Dataset) -> None:
    """Each image shows one of the classes, as far as the data set says.

    Raises:
        DatasetError: one comes with several labels, or with attributes that are classes.
    """
    shown: dict[str | int, set[str]] = {}
    for example in dataset.examples:
        labels = shown.setdefault(_image_of(dataset, example), set())
        labels |= {example.label, *set(example.attributes).intersection(dataset.classes)}
        if len(labels) > 1:
            raise DatasetError(
                f"{dataset.name}: an image shows many attributes or classes at once ({example.name}: "
                f"{', '.join(sorted(labels)[:3])}), so a mosaic has one in several quarters; leave out mosaics."
            )


def classified(
    localizer: Localizer,
    bank: ConceptBank,
    dataset: Dataset,
    folder: Path | None = None,
    about: Mapping[str, Any] | None = None,
) -> tuple[list[Candidate], list[str]]:
    """The examples whose label scores highest, and a line for each example that could not be classified.

    Args:
        localizer: model and preprocessing.
        bank: the classes among which an image is classified.
        dataset: its examples are read once.
        folder: for the embeddings of its images; without one, they are not kept.
        about: what else decides the embeddings, to be compared with an older run in the folder.

    Raises:
        OutputError: see ``embeddings_of``.
    """
    problems: dict[int, str] = {}
    known: dict[int, Example] = {}
    shown: dict[str | int, set[str]] = {}
    images: list[str | int] = []
    for index, example in enumerate(dataset.examples):
        images.append(_image_of(dataset, example))
        shown.setdefault(images[-1], set()).add(example.label)
        try:
            bank.index(example.label)
            known[index] = example
        except ConceptCamError as error:
            problems[index] = f"{example.name}: {error}"
    preprocess = same_sized(localizer.preprocess)
    found = embeddings_of(localizer, list(known.values()), preprocess, folder, about) if known else []
    right = []
    for (index, example), one in zip(known.items(), found, strict=True):
        if isinstance(one, str):
            problems[index] = f"{example.name}: {one}"
        elif bank.names[int(bank.scores(one[None]).argmax(1))] == example.label:
            right.append(Candidate(index, example.name, example.label, frozenset(shown[images[index]])))
    return right, [problems[index] for index in sorted(problems)]


@final
@dataclass(frozen=True)
class Mosaic:
    """Images of four classes: the upper left, the upper right, the lower left and the lower right one.

    Attributes:
        cells: the four.
        quarter: which of them is explained.
    """

    cells: tuple[Candidate, ...]
    quarter: int

    @property
    def target(self) -> Candidate:
        """The image whose class is explained."""
        return self.cells[self.quarter]

    @property
    def others(self) -> tuple[str, ...]:
        """The classes of the other three."""
        return tuple(cell.label for place, cell in enumerate(self.cells) if place != self.quarter)


def arrange(candidates: Sequence[Candidate], bank: ConceptBank, kind: str, seed: int = 0) -> list[Mosaic]:
    """A mosaic for each image, with one image of each of three other classes, none of which shows its class.

    An image for which there are no three such classes has none. What is chosen for an image depends on the seed, its name and
    which candidates there are, and not on their order.

    Args:
        candidates: the images.
        bank: holds their labels; its cosines say which classes are nearest.
        kind: ``nearest`` or ``random``.
        seed: which.
    """
    of_class: dict[str, list[Candidate]] = {}
    for one in sorted(candidates, key=lambda one: (one.label, one.name)):
        of_class.setdefault(one.label, []).append(one)
    mosaics = []
    for target in candidates:
        others = {label: [one for one in images if target.label not in one.shown] for label, images in of_class.items()}
        labels = [label for label, images in others.items() if images and label != target.label]
        if len(labels) < 3:
            continue
        rng = random.Random(f"{seed} {target.name}")  # noqa: S311  (no secret)
        alike = bank.similarities(target.label)
        nearest = sorted(labels, key=lambda label: -float(alike[bank.index(label)]))[:3]
        cells = [rng.choice(others[label]) for label in (nearest if kind == "nearest" else rng.sample(labels, 3))]
        rng.shuffle(cells)
        quarter = rng.randrange(4)
        mosaics.append(Mosaic((*cells[:quarter], target, *cells[quarter:]), quarter))
    return mosaics


def _image_of(dataset: Dataset, example: Example) -> str | int:
    """What two examples of the same image have in common: its path, or the object, where the data set holds it all the time.

    Examples that are made when they are asked for have a name alone: an identity is given again once its object is gone.
    """
    if isinstance(example.image, str | PathLike):
        return str(example.image)
    return id(example.image) if isinstance(dataset.examples, list | tuple) else example.name
