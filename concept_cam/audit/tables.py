"""The tables of an audit, beside its rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from concept_cam.audit.columns import FIGURES
from concept_cam.audit.figures import ClassAudit, Effect, Pair
from concept_cam.audit.findings import Audit
from concept_cam.audit.model_diff import Shift, moves
from concept_cam.audit.summary import summary
from concept_cam.audit.words import Difference
from concept_cam.files import write_file
from concept_cam.tables import table_of

T = TypeVar("T")
Columns: TypeAlias = Mapping[str, Callable[[T], object]]
"""The columns of a table, in order, and what each says of an item."""


def write_tables(audit: Audit, other: Audit | None = None) -> None:
    """Write ``classes.csv``, ``pairs.csv``, ``words.csv``, ``backgrounds.csv``, ``summary.json``, and ``moved.csv``.

    Args:
        audit: that was run.
        other: of the same images by another model; without one there is no ``moved.csv``.

    Raises:
        OutputError: something cannot be written, or the maps of an audit cannot be read.
        OptionError: the other audit is of other images.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from concept_cam import world
        >>> from concept_cam.audit import audit, write_tables
        >>> from concept_cam.world.dataset import birds_dataset
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_tables(audit(world.localizer(), birds_dataset(4), folder))
        ...     sorted(path.name for path in Path(folder).glob("[cpw]*.csv"))
        ['classes.csv', 'pairs.csv', 'words.csv']
    """
    folder, pairs = audit.folder, audit.pairs(None)
    _write(folder / "classes.csv", _CLASS, audit.classes)
    _write(folder / "pairs.csv", _PAIR, pairs)
    _write(folder / "words.csv", _WORDS, ((pair, *told) for pair in pairs for told in pair.described))
    _write(folder / "backgrounds.csv", _BACKGROUND, audit.backgrounds())
    if other is not None:
        _write(folder / "moved.csv", _MOVED, moves(audit, other))
    write_file(folder / "summary.json", (json.dumps(summary(audit), indent=2) + "\n").encode())


def _of_figures() -> dict[str, Callable[[ClassAudit], object]]:
    """The mean of each figure of a row; that of the evidence off the object with its interval."""
    found: dict[str, Callable[[ClassAudit], object]] = {}
    for name in FIGURES:
        if name == "off_object":
            found[name] = lambda one: one.off_object and one.off_object.mean
            found[f"{name}_low"] = lambda one: one.off_object and one.off_object.low
            found[f"{name}_high"] = lambda one: one.off_object and one.off_object.high
        else:
            found[name] = lambda one, name=name: one.means[name]  # type: ignore[misc]
    return found


_CLASS: Columns[ClassAudit] = {
    "class": lambda one: one.name,
    "images": lambda one: one.images,
    "errors": lambda one: one.errors,
    "accuracy": lambda one: one.accuracy,
    "calibration": lambda one: one.calibration,
    "predicted": lambda one: one.predicted,
    **_of_figures(),
    "background": lambda one: one.background and one.background.text,
    "sensitivity": lambda one: one.background and one.background.effect,
    "judged": lambda one: int(one.judged),
    "suspect": lambda one: int(one.suspect),
}

_PAIR: Columns[Pair] = {
    "first": lambda pair: pair.first,
    "second": lambda pair: pair.second,
    "images": lambda pair: pair.images,
    "errors": lambda pair: pair.errors,
    "swapped": lambda pair: pair.swapped,
    "runner_up_probability": lambda pair: pair.runner_up_probability,
    "best": lambda pair: pair.best,
    "worst": lambda pair: pair.worst,
}

_WORDS: Columns[tuple[Pair, Difference, float]] = {
    "first": lambda told: told[0].first,
    "second": lambda told: told[0].second,
    **{one.name: lambda told, name=one.name: getattr(told[1], name) for one in fields(Difference)},  # type: ignore[misc]
    "agreement": lambda told: told[2],
}

_BACKGROUND: Columns[Effect] = {
    "class": lambda one: one.name,
    "background": lambda one: one.text,
    "effect": lambda one: one.effect,
    "chance": lambda one: one.chance,
    "moves": lambda one: int(one.moves),
}

_MOVED: Columns[Shift] = {
    "image": lambda move: move.image,
    "label": lambda move: move.label,
    "before": lambda move: move.before,
    "after": lambda move: move.after,
    "agreement": lambda move: move.agreement,
    "off_object": lambda move: move.off_object and move.off_object[0],
    "off_object_after": lambda move: move.off_object and move.off_object[1],
}


def _write(file: Path, columns: Columns[T], items: Iterable[T]) -> None:
    rows: list[dict[str, Any]] = [{name: of(item) for name, of in columns.items()} for item in items]
    write_file(file, table_of(rows, list(columns)))
