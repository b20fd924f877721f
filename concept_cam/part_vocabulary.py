"""Parts with what each can look like: ``beak``, and its shapes and colours."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from concept_cam.errors import PromptError, one_line
from concept_cam.prompts import Concept, read_vocabulary

MAX_PHRASES = 100_000
"""Of a vocabulary: lists that parts share make many of few lines."""

_SHOWN = 80


@final
@dataclass(frozen=True)
class PartConcept:
    """A part's name, and for each attribute the values among which it is read."""

    name: str
    attributes: Mapping[str, tuple[str, ...]]

    def phrase(self, value: str) -> str:
        """``red`` -> ``red crown``."""
        return f"{value} {self.name}"


@final
@dataclass(frozen=True)
class PartVocabulary:
    """The parts of something.

    Attributes:
        title: what it is for.
        parent: what has the parts: ``bird``.
        parts: in the order in which they are reported.
    """

    title: str
    parent: str
    parts: tuple[PartConcept, ...]

    def texts(self) -> tuple[str, ...]:
        """All that has to be embedded: the parent, each part, each phrase."""
        phrases = [part.phrase(value) for part in self.parts for values in part.attributes.values() for value in values]
        return tuple(dict.fromkeys((self.parent, *(part.name for part in self.parts), *phrases)))


def read_parts(name: str | os.PathLike[str]) -> PartVocabulary:
    """Read a part vocabulary by the name of a file in ``prompts/vocabularies/``, or from a ``.yaml`` or ``.csv`` file.

    Raises:
        PromptError: there is none, or it has no ``parent``, or an attribute is no list of words.

    Example:
        >>> from concept_cam.parts import read_parts
        >>> birds = read_parts("birds")
        >>> birds.parent, birds.parts[0].name
        ('bird', 'back')
    """
    vocabulary = read_vocabulary(name)
    if not vocabulary.parent:
        raise PromptError(f"{name}: a vocabulary of parts says of what: expected a line such as `parent: bird`.")
    parts = tuple(PartConcept(concept.name, _attributes(str(name), concept)) for concept in vocabulary.concepts)
    phrases = sum(len(values) for part in parts for values in part.attributes.values())
    if phrases > MAX_PHRASES:
        raise PromptError(
            f"{name}: {phrases:,} phrases; at most {MAX_PHRASES:,} are read. Share fewer values, or fewer parts."
        )
    return PartVocabulary(vocabulary.title, vocabulary.parent, parts)


def _attributes(source: str, concept: Concept) -> dict[str, tuple[str, ...]]:
    held: Any = concept.notes.get("attributes") or {}
    if not isinstance(held, Mapping):
        shown = one_line(repr(held), _SHOWN)
        raise PromptError(f"{source}: attributes of {concept.name!r} are {shown}; expected `colour: [red, blue]`.")
    for attribute, values in held.items():
        if not isinstance(values, list) or len(values) < 2 or not all(isinstance(v, str) and v.strip() for v in values):
            raise PromptError(
                f"{source}: {one_line(attribute, _SHOWN)} of {concept.name!r} is {one_line(repr(values), _SHOWN)}; "
                "expected a list of two words or more (quote those that YAML reads as a number or yes/no)."
            )
    return {str(attribute): tuple(values) for attribute, values in held.items()}
