"""Results of many images in one folder: kept batch by batch, so that what is interrupted is resumed."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar, final

from PIL import Image

from concept_cam import images
from concept_cam.errors import ConceptCamError, ImageError, OptionError, OutputError, Unreachable
from concept_cam.outside import length_of, opened, parse_json
from concept_cam.runs import Run
from concept_cam.runs.batches import Files
from concept_cam.runs.share import share
from concept_cam.runs.table import problem_of
from concept_cam.writers.table import Row, csv_of
from concept_cam.writers.writer import Writer

R = TypeVar("R")

Failed: TypeAlias = Callable[[Path, ConceptCamError], None]
Stream: TypeAlias = Callable[[Iterable[Path], Failed], Generator[tuple[Path, R, Image.Image | None], None, None]]
"""Gives each image's result in order, with the image if it has it at hand; calls what it is given with images that fail."""

BATCH = 8
"""Images that are kept together, or as many as go through the model at once: an interrupted run loses at most so many."""


def ignore(*_: object) -> None:
    """Hear nothing."""


_LARGE = 1 << 20

_OUTCOMES = ".outcomes"
"""The file of a batch that says which files each image has, or why it has none."""


@final
@dataclass(frozen=True, eq=False)
class BatchFile(Generic[R]):
    """A file of a batch, with the rows of all its images.

    Attributes:
        rows: of an image: of its result, or of why there is none.
        content: the file that has these rows.
    """

    rows: Callable[[Path, R | str], list[Row]]
    content: Callable[[Sequence[Row]], bytes]


def table_file(rows: Callable[[Path, R | str], list[Row]], columns: Sequence[str]) -> BatchFile[R]:
    """The rows of a batch in the table of the run.

    Args:
        rows: of an image.
        columns: of the table.
    """
    return BatchFile(rows, lambda held: csv_of(held, columns))


@final
@dataclass(frozen=True, eq=False)
class Job(Generic[R]):
    """What is made of each image.

    Attributes:
        names: what the files of each image are called, in the order of the images.
        results: of the images.
        each: writers of files for each image; those are kept.
        whole: writers of files of all images; those are made anew of the results that are kept.
        files: of each batch, by their endings; ``.csv`` has the rows of the table.
        again: reads a result that is kept, by its name; None where results are kept in ``files`` alone.
        told: called with every result that is made, and with those that ``again`` reads, in the order of the images.
        failed: called with every image that fails, and why.
        batch_size: how many images ``results`` puts through the model at once.
        together: images that are kept together.
        counted: called with the files of each batch that is made or kept.
    """

    names: Mapping[Path, str]
    results: Stream[R]
    each: Sequence[Writer[R]]
    whole: Sequence[Writer[R]]
    files: Mapping[str, BatchFile[R]]
    again: Callable[[str], R] | None
    told: Callable[[Path, R], None]
    failed: Callable[[Path, str], None]
    batch_size: int
    together: int = field(default_factory=lambda: BATCH)
    counted: Callable[[Files], None] = ignore

    @property
    def gathering(self) -> Sequence[Writer[R]]:
        """Those of ``whole`` that write in this process: none in a worker, which has a share of the images."""
        return self.whole if share() is None else ()

    def run(self, run: Run) -> int:
        """Make what is not kept, and write all files.

        Args:
            run: its folder is that of the writers. Where nothing is kept, a failure is raised.

        Returns:
            How many images failed.

        Raises:
            OutputError: a file cannot be written.
            KeyboardInterrupt: it is interrupted; the message says how many images are kept.
        """
        failures = 0
        with ExitStack() as stack:
            for writer in self.gathering:
                stack.enter_context(writer)
            makes = _Makes(self, run.folder, raises=run.settings is None)
            # What is resumed goes through the model in the same company: batches of other images differ in the last digit.
            size = self.batch_size * max(1, self.together // self.batch_size)
            batches = run.each(list(self.names), size, str, makes.files, lambda files: _are_there(run.folder, files))
            with closing(batches):
                for _, paths, files, kept in batches:
                    self.counted(files)
                    outcomes = parse_json(files[_OUTCOMES])
                    failures += sum("problem" in outcome for outcome in outcomes)
                    for path, outcome in zip(paths, outcomes, strict=True) if kept else ():
                        self._take_again(path, outcome)
        return failures

    def _take_again(self, path: Path, outcome: Mapping[str, Any]) -> None:
        """Take an image whose files are kept."""
        if "problem" in outcome:
            self.failed(path, outcome["problem"])
            return
        if self.again is None:
            return
        result = self.again(self.names[path])
        image = images.read_image(path) if any(writer.draws for writer in self.whole) else None
        for writer in self.whole:
            writer.add(self.names[path], result, image)
        self.told(path, result)


class _Changed(ImageError):
    """An image was written to between its result and its drawing."""


class _Makes(Generic[R]):
    """Makes the results of groups of images, in one stream that reads ahead."""

    def __init__(self, job: Job[R], folder: Path, *, raises: bool) -> None:
        self._job, self._folder, self._raises = job, folder, raises
        self._draws = any(writer.draws for writer in (*job.each, *job.gathering))
        self._waiting: deque[Sequence[Path]] = deque()
        # Rows and not results, which hold masks.
        self._outcomes: dict[Path, tuple[dict[str, list[Row]], dict[str, Any]]] = {}
        self._states: dict[Path, tuple[object, ...] | None] = {}

    def files(self, groups: Iterator[Sequence[Path]]) -> Iterator[Files]:
        """The files of each group, in order."""
        with closing(self._job.results(self._of(groups), self._fail)) as results:
            for path, result, image in results:
                yield from self._finished()  # groups whose last image failed
                try:
                    self._take(path, result, image)
                except (OptionError, OutputError):
                    raise  # a full disk is full for all
                except _Changed as error:
                    self._fail(path, error, passing=True)
                except ConceptCamError as error:
                    self._fail(path, error)
                yield from self._finished()
        yield from self._finished()

    def _of(self, groups: Iterator[Sequence[Path]]) -> Iterator[Path]:
        for group in groups:
            self._waiting.append(group)
            for path in group:
                self._states[path] = state_of(path)
                yield path

    def _take(self, path: Path, result: R, image: Image.Image | None) -> None:
        """Write what is made of an image.

        Raises:
            ImageError: it is another now, or cannot be read once more to be drawn on.
        """
        name = self._job.names[path]
        # A data set has the digest of the file, which is read now.
        read_again = image is None or ".parquet" in self._job.files
        image = images.read_image(path) if image is None and self._draws else image
        rows = self._rows(path, result)
        if read_again and state_of(path) != self._states[path]:
            raise _Changed(f"{path}: the file was changed while it was looked at; run it again.")
        written = [file for writer in self._job.each for file in writer.add(name, result, image)]
        for writer in self._job.gathering:
            writer.add(name, result, image)
        # What is written is read back: a batch counts only as long as its files are these.
        files = {file.relative_to(self._folder).as_posix(): _state(file) for file in written}
        self._outcomes[path] = rows, {"files": files}
        self._job.told(path, result)

    def _rows(self, path: Path, result: R | str) -> dict[str, list[Row]]:
        """The rows of an image in each file of its batch."""
        return {ending: file.rows(path, result) for ending, file in self._job.files.items()}

    def _fail(self, path: Path, error: ConceptCamError, passing: bool = False) -> None:
        """Keep why an image failed; where that may pass, its batch is made again the next time."""
        if self._raises or isinstance(error, Unreachable):
            raise error
        problem = problem_of(error)
        self._outcomes[path] = self._rows(path, problem), {"problem": problem} | ({"passing": True} if passing else {})
        self._job.failed(path, problem)

    def _finished(self) -> Iterator[Files]:
        """The files of the groups of which all images are through."""
        while self._waiting and all(path in self._outcomes for path in self._waiting[0]):
            group = self._waiting.popleft()
            found = [self._outcomes.pop(path) for path in group]
            for path in group:
                del self._states[path]
            yield {
                **{
                    ending: file.content([row for rows, _ in found for row in rows[ending]])
                    for ending, file in self._job.files.items()
                },
                _OUTCOMES: (json.dumps([outcome for _, outcome in found], indent=1) + "\n").encode(),
            }


def state_of(path: Path) -> tuple[object, ...] | None:
    """What changes when a file is written to or replaced; None if it cannot be looked at.

    Args:
        path: a file.
    """
    try:
        found = path.stat()
    except Unreachable:
        raise
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _are_there(folder: Path, files: Files) -> bool:
    """Whether the files that a batch has written are there, as they were."""
    try:
        outcomes = parse_json(files[_OUTCOMES])
        if any(outcome.get("passing") for outcome in outcomes):
            return False
        held = [item for outcome in outcomes for item in outcome.get("files", {}).items()]
        return all(_state(folder / name) == state for name, state in held)
    except Unreachable:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def _state(file: Path) -> dict[str, Any]:
    """What a file holds, of a large one how much: the overlays of 10,000 photographs are not read again to resume a run."""
    with opened(file) as stream:
        size = length_of(stream)
        return {"bytes": size} if size > _LARGE else {"bytes": size, "sha256": hashlib.sha256(stream.read()).hexdigest()}
