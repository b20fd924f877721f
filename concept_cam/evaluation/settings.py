"""What is run on each image: methods x references x strengths, each once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from concept_cam.errors import OptionError, did_you_mean
from concept_cam.evaluation.references import canonical
from concept_cam.methods import METHODS, AnyMethod, Method, as_method, name_of


@final
@dataclass(frozen=True)
class Settings:
    """What is run on each image.

    Attributes:
        methods: names of ``METHODS``, or methods of your own, each with a name of its own.
        references: as ``read_references`` knows them, each once.
        strengths: above 0, each once; each method's base map, at 0, is always made.
        deletion: steps of the deletion curve; 0 leaves it out.
        sanity: whether maps are checked without a truth as well, see ``SanityChecks``; takes six times as long.

    Raises:
        OptionError: one of them is none of these.
    """

    methods: tuple[AnyMethod, ...]
    references: tuple[str, ...] = ("twin",)
    strengths: tuple[float, ...] = (0.6,)
    deletion: int = 0
    sanity: bool = False

    def __post_init__(self) -> None:
        unknown = [name for name in self.methods if isinstance(name, str) and name.partition(":")[0] not in METHODS]
        if unknown or not self.methods:
            hint = did_you_mean(unknown[0], METHODS) if unknown else ""
            raise OptionError(f"No method {', '.join(unknown) or 'given'}.{hint} There are {', '.join(METHODS)}.")
        check_once("methods", list(map(name_of, self.methods)))
        _ = self.named
        if not all(0 < strength < float("inf") for strength in self.strengths):
            raise OptionError(f"Strengths are {self.strengths}; expected numbers above 0: the base map, at 0, is made anyway.")
        check_once("strengths", [f"{strength:.6g}" for strength in self.strengths])
        check_once("references", [canonical(text) for text in self.references])

    @property
    def named(self) -> dict[str, Method]:
        """The methods by their names."""
        return {name_of(method): as_method(method) for method in self.methods}


def check_once(what: str, names: Sequence[str]) -> None:
    """Refuse what has one name in a table: it would be counted twice, or one would stand in the place of the other.

    Raises:
        OptionError: two have.
    """
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise OptionError(f"Of the {what} {', '.join(names)} two have one name, {double}; leave one out, or rename it.")
