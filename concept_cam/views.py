"""A View is an example as the model sees it: its frame, and the region where the evidence should lie."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, final, runtime_checkable

from jaxtyping import Bool
from torch import Tensor

from concept_cam.datasets import Example
from concept_cam.errors import DatasetError, Unreachable
from concept_cam.images import Frame
from concept_cam.metrics.localization import check_masks
from concept_cam.passes import Pass, each_frame, ordinary
from concept_cam.preprocess import Preparation


@runtime_checkable
class Framed(Protocol):
    """Whatever has a frame."""

    @property
    def frame(self) -> Frame:
        """What the model gets."""


T = TypeVar("T")
V = TypeVar("V", bound=Framed)
R = TypeVar("R")


@final
@dataclass(frozen=True, eq=False)
class View:
    """An example as the model sees it.

    Attributes:
        example: the image and its label.
        frame: what the model gets.
        region: where the evidence should lie, in pixels of the image; None if that is not known.
    """

    example: Example
    frame: Frame
    region: Bool[Tensor, "height width"] | None

    @classmethod
    def of(cls, example: Example, preprocess: Preparation) -> View:
        """Read image and region.

        Raises:
            ImageError, DatasetError: one cannot be read, or they do not fit.
        """
        frame = Frame.of(example.read(), preprocess)
        region = example.region() if example.region else None
        if region is not None:
            height, width = frame.placement.image_size
            if tuple(region.shape) != (height, width):
                raise DatasetError(
                    f"{example.name}: the mask is {region.shape[0]} x {region.shape[1]}, the image {height} x {width}."
                )
            check_masks(region)
        return cls(example, frame, region)


def each_view(
    items: Sequence[T],
    read: Callable[[T], V],
    passes: Callable[[Sequence[Frame]], Iterable[Pass]],
    work: Callable[[Pass, Sequence[V]], Sequence[R]],
    problem: Callable[[T, Exception], R],
) -> list[R]:
    """What is made of each item, in their order; whatever is wrong with one item is its problem alone.

    Args:
        items: examples of a data set, or what is made of several.
        read: gives the view of an item.
        passes: of frames, as ``Localizer.passes`` makes them.
        work: makes something of each view of a pass.
        problem: makes something of an item that cannot be read, and why it cannot.
    """
    with ordinary():
        outcomes: list[V | Exception] = []
        for item in items:
            try:
                outcomes.append(read(item))
            except (MemoryError, Unreachable):
                raise
            except Exception as error:  # noqa: BLE001  (whatever is wrong with an item is said of it)
                outcomes.append(error)
        views = [one for one in outcomes if not isinstance(one, Exception)]
        frames = [view.frame for view in views]
        made = iter(each_frame(passes(frames), lambda seen: work(seen, [views[i] for i in seen.which])))
    pairs = zip(items, outcomes, strict=True)
    return [problem(item, one) if isinstance(one, Exception) else next(made) for item, one in pairs]
