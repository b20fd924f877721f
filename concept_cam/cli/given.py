"""What is wrong with options that are given: found before data and model are read."""

from __future__ import annotations

from concept_cam.errors import OptionError


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
