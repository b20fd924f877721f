"""An evaluation that was run, with its tables and its page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, final

from rich.console import Console

from concept_cam.datasets import Dataset
from concept_cam.evaluation.columns import GridRow
from concept_cam.evaluation.page import evaluation_page
from concept_cam.evaluation.report import means, problems, tables
from concept_cam.files import write_file
from concept_cam.page import Strip, to_html
from concept_cam.provenance import Provenance
from concept_cam.runs import Skipped, read_settings
from concept_cam.tables import table_of

_WIDTH = 320


@final
@dataclass(frozen=True, eq=False)
class Evaluation:
    """An evaluation that was run.

    Attributes:
        dataset: the images.
        folder: with ``rows.csv``, ``means.csv``, ``tables.md`` and ``report.html``.
        among: among how many of how many classes the model was judged.
        rows: one for each image, method, references and strength, see ``GridRow``.
        told: what else is to be said of them, a line each.
        made: how; its line to cite is the last of the tables.
        strips: images with their maps, for the page.
    """

    dataset: Dataset
    folder: Path
    among: str
    rows: Sequence[GridRow | Skipped]
    told: tuple[str, ...] = ()
    made: Provenance | None = None
    strips: tuple[Strip, ...] = ()

    @cached_property
    def means(self) -> list[dict[str, Any]]:
        """One row for each method, references and strength: how many images, and the mean of each metric."""
        return means(self.rows)

    @property
    def problems(self) -> list[str]:
        """What was skipped, and why; a line each."""
        return [*self.dataset.problems, *problems(self.rows)]

    @property
    def used(self) -> int:
        """How many images could be used."""
        return len({(row.image, row.label) for row in self.rows if isinstance(row, GridRow)})

    @property
    def skipped(self) -> int:
        """How many could not: with those that are used, all that the data set has."""
        return len(self.dataset.examples) - self.used + len(self.dataset.problems)

    @property
    def settings(self) -> dict[str, Any]:
        """What the rows depend on: options, digests of all that was looked at, versions; as in ``run.json``."""
        return read_settings(self.folder)

    @cached_property
    def text(self) -> str:
        """All tables in Markdown, with intervals, and among how many classes the model was judged."""
        console = Console(width=_WIDTH, record=True, file=io.StringIO())
        for table in tables(self.rows):
            console.print(table)
        lines = [line.rstrip() for line in console.export_text().splitlines()]
        cite = [f"To cite this: {self.made.cite}"] if self.made else []
        return "\n".join([*lines, *self.told, f"The model is judged among {self.among}.", *cite, ""])

    def write(self) -> None:
        """Write ``means.csv``, ``tables.md`` and ``report.html``.

        Raises:
            OutputError: one cannot be written.
        """
        columns = list(dict.fromkeys(key for row in self.means for key in row))
        write_file(self.folder / "means.csv", table_of(self.means, columns))
        write_file(self.folder / "tables.md", self.text.encode())
        page = evaluation_page(self.dataset.name, self.rows, self.strips, self.told, self.problems, self.made)
        write_file(self.folder / "report.html", to_html(page).encode())
