"""A View is an example as the model sees it: its frame, and the region where the evidence should lie."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import final

from jaxtyping import Bool
from torch import Tensor

from concept_cam.datasets import Example
from concept_cam.errors import DatasetError
from concept_cam.images import Frame
from concept_cam.metrics.localization import check_masks
from concept_cam.preprocess import Preparation


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


def read_views(
    examples: Iterable[Example], preprocess: Preparation, check: Callable[[Example], object]
) -> list[View | Exception]:
    """The views of some examples; in the place of one that cannot be used, why it cannot.

    Args:
        examples: of a data set.
        preprocess: how images are prepared.
        check: raises what is wrong with an example before its image is read.
    """
    found: list[View | Exception] = []
    for example in examples:
        try:
            check(example)
            found.append(View.of(example, preprocess))
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001  (whatever is wrong with an example is said in its row)
            found.append(error)
    return found
