"""A folder that is one run's: its settings, its batches, and the table of all rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, final

from tqdm import tqdm

from concept_cam.errors import OutputError
from concept_cam.files import alone_in, clear_leftovers, write_file
from concept_cam.outside import read_bytes
from concept_cam.runs.batches import Batch, Files
from concept_cam.runs.digests import digest_of
from concept_cam.tables import table_of

T = TypeVar("T")

SETTINGS = "run.json"
_LARGEST = 1 << 24

_DIGESTS = {
    "model_digest": "model (its numbers or its layers are not the same)",
    "preprocessing_digest": "preprocessing",
    "texts_digest": "tokenizer (it reads the texts otherwise)",
    "method_digests": "method of the same name",
    "images_digest": "set of images",
    "labels_digest": "set of names, labels or twins",
    "regions_digest": "set of masks, boxes or points",
    "training_digest": "set of training images or labels",
    "vocabulary_digest": "vocabulary",
}
"""How a refusal calls what ``identity_of`` gives."""


@final
@dataclass(frozen=True, eq=False)
class Run:
    """A run in its folder.

    Attributes:
        folder: with ``run.json``, ``batches/`` and ``rows.csv``.
        settings: all that its rows depend on, as JSON knows it.
        columns: of its rows.
    """

    folder: Path
    settings: Mapping[str, Any]
    columns: Sequence[str]

    @classmethod
    @contextmanager
    def held(cls, folder: Path, settings: Mapping[str, Any], columns: Sequence[str]) -> Iterator[Run]:
        """Take a folder for a run, or find that it is already this one's; nobody else writes there meanwhile.

        What killed processes have left there of unfinished files is deleted.

        Args:
            folder: made if it is not there.
            settings: all that the rows depend on.
            columns: of the rows.

        Raises:
            OutputError: it is another's, another process is writing there, or it cannot be written.
        """
        # What JSON does not know is known by its digest.
        settings = json.loads(json.dumps(settings, default=digest_of))
        with alone_in(folder):
            _claim(folder / SETTINGS, settings)
            clear_leftovers(folder, "batches", "images")
            yield cls(folder, settings, columns)

    def batches(
        self, items: Sequence[T], size: int, name: Callable[[T], str], make: Callable[[Sequence[T]], Files]
    ) -> list[Batch]:
        """Have every so many items made and written, but for those that are there and whole; then write ``rows.csv``.

        Args:
            items: the examples of a data set, or what is made of them.
            size: of a batch.
            name: what an item is.
            make: the files of some items; ``.csv`` has their rows.

        Raises:
            OutputError: something cannot be written.
        """
        digest, batches, rows = digest_of(self.settings), [], []
        with tqdm(total=len(items), desc="images", disable=None) as bar:
            for start in range(0, len(items), size):
                some = items[start : start + size]
                batch = Batch(self.folder / "batches" / f"{start // size:05d}", digest, tuple(map(name, some)))
                files = batch.read()
                if files is None:
                    files = make(some)
                    batch.write(files)
                rows.append(files[".csv"])
                batches.append(batch)
                bar.update(len(some))
        header = table_of([], self.columns)
        write_file(self.table, header + b"".join(of_batch[len(header) :] for of_batch in rows))
        return batches

    @property
    def table(self) -> Path:
        """The file with all rows."""
        return self.folder / "rows.csv"


def read_settings(folder: Path) -> dict[str, Any]:
    """What the rows in a folder depend on: options, digests of all that was looked at, versions.

    Raises:
        OutputError: there is no run, or its settings are damaged.
    """
    file = folder / SETTINGS
    try:
        held = json.loads(read_bytes(file, _LARGEST))
        if not isinstance(held, dict):
            raise ValueError("no mapping")
        # What is too deep to be written again is not what a run has written.
        json.dumps(held)
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "it is damaged"
        raise OutputError(f"{file}: not the settings of a run ({reason}); choose another folder, or delete it.") from error
    return held


def _claim(file: Path, settings: Mapping[str, Any]) -> None:
    if not file.exists() and not file.is_symlink():
        write_file(file, (json.dumps(settings, indent=2) + "\n").encode())
        return
    held = read_settings(file.parent)
    other = [key for key in (*settings, *held) if _text(held, key) != _text(settings, key)]
    if other:
        # A model by another name has other numbers: digests are told where nothing else says it.
        named = [key for key in other if key not in _DIGESTS]
        what = dict.fromkeys(map(_named, named) if named else (_DIGESTS[key] for key in other))
        versions = _versions(held.get("versions"), settings.get("versions")) if "versions" in named else ""
        raise OutputError(
            f"{file.parent} holds a run with another {', '.join(what)}{versions}; choose another folder, or delete it."
        )


def _text(held: Mapping[str, Any], key: str) -> str | None:
    """A value as text, for to Python 1, 1.0 and true are equal, and NaN is not itself."""
    return json.dumps(held[key], sort_keys=True) if key in held else None


def _named(key: str) -> str:
    return key if key.isprintable() and len(key) < 50 else "setting"


def _versions(held: Any, now: Any) -> str:
    """Of which libraries; a damaged file says nothing."""
    if not isinstance(held, dict) or not isinstance(now, dict):
        return ""
    other = [key for key in now if held.get(key) != now[key]]
    return f" ({', '.join(f'{key} is {now[key]} now' for key in other)})" if other else ""
