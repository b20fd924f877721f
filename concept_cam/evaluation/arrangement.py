"""Which images of a data set are together in a mosaic: those that the model classifies correctly, four and four."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import final

from tqdm import tqdm

from concept_cam.concepts import ConceptBank
from concept_cam.datasets import Dataset, Example
from concept_cam.errors import ConceptCamError, DatasetError, OptionError, Unreachable
from concept_cam.evaluation.probe import embed_frames
from concept_cam.images import Frame
from concept_cam.localizer import Localizer
from concept_cam.preprocess import Preparation, Preprocess

KINDS = ("nearest", "random")
"""Which classes are around the target: its three nearest by embedding, or any three."""

_BATCH = 50


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


def classified(localizer: Localizer, bank: ConceptBank, dataset: Dataset) -> tuple[list[Candidate], list[str]]:
    """The examples whose label scores highest, and a line for each example that could not be classified.

    Args:
        localizer: model and preprocessing.
        bank: the classes among which an image is classified.
        dataset: its examples are read once.
    """
    preprocess, names, labels, images, right, problems = same_sized(localizer.preprocess), [], [], [], [], []
    with tqdm(total=len(dataset.examples), desc="classified", disable=None) as bar:
        for start in range(0, len(dataset.examples), _BATCH):
            frames: dict[int, Frame] = {}
            for index, example in enumerate(dataset.examples[start : start + _BATCH], start):
                names.append(example.name)
                labels.append(example.label)
                images.append(_image_of(dataset, example))
                try:
                    bank.index(example.label)
                    frames[index] = Frame.of(example.read(), preprocess)
                except Unreachable:
                    raise
                except ConceptCamError as error:
                    problems.append(f"{example.name}: {error}")
                bar.update()
            if frames:
                best = bank.scores(embed_frames(localizer, list(frames.values()))).argmax(1).tolist()
                right += [index for index, row in zip(frames, best, strict=True) if bank.names[row] == labels[index]]
    shown: dict[str | int, set[str]] = {}
    for image, label in zip(images, labels, strict=True):
        shown.setdefault(image, set()).add(label)
    return [Candidate(i, names[i], labels[i], frozenset(shown[images[i]])) for i in right], problems


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
