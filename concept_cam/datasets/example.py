"""Examples, each an image with its label and true region, and data sets of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, final, overload

import torch
from jaxtyping import Bool
from PIL import Image
from torch import Tensor

from concept_cam.errors import DatasetError, ImageError, refused_as
from concept_cam.images import Source, read_image
from concept_cam.regions import Box

Region: TypeAlias = Callable[[], Bool[Tensor, "height width"]]
"""A function that reads a mask, in the pixels of the upright image."""

Point: TypeAlias = tuple[float, float]


@final
@dataclass(frozen=True, eq=False)
class Example:
    """An image with its label, and the region where the evidence should be.

    Attributes:
        name: of the image in the data set; name and label together are unique.
        image: a path, an image, or a function that returns an image.
        label: the class that the image shows.
        twin: the class that is most easily confused with the label, if the data set states it.
        region: reads the mask of the object, if there is one. Any exception in it becomes a ``DatasetError``.
        parts: regions of named parts, in the same way.
        boxes: bounding boxes of the object, half-open, in pixels.
        points: visible named parts, (x, y) in pixels.
        attributes: further labels, as text.
        extra: further columns of its row, by name: groups, sites, dates.

    Example:
        >>> from PIL import Image
        >>> Example("a.png", Image.new("RGB", (8, 8)), "house finch", twin="purple finch").read().size
        (8, 8)
    """

    name: str
    image: Source | Callable[[], Image.Image]
    label: str
    twin: str | None = None
    region: Region | None = None
    parts: tuple[tuple[str, Region], ...] = ()
    boxes: tuple[Box, ...] = ()
    points: tuple[tuple[str, Point], ...] = ()
    attributes: tuple[str, ...] = ()
    extra: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Masks are read long after the data set: a damaged one must fail its example and not the run.
        if self.region is not None:
            object.__setattr__(self, "region", _Guarded.of(self.name, self.region))
        object.__setattr__(self, "parts", tuple((part, _Guarded.of(self.name, region)) for part, region in self.parts))

    def read(self) -> Image.Image:
        """The image, upright, in RGB.

        Raises:
            ImageError: the image cannot be read.
        """
        if not callable(self.image):
            return read_image(self.image)
        with refused_as(ImageError, self.name, "the image"):
            image = self.image()
        return read_image(image)


@final
@dataclass(frozen=True)
class _Guarded:
    """A region that returns a mask or raises a ``DatasetError`` of one line."""

    name: str
    region: Region

    @classmethod
    def of(cls, name: str, region: Region) -> _Guarded:
        return region if isinstance(region, cls) else cls(name, region)

    def __call__(self) -> Bool[Tensor, "height width"]:
        with refused_as(DatasetError, self.name, "the mask"):
            mask = self.region()
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.ndim != 2:
            what = f"{mask.dtype} of {list(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
            raise DatasetError(f"{self.name}: the mask is {what}; expected a tensor of bool, (height, width).")
        return mask


@final
@dataclass(frozen=True)
class Lazy(Sequence[Example]):
    """A sequence of examples that are made when they are accessed and not kept.

    Attributes:
        total: number of examples.
        example: makes the example of an index.

    Example:
        >>> examples = Lazy(1_000_000, lambda index: Example(f"{index}.png", f"{index}.png", "finch"))
        >>> len(examples), examples[7].name
        (1000000, '7.png')
    """

    total: int
    example: Callable[[int], Example]

    def __len__(self) -> int:
        return self.total

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.total))]
        if not 0 <= index < self.total:
            raise IndexError(index)
        return self.example(index)


@final
@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set: its examples, its classes, and the problems of examples that were skipped.

    Attributes:
        name: of the data set.
        classes: the labels among which an image is classified.
        examples: those to evaluate; images and masks are read when they are used.
        training: those to train a linear probe with; empty if the data set has no training part.
        problems: one line for each example that was skipped while the data set was read.
        extra: names of the columns in ``Example.extra``.

    Example:
        >>> from concept_cam.world.dataset import twins_dataset
        >>> twins = twins_dataset(4)
        >>> len(twins.classes), twins.examples[0].label, twins.examples[0].twin
        (48, 'ember finch', 'frost finch')
    """

    name: str
    classes: tuple[str, ...]
    examples: Sequence[Example]
    training: Sequence[Example] = ()
    problems: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
