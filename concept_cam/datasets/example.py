"""One picture of a data set, and what is known of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, final, overload

from jaxtyping import Bool
from PIL import Image
from torch import Tensor

from concept_cam.images import Source, read_picture
from concept_cam.regions import Box

Region: TypeAlias = Callable[[], Bool[Tensor, "height width"]]
"""Reads a mask when it is asked for, in the pixels of the picture, upright."""

Point: TypeAlias = tuple[float, float]


@final
@dataclass(frozen=True, eq=False)
class Example:
    """A picture, the concept that it shows, and where.

    Attributes:
        name: no two examples of a data set have the same.
        picture: a path, a picture, or what gives one when it is asked for.
        label: the concept that it shows.
        rival: the concept that it is most easily taken for, where the data set knows.
        region: where the evidence should lie, if that is known.
        parts: regions of named parts.
        boxes: around the object, half-open, in pixels.
        points: named parts that are visible, (x, y) in pixels.
        attributes: what else is known to be seen, in words.
    """

    name: str
    picture: Source | Callable[[], Image.Image]
    label: str
    rival: str | None = None
    region: Region | None = None
    parts: tuple[tuple[str, Region], ...] = ()
    boxes: tuple[Box, ...] = ()
    points: tuple[tuple[str, Point], ...] = ()
    attributes: tuple[str, ...] = ()

    def read(self) -> Image.Image:
        """The picture, upright, in RGB.

        Raises:
            PictureError: it cannot be read.
        """
        return read_picture(self.picture() if callable(self.picture) else self.picture)


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
        classes: the labels among which a picture is classified.
        examples: pictures and masks are read when they are asked for.
        training: more examples, to train a probe with; none if the set has no such part.
        problems: one line for each example left out while the set was read.
    """

    name: str
    classes: tuple[str, ...]
    examples: Sequence[Example]
    training: Sequence[Example] = ()
    problems: tuple[str, ...] = ()
