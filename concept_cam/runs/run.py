"""A folder that is one run's: its settings, its batches, and the table of all rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, final

from tqdm import tqdm

from concept_cam.errors import OutputError, one_line
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
        folder: with ``run.json``, ``batches/`` and the table.
        settings: all that its rows depend on, as JSON knows it; None if nothing is kept, so that nothing can be resumed.
        columns: of its rows.
        named: the name of the file with all rows; None leaves it out.
    """

    folder: Path
    settings: Mapping[str, Any] | None
    columns: Sequence[str]
    named: str | None = "rows.csv"

    @classmethod
    @contextmanager
    def held(
        cls,
        folder: Path,
        settings: Mapping[str, Any],
        columns: Sequence[str],
        *,
        table: str = "rows.csv",
        below: Sequence[str] = ("images",),
    ) -> Iterator[Run]:
        """Take a folder for a run, or find that it already holds this run; no other process writes there meanwhile.

        Unfinished files that killed processes have left there are deleted.

        Args:
            folder: made if it is not there.
            settings: all that the rows depend on.
            columns: of the rows.
            table: the name of the file with all rows.
            below: sub-folders with files of the run, beside ``batches``.

        Raises:
            OutputError: the folder holds another run, another process is writing there, or it cannot be written.
        """
        # What JSON does not know is known by its digest.
        settings = json.loads(json.dumps(settings, default=digest_of))
        with alone_in(folder):
            _claim(folder / SETTINGS, settings)
            clear_leftovers(folder, "batches", *below)
            yield cls(folder, settings, columns, table)

    @classmethod
    def unkept(cls, folder: Path, columns: Sequence[str], table: str | None = None) -> Run:
        """A run of one item: there is nothing to resume, so no settings and no batches are kept.

        Args:
            folder: for the table.
            columns: of the rows.
            table: the name of the file with all rows; by default there is none.

        Raises:
            OutputError: the folder holds a run of several items, whose files would be written over.
        """
        if (folder / SETTINGS).exists():
            raise OutputError(f"{folder} holds a run of several images; choose another folder, or delete it.")
        return cls(folder, None, columns, table)

    def batches(
        self, items: Sequence[T], size: int, name: Callable[[T], str], make: Callable[[Sequence[T]], Files]
    ) -> list[Batch]:
        """Make and write the batches that are not there and whole; then write the table. See ``each``.

        Args:
            items: the examples of a data set, or what is made of them.
            size: of a batch.
            name: what an item is.
            make: the files of some items; ``.csv`` has their rows.

        Raises:
            OutputError: something cannot be written.
        """
        return [batch for batch, *_ in self.each(items, size, name, lambda groups: map(make, groups))]

    def each(
        self,
        items: Sequence[T],
        size: int,
        name: Callable[[T], str],
        make: Callable[[Iterator[Sequence[T]]], Iterator[Files]],
        whole: Callable[[Files], bool] = bool,
    ) -> Generator[tuple[Batch, Sequence[T], Files, bool], None, None]:
        """Give each batch in order, as soon as it is whole on the disk; then write the table.

        Args:
            items: the examples of a data set, or what is made of them.
            size: of a batch.
            name: what an item is.
            make: given the groups of items that are to be made, it gives the files of each in order; ``.csv`` has their rows.
                It may read groups ahead.
            whole: whether what a batch has written elsewhere is still there.

        Returns:
            The batch, its items, its files (without tensors, if it was there already), and whether it was.

        Raises:
            OutputError: something cannot be written.
            KeyboardInterrupt: it is interrupted; the table has the rows of all batches that are whole, and the message says
                how many items those are.
        """
        digest, held = digest_of(self.settings), []
        for start in range(0, len(items), size):
            some = items[start : start + size]
            batch = Batch(self.folder / "batches" / f"{start // size:05d}", digest, tuple(map(name, some)))
            held.append((batch, some, None if self.settings is None else _read(batch, whole)))
        made = make(some for _, some, files in held if files is None)
        rows = [None if files is None else files[".csv"] for *_, files in held]
        progress = _Progress(self, [len(some) for _, some, _ in held], rows)
        with progress, tqdm(total=len(items), desc="images", disable=None if len(held) > 1 else True) as bar:
            for k, (batch, some, kept) in enumerate(held):
                files = next(made) if kept is None else kept
                if kept is None:
                    progress.begun = k, batch, files[".csv"]
                    if self.settings is not None:
                        batch.write(files)
                    progress.take()
                yield batch, some, files, kept is not None
                bar.update(len(some))
        self._write_table(progress.rows)

    @property
    def table(self) -> Path:
        """The file with all rows."""
        return self.folder / (self.named or "")

    def _write_table(self, rows: Sequence[bytes | None]) -> None:
        """Write the table of those batches that there are; each has the header."""
        if self.named is not None:
            header = table_of([], self.columns)
            write_file(self.table, header + b"".join(of_batch[len(header) :] for of_batch in rows if of_batch is not None))


def _read(batch: Batch, whole: Callable[[Files], bool]) -> Files | None:
    """The files of a batch that is there, of this run and whole; without tensors, of which a run has too many for memory."""
    files = batch.read()
    if files is None or not whole(files):
        return None
    return {ending: content for ending, content in files.items() if ending != ".safetensors"}


@dataclass
class _Progress:
    """How far a run is, while it runs: the number of items of each batch, the rows of those done, and the batch begun."""

    run: Run
    sizes: list[int]
    rows: list[bytes | None]
    begun: tuple[int, Batch, bytes] | None = None

    def __enter__(self) -> None:
        _running.append(self)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        _running.remove(self)
        if isinstance(error, KeyboardInterrupt) and self.run.settings is not None:
            raise KeyboardInterrupt(self.keep()) from error

    def take(self) -> None:
        """Count the batch that was begun as done."""
        if self.begun is not None:
            k, _, rows = self.begun
            # A signal may come in between: to take it twice does no harm.
            self.rows[k] = rows
            self.begun = None

    def keep(self) -> str:
        """Write the table of what is done, if there is room for it; says how much that is."""
        # A signal may come between the seal of a batch and its count.
        if self.begun is not None and self.begun[1].read() is not None:
            self.take()
        count = sum(size for size, rows in zip(self.sizes, self.rows, strict=True) if rows is not None)
        with suppress(OutputError):
            if count:
                self.run._write_table(self.rows)
        return one_line(
            f"{count:,} of {sum(self.sizes):,} images are kept in {self.run.folder}; the same command resumes there."
        )


_running: list[_Progress] = []


def keep() -> str | None:
    """Where a signal ends the process at once: keep the table of the run; how many items are kept, if there is a run."""
    if not _running or _running[-1].run.settings is None:
        return None
    return _running[-1].keep()


def read_settings(folder: Path) -> dict[str, Any]:
    """What the rows in a folder depend on: options, digests of all that was looked at, versions.

    Raises:
        OutputError: there is no run, or its settings are damaged.

    Example:
        >>> import tempfile
        >>> from concept_cam.runs import Run, read_settings
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with Run.held(Path(folder), {"method": "hires_cam"}, ("image", "label")):
        ...         read_settings(Path(folder))
        {'method': 'hires_cam'}
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
