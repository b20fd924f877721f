"""A folder that is one run's: its settings, its batches, and the table of all rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, final

from tqdm import tqdm

from concept_cam.address import address_of
from concept_cam.errors import OutputError, one_line
from concept_cam.files import FileWriter, alone_in, clear_leftovers
from concept_cam.runs.batches import DATA, Batch, Files
from concept_cam.runs.crew import crew
from concept_cam.runs.digests import digest_of
from concept_cam.runs.settings import SETTINGS, claim, read_settings
from concept_cam.runs.share import Share, ShareDone, share
from concept_cam.tables import table_of

T = TypeVar("T")


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
        first: bool = False,
    ) -> Iterator[Run]:
        """Take a folder for a run, or find that it already holds this run; no other process writes there meanwhile.

        Unfinished files that killed processes have left there are deleted.

        Args:
            folder: made if it is not there.
            settings: all that the rows depend on.
            columns: of the rows.
            table: the name of the file with all rows.
            below: sub-folders with files of the run, beside ``batches``.
            first: whether a later run of the same job needs its results.

        Raises:
            OutputError: the folder holds another run, another process is writing there, or it cannot be written.
        """
        if (part := share()) is not None:
            # The process that has started this one has the folder, and has looked at all that the rows depend on.
            yield cls(folder, part.settings_in(folder, read_settings, first), columns, table)
            return
        # What JSON does not know is known by its digest.
        settings = json.loads(json.dumps(settings, default=digest_of))
        folder = address_of(folder)
        with alone_in(folder):
            claim(folder / SETTINGS, settings)
            clear_leftovers(folder, "batches", DATA, *below)
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
            The batch, its items, its files (if it was there already, those of ``Batch.light``), and whether it was.

        Raises:
            OutputError: something cannot be written.
            KeyboardInterrupt: it is interrupted; the table has the rows of all batches that are whole, and the message says
                how many items those are.
            ShareDone: this process is a worker, and its share of the batches is made.
        """
        groups = [items[start : start + size] for start in range(0, len(items), size)]
        digest, stem = digest_of(self.settings), self.folder / "batches"
        batches = [Batch(stem / f"{k:05d}", digest, tuple(map(name, some))) for k, some in enumerate(groups)]
        if (part := share()) is not None and part.run == digest:
            _make_share(part, batches, groups, make, whole)
            raise ShareDone
        held = [self.settings is not None and _is_kept(batch, whole) for batch in batches]
        with _Progress(self, batches):
            missing = [k for k, kept in enumerate(held) if not kept]
            if part is not None and missing:
                raise OutputError(f"{batches[missing[0]].stem}: a worker does not see this batch, which was made before.")
            for k in missing if self.settings is not None else ():
                batches[k].unseal()
            if (others := crew()) is not None and self.settings is not None and missing:
                others.make(groups, missing, digest)
                held = [kept or _is_kept(batch, whole) for batch, kept in zip(batches, held, strict=True)]
            made = make(iter([some for some, kept in zip(groups, held, strict=True) if not kept]))
            rows = list[bytes]()
            with tqdm(total=len(items), desc="images", disable=None if len(groups) > 1 else True) as bar:
                for batch, some, kept in zip(batches, groups, held, strict=True):
                    files = _there(batch.light(), batch) if kept else next(made)
                    if self.settings is None:
                        rows.append(files[".csv"])  # of one item
                    elif not kept:
                        batch.write(files)
                    yield batch, some, files, kept
                    bar.update(len(some))
        if part is None:  # else it is there
            self._write_table(rows if self.settings is None else (_there(batch.rows(), batch) for batch in batches))

    @property
    def table(self) -> Path:
        """The file with all rows."""
        return self.folder / (self.named or "")

    def _write_table(self, rows: Iterable[bytes]) -> None:
        """Write the table of some batches, one by one; the rows of each have the header."""
        if self.named is None:
            return
        header = table_of([], self.columns)
        with FileWriter(self.table) as file:
            file.write(header)
            for of_batch in rows:
                file.write(of_batch[len(header) :])


def _is_kept(batch: Batch, whole: Callable[[Files], bool]) -> bool:
    """Whether a batch is there, of this run and whole."""
    return (files := batch.read()) is not None and whole(files)


def _there(found: T | None, batch: Batch) -> T:
    """What was read of a batch that was whole before.

    Raises:
        OutputError: it is not there any more.
    """
    if found is None:
        raise OutputError(f"{batch.stem}: the batch was changed during the run; run it again.")
    return found


def _make_share(
    part: Share,
    batches: Sequence[Batch],
    groups: Sequence[Sequence[T]],
    make: Callable[[Iterator[Sequence[T]]], Iterator[Files]],
    whole: Callable[[Files], bool],
) -> None:
    """Make the batches of a worker that are not there: one after another, so that it is known on which one it dies."""
    for k, (batch, some) in enumerate(zip(batches, groups, strict=True)):
        if k not in part.batches or _is_kept(batch, whole):
            continue
        if k == part.probed:
            for number, item in enumerate(some):
                part.begin(k, number)
                list(make(iter([[item]])))
        part.begin(k)
        (files,) = make(iter([some]))
        batch.write(files)
        part.end(len(some))


@dataclass(frozen=True)
class _Progress:
    """How far a run is, while it runs."""

    run: Run
    batches: Sequence[Batch]

    def __enter__(self) -> None:
        _running.append(self)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        _running.remove(self)
        if isinstance(error, KeyboardInterrupt) and self.run.settings is not None:
            raise KeyboardInterrupt(self.keep()) from error

    def keep(self) -> str:
        """Write the table of what is done, if there is room for it; says how much that is."""
        # What is on the disk: workers make batches too, and a signal may come just after a seal.
        kept = [batch for batch in self.batches if batch.rows() is not None]
        count, of_all = (sum(len(batch.names) for batch in some) for some in (kept, self.batches))
        with suppress(OutputError):
            if count:
                self.run._write_table(_there(batch.rows(), batch) for batch in kept)
        return one_line(f"{count:,} of {of_all:,} images are kept in {self.run.folder}; the same command resumes there.")


_running: list[_Progress] = []


def keep() -> str | None:
    """Where a signal ends the process at once: keep the table of the run; how many items are kept, if there is a run."""
    return _running[-1].keep() if _running and _running[-1].run.settings is not None else None
