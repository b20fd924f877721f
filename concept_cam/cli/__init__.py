"""The command line. Heavy imports wait until a command runs."""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer.main import get_command

from concept_cam.cli.audit import audit
from concept_cam.cli.checked import Command
from concept_cam.cli.demo import demo
from concept_cam.cli.evaluate import evaluate
from concept_cam.cli.explore import explore
from concept_cam.cli.fields import fields
from concept_cam.cli.localize import localize
from concept_cam.cli.methods import methods
from concept_cam.cli.models import check, models
from concept_cam.cli.parts import parts
from concept_cam.cli.report import report
from concept_cam.cli.search import search
from concept_cam.cli.terminal import complain, finish, give_up
from concept_cam.cli.welcome import TEXT
from concept_cam.cli.world import world
from concept_cam.errors import AuditFailed, ConceptCamError, UnknownWord

app = typer.Typer()

PASSED, FAILED, ERROR = 0, 1, 2
"""Exit codes: all is well; what was to be checked does not pass; an error. A signal's is 128 and its number."""

_INTERRUPTED, _BROKEN_PIPE = 130, 141
_TRACEBACK = "CONCEPT_CAM_TRACEBACK"
_COMPLETE = "_CONCEPT_CAM_COMPLETE"
"""Set by the shell that asks what may come next."""

_USAGE_ERROR = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


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
    """Where in this image is the thing that makes it THIS concept and not that similar one?"""


for command in (localize, methods, models, check, evaluate, audit, report, parts, fields, search, explore, demo, world):
    app.command(cls=Command)(command)


def main(*, alone: bool = False) -> None:
    """Run the command line: whatever is raised is one line on the error stream and an exit code, never a traceback.

    With CONCEPT_CAM_TRACEBACK=1 in the environment the traceback comes first.

    Args:
        alone: whether this is all that the process does, so that its garbage is ours; see ``Command.invoke``.
    """
    Command.alone = alone
    warnings.showwarning = _note
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal cannot spell shall not end the work.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    # What open_clip and the hub client log on the way to a failure is in the one line that we end with.
    logging.disable(logging.ERROR)
    if os.environ.get(_COMPLETE) or sys.argv[1:2] in (["--install-completion"], ["--show-completion"]):
        _whole()(prog_name="concept-cam")  # typer's own, which exits
    code = _run(sys.argv[1:])
    give_up()
    sys.exit(code)


def _run(arguments: Sequence[str]) -> int:
    """The exit code of what the arguments say; the last net, so all that is raised ends here."""
    try:
        # Not through typer's own main, which has other ideas of errors, interrupts and pipes.
        whole = _whole()
        if not arguments:
            typer.echo(TEXT)
            raise typer.Exit
        with whole.make_context("concept-cam", list(arguments)) as context:
            whole.invoke(context)
        finish()
    except typer.Exit as leaving:
        return leaving.exit_code
    except (Exception, KeyboardInterrupt, SystemExit) as error:  # noqa: BLE001  (the last net)
        if isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError):
            return _BROKEN_PIPE  # `| head` has seen enough
        if os.environ.get(_TRACEBACK):
            traceback.print_exc()
        try:
            complain(_line_of(error))
        except OSError:  # there is nobody to tell
            return ERROR
        if isinstance(error, KeyboardInterrupt):
            return _INTERRUPTED
        return FAILED if isinstance(error, AuditFailed) else ERROR
    return PASSED


@cache
def _whole() -> Any:
    return get_command(app)


def _line_of(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return f"interrupted; {str(error) or 'what was finished is kept.'}"
    if isinstance(error, _USAGE_ERROR):
        context: Any = getattr(error, "ctx", None)
        path = context.command_path if context else "concept-cam"
        said = error.format_message()  # type: ignore[attr-defined]
        return f"{said}{'' if said.endswith(('.', '?', ')')) else '.'} `{path} --help` tells more."
    if isinstance(error, UnknownWord):
        return f"{error} For other words give another encoder with --model."
    if isinstance(error, ConceptCamError):
        return str(error)
    said = str(error) or "no more is known"
    if isinstance(error, OSError | MemoryError):
        return f"{type(error).__name__}: {said}"
    return f"{type(error).__name__}: {said} (not foreseen; {_TRACEBACK}=1 in the environment shows where)"


def _note(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, UserWarning):
        complain(f"note: {message}")
