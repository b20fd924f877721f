"""Examples as they are read, and what was wrong with others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from concept_cam.datasets.example import Dataset, Example
from concept_cam.errors import DatasetError

T = TypeVar("T")


@dataclass
class Gathered:
    """What a reader fills, one item after another; what is wrong with an item is a line, and the others are there."""

    examples: list[Example] = field(default_factory=list)
    training: list[Example] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(
        self, items: Iterable[T], read: Callable[[T], Example], training: Callable[[T], bool] = lambda item: False
    ) -> None:
        """Read each item into an example; ``training`` says which are for that."""
        for item in items:
            try:
                (self.training if training(item) else self.examples).append(read(item))
            except DatasetError as error:
                self.problems.append(str(error))
            except (KeyError, ValueError, TypeError, IndexError) as error:
                self.problems.append(f"{item}: {type(error).__name__}: {error}")

    def dataset(self, root: Path, classes: Iterable[str]) -> Dataset:
        """What was gathered.

        Raises:
            DatasetError: that is nothing.
        """
        if not self.examples:
            first = f" The first problem: {self.problems[0]}" if self.problems else ""
            raise DatasetError(f"{root}: no example can be used.{first}")
        names = tuple(dict.fromkeys(classes))
        return Dataset(root.name, names, self.examples, self.training, tuple(self.problems))
