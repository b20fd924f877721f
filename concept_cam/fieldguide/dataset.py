"""Held-out twins as a data set: pictures drawn when they are asked for, and the true answer to where the difference is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final, overload

import torch
from jaxtyping import Bool
from torch import Tensor

from concept_cam.datasets import Dataset, Example
from concept_cam.fieldguide.birds import species
from concept_cam.fieldguide.heldout import TwinPlate, twin_plate

TRAINING_SEED = 1_000_000
"""Plates for a probe: held out from the encoder, and not among those that are evaluated."""


def twins_dataset(count: int = 1000, seed: int = 0, training: int = 0) -> Dataset:
    """Held-out plates: the label is the species, the rival its twin, the region the part in which the two differ.

    Args:
        count: plates to evaluate.
        seed: which plates.
        training: plates to train a probe with, none of them among the former.
    """
    return Dataset("fieldguide", tuple(species()), Plates(count, seed), Plates(training, TRAINING_SEED + seed))


@final
@dataclass(frozen=True)
class Plates(Sequence[Example]):
    """The examples, drawn one by one; none is kept."""

    total: int
    seed: int

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
        item = twin_plate(index, self.seed)
        name = f"{self.seed}-{index:05d}"
        return Example(name, item.plate.picture, item.target, item.twin, _difference(item))


def _difference(item: TwinPlate) -> Callable[[], Bool[Tensor, "height width"]]:
    return lambda: torch.from_numpy(item.mask)
