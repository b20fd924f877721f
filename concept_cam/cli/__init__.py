"""The command line. Heavy imports wait until a command runs."""

from __future__ import annotations

import logging
import sys
import warnings
from importlib.metadata import version
from io import TextIOWrapper
from typing import Annotated, Any, NoReturn

import typer

from concept_cam.cli.audit import audit
from concept_cam.cli.evaluate import evaluate
from concept_cam.cli.fieldguide import fieldguide
from concept_cam.cli.localize import localize
from concept_cam.cli.methods import methods
from concept_cam.cli.models import check, models
from concept_cam.cli.parts import parts
from concept_cam.errors import ConceptCamError, UnknownWord

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
_INTERRUPTED = 130


def _version(asked: bool) -> bool:
    if asked:
        typer.echo(f"concept-cam {version('concept-cam')}")
        raise typer.Exit
    return asked


@app.callback()
def about(
    version_: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Where in this picture is the thing that makes it THIS concept and not that similar one?"""


for command in (localize, methods, models, check, evaluate, audit, parts, fieldguide):
    app.command()(command)


def main() -> None:
    """Run the command line; a foreseen error is one line on the error stream and exit code 1, never a traceback."""
    warnings.showwarning = _one_line
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal cannot spell shall not end the work.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    # What open_clip and the hub client log on the way to a failure is in the one line that we end with.
    logging.disable(logging.ERROR)
    try:
        app()
    except UnknownWord as error:
        _fail(f"{error} For other words give another encoder with --model.")
    except ConceptCamError as error:
        _fail(str(error))
    except SystemExit as leaving:
        if leaving.code == _INTERRUPTED:
            typer.echo("concept-cam: interrupted; what was finished is kept.", err=True)
        raise
    except (OSError, RuntimeError, MemoryError) as error:
        _fail(f"{type(error).__name__}: {error}")


def _fail(message: str) -> NoReturn:
    sys.exit(f"concept-cam: {' '.join(message.splitlines())}")


def _one_line(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, UserWarning):
        typer.echo(f"concept-cam: note: {message}", err=True)
