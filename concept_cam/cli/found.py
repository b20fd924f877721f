"""What ``concept-cam parts`` answers: each finding with its files, and the next useful command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concept_cam.cli.answers import Answers
from concept_cam.cli.images import data_of
from concept_cam.cli.terminal import number
from concept_cam.errors import one_line

if TYPE_CHECKING:
    from concept_cam.cli.encoders import Asked
    from concept_cam.parts import PartFinding
    from concept_cam.writers import PartsFound

_FEW = 8
"""Images of which each gets a line."""


@dataclass
class Found:
    """The findings of one command.

    Attributes:
        answers: prints.
        out: the folder of the files.
        names: what the files of each image are called.
        draws: whether images are drawn on.
        output: ``files`` or ``parquet``.
        question: what ``localize`` is to be asked of the first part that was found.
    """

    answers: Answers
    out: Path
    names: Mapping[Path, str]
    draws: bool
    output: str
    question: list[str | Path] = field(default_factory=list)

    def take(self, path: Path, finding: PartFinding) -> None:
        """Answer with the finding of an image."""
        from concept_cam.parts.sheet import summary

        self.question = self.question or _question(path, finding)
        if len(self.names) <= _FEW:
            self.answers.say(f"{one_line(path.name, 120)}: {summary(finding)}")
        if self.answers.as_json:
            name = self.names[path]
            files = [*([f"annotated/{name}.png"] if self.draws else []), f"findings/{name}.safetensors"]
            self.answers.give(image=str(path), problem=None, **_about(finding), files=[str(self.out / file) for file in files])

    def finish(self, made: PartsFound, given: Asked) -> None:
        """Say what was found and where it is, and what comes next.

        Args:
            made: by the run.
            given: the model.
        """
        count = len(self.names) - made.failed
        if count:
            read = number(count, "image") + (f", {made.failed} skipped" if made.failed else "")
            drawn = "annotated/, " if self.draws else ""
            files = f"parts.csv, coco.json, cub/ and {number(made.sheets, 'sheet')} in {self.out}"
            where = f"{drawn}{files if self.output == 'files' else data_of(self.out)}"
            self.answers.say(f"{read}, {made.visible} of {number(made.asked, 'part')} visible; {where}")
        if self.question:
            self.answers.next("localize", *self.question, *given.words)


def _question(path: Path, finding: PartFinding) -> list[str | Path]:
    """Where the first part is that is visible; nothing if none is."""
    part = next((part for part in finding.parts if part.visible), None)
    if part is None:
        return []
    values = " ".join(reading.value for reading in part.attributes.values())
    return [path, "--target", f"{values} {part.name}".strip(), "--strength", "0"]


def _about(finding: PartFinding) -> dict[str, Any]:
    """A finding as JSON knows it, without masks and maps."""
    parts = [
        {
            **{name: getattr(part, name) for name in ("name", "visible", "confidence", "keypoint", "box")},
            "attributes": {name: asdict(reading) for name, reading in part.attributes.items()},
        }
        for part in finding.parts
    ]
    return {"parent": finding.parent, "parts": parts}
