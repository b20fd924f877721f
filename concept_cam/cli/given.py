"""Options that are given but would have no effect."""

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
