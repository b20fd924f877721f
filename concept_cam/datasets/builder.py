"""Collects the examples of a data set, and the problems of those that cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from concept_cam.datasets.example import Dataset, Example
from concept_cam.errors import ConceptCamError, DatasetError, Unreachable, one_line, refused_as

T = TypeVar("T")

_LONGEST = 400
"""Largest number of characters of a problem."""


@dataclass
class DatasetBuilder:
    """Collects examples for a reader. An item that cannot be read becomes one line in ``problems``; the others are kept."""

    examples: list[Example] = field(default_factory=list)
    training: list[Example] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(
        self,
        items: Iterable[T],
        read: Callable[[T], Example],
        training: Callable[[T], bool] = lambda item: False,
        name: Callable[[T], object] = lambda item: item,
    ) -> None:
        """Read each item into an example.

        Args:
            items: one for each example.
            read: makes the example of an item; an exception becomes a line in ``problems``.
            training: whether an item belongs to the training part.
            name: the name of an item in that line.
        """
        for item in items:
            try:
                with refused_as(DatasetError, one_line(name(item), 120)):
                    example, chosen = read(item), self.training if training(item) else self.examples
                    if not example.label.strip():
                        raise ValueError("it has no label")
            except Unreachable:
                raise
            except ConceptCamError as error:
                self.problems.append(str(error))
            else:
                chosen.append(example)

    def dataset(self, root: Path, classes: Iterable[str], extra: Iterable[str] = ()) -> Dataset:
        """The data set of the collected examples; of several with one image and label, the first is used.

        Args:
            root: the folder or file of the data set; its name is that of the data set.
            classes: labels in their order.
            extra: names of further columns.

        Raises:
            DatasetError: there is no example.
        """
        examples, training = self._once(self.examples), self._once(self.training)
        problems = tuple(one_line(problem, _LONGEST) for problem in self.problems)
        if not examples:
            first = f" The first problem: {problems[0]}" if problems else ""
            raise DatasetError(f"{root}: no example can be used.{first}")
        names = tuple(dict.fromkeys(name for name in classes if name.strip()))
        return Dataset(root.name, names, examples, training, problems, tuple(extra))

    def _once(self, examples: list[Example]) -> list[Example]:
        found: dict[tuple[str, str], Example] = {}
        for example in examples:
            if found.setdefault((example.name, example.label), example) is not example:
                self.problems.append(f"{example.name}: is listed twice as {example.label!r}; the first is used.")
        return list(found.values())
