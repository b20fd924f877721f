"""The options that a command line gives, told from those that are left at their defaults."""

from __future__ import annotations

from collections.abc import Iterable

import typer

from concept_cam.errors import OptionError


def is_given(context: typer.Context, name: str) -> bool:
    """Whether an option is on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def refuse(context: typer.Context, names: Iterable[str], reason: str) -> None:
    """Raise OptionError if one of these options is given, which would have no effect."""
    options = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    for name in names:
        if is_given(context, name):
            raise OptionError(f"{options[name]} has no effect {reason}; leave it out.")
