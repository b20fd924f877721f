"""One image of a data set, and what is known of it."""

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
"""Reads a mask when it is asked for, in the pixels of the image, upright."""

Point: TypeAlias = tuple[float, float]


@final
@dataclass(frozen=True, eq=False)
class Example:
    """An image, the concept that it shows, and where.

    Attributes:
        name: of the image, as the data set has it; no two examples of a data set have the same name and label.
        image: a path, an image, or what gives one when it is asked for.
        label: the concept that it shows.
        twin: the class that is most easily confused with the label, where the data set knows.
        region: where the evidence should lie, if that is known. Whatever goes wrong when it is read is a ``DatasetError``.
        parts: regions of named parts, likewise.
        boxes: around the object, half-open, in pixels.
        points: named parts that are visible, (x, y) in pixels.
        attributes: what else is known to be seen, in words.
        extra: other columns of its row, by name: groups, sites, dates.
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
        # Masks are read long after the data set was: one that is bad ends its example, and never a run.
        if self.region is not None:
            object.__setattr__(self, "region", _Guarded.of(self.name, self.region))
        object.__setattr__(self, "parts", tuple((part, _Guarded.of(self.name, region)) for part, region in self.parts))

    def read(self) -> Image.Image:
        """The image, upright, in RGB.

        Raises:
            ImageError: it cannot be read.
        """
        if not callable(self.image):
            return read_image(self.image)
        with refused_as(ImageError, self.name, "the image"):
            image = self.image()
        return read_image(image)


@final
@dataclass(frozen=True)
class _Guarded:
    """A region that is a mask or a ``DatasetError`` of one line, whatever reads it."""

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
    """Examples made one by one when they are asked for; none is kept.

    Attributes:
        total: how many.
        example: makes one, from its index.
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
    """Examples, and what was wrong with others.

    Attributes:
        name: of the set.
        classes: the labels among which an image is classified.
        examples: images and masks are read when they are asked for.
        training: more examples, to train a probe with; none if the set has no such part.
        problems: one line for each example left out while the set was read.
        extra: names of the columns of ``Example.extra``.
    """

    name: str
    classes: tuple[str, ...]
    examples: Sequence[Example]
    training: Sequence[Example] = ()
    problems: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
