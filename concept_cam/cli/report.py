"""``concept-cam report``: the page and the tables of an audit once more, from its folder; and how an audit ends."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from concept_cam.address import address_of
from concept_cam.cli import options
from concept_cam.cli.answers import Answers
from concept_cam.cli.terminal import complain, say
from concept_cam.errors import AuditFailed, OptionError

if TYPE_CHECKING:
    from concept_cam.audit import Audit, Explored
    from concept_cam.audit.summary import Condition


def report(
    folder: Annotated[Path, typer.Argument(help="The folder that `audit` wrote.")] = Path("concept-cam-audit"),
    other: Annotated[
        Path | None,
        typer.Option(help="The folder of an audit of another model on the same images.  [default: other in the folder]"),
    ] = None,
    fail_on: options.FailOn = None,
) -> None:
    """Write the report and the tables of a finished audit again, without the model."""
    from concept_cam.audit import Audit, Explored
    from concept_cam.audit.setup import FILE

    conditions, folder = read_conditions(fail_on), address_of(folder)
    if other is None and (folder / "other" / FILE).exists():
        other = folder / "other"
    audits = [Audit.load(one) for one in (folder, other) if one is not None]
    tell(audits, conditions, Explored.kept(audits[0]))


def read_conditions(given: Sequence[str] | None) -> list[Condition]:
    """The conditions of ``--fail-on``.

    Raises:
        OptionError: one is none.
    """
    from concept_cam.audit.summary import Condition

    try:
        return [Condition.read(text) for text in given or ()]
    except OptionError as error:
        raise OptionError(f"--fail-on {error}") from error


def tell(audits: Sequence[Audit], conditions: Sequence[Condition], explorer: Explored) -> None:
    """Write the report and the tables of an audit, and print what it comes to.

    Args:
        audits: of one model, or of two on the same images.
        conditions: on which it fails.
        explorer: that the report links its images to.

    Raises:
        AuditFailed: one of the conditions holds.
        OutputError: something cannot be written, or an audit is damaged.
        OptionError: the two audits are not of the same images.
    """
    from concept_cam.audit import write_report, write_tables
    from concept_cam.audit.summary import summary

    found = audits[0]
    page = write_report(*audits, explorer=explorer)
    write_tables(*audits)
    figures = summary(found)
    for problem in found.problems:
        complain(f"skipped: {problem}")
    right = "not known" if found.accuracy is None else f"{found.accuracy:.3f}"
    say(f"{figures['images']} images, {found.skipped} skipped, accuracy {right}")
    say(f"evidence off the object: {_suspects(found)}")
    say(f"report in {page}")
    for one in audits:
        say(f"{one.setup.model} decides among {one.setup.among}")
    if not conditions:
        known = found.accuracy is not None
        gate = f"accuracy < {floor(100 * (found.accuracy or 0)) / 100:g}" if known else f"suspects > {len(found.suspects)}"
        Answers().next("report", page.parent, "--fail-on", gate)
    reasons = [reason for condition in conditions if (reason := condition.reason(figures))]
    if reasons:
        raise AuditFailed(f"{'; '.join(reasons)}: {page} shows why.")


def _suspects(found: Audit) -> str:
    """The suspects, and how much can be said of the classes."""
    if not found.ranked:
        return "not known, without masks or boxes"
    if not found.judged:
        return f"too few images to say; a class needs {found.fewest}"
    few = len(found.ranked) - len(found.judged)
    rest = f"; too few images to say of {few} of {len(found.ranked)} classes, which need {found.fewest}" if few else ""
    return (", ".join(one.name for one in found.suspects) or "none") + rest
