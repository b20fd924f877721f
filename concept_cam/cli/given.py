"""What is wrong with options that are given: found before data and model are read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from concept_cam.errors import ComparisonError, OptionError, PromptError

if TYPE_CHECKING:
    from concept_cam.selectors import Selector


def refuse(option: str, value: object, reason: str) -> None:
    """Raise OptionError if an option is given that has no effect where it is: dropped in silence, it would mislead.

    Args:
        option: as it is written on the command line.
        value: None if it is not given.
        reason: why it has no effect.
    """
    if value is not None:
        raise OptionError(f"{option} {value} has no effect {reason}; leave it out.")


def check_texts(*, templates: str | None = None, vocabulary: str | None = None, parts: str | None = None) -> None:
    """Read the texts that options name, to find out before the work whether they can be read.

    Args:
        templates: a name or a file, and so are the others; None if it is not given.
        vocabulary: of names.
        parts: a vocabulary of parts.

    Raises:
        PromptError: one cannot be read, or is not what it should be.
    """
    from concept_cam.parts import read_parts
    from concept_cam.prompts import read_templates, read_vocabulary

    if templates is not None:
        read_templates(templates)
    if vocabulary is not None:
        read_vocabulary(vocabulary)
    if parts is not None:
        read_parts(parts)


def references_of(against: list[str] | None, nearest: int | None, rivals: int | None) -> Selector | None:
    """The references that options name; None if none does.

    Args:
        against: names.
        nearest: how many that are most similar.
        rivals: how many that score highest.

    Raises:
        ComparisonError: more than one option names references, or a number is below one.
    """
    from concept_cam import selectors

    if sum(bool(choice) for choice in (against, nearest is not None, rivals is not None)) > 1:
        raise ComparisonError("References come from one of --against, --nearest and --rivals; give one of them.")
    if nearest is not None:
        return selectors.nearest(nearest)
    if rivals is not None:
        return selectors.rivals(rivals)
    return selectors.against(*against) if against else None


def gpus_for(engine: str, device: str) -> int:
    """Over how many GPUs of this machine processes are spread; 0 if they all see what this one sees.

    Args:
        engine: what starts them.
        device: as it is given; ``cuda`` is all of them, ``cuda:1`` is one.

    Raises:
        OptionError: there is no such engine, or it is not installed.
    """
    import torch

    from concept_cam.runs.crew import check_engine

    check_engine(engine)
    return torch.cuda.device_count() if device == "cuda" else 0


def vocabularies_of_parts() -> Iterator[str]:
    """The names of the vocabularies that have a parent, and so name its parts."""
    from concept_cam.prompts import prompts_folders, read_vocabulary

    names = {file.stem for folder in prompts_folders() for file in (folder / "vocabularies").glob("*.yaml")}
    for name in sorted(names):
        try:
            if read_vocabulary(name).parent:
                yield name
        except PromptError:
            continue
