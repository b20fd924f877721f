"""A crew: processes that make the batches of a run together, each with a model of its own.

A worker calls the job itself, and its ``Run`` makes only the batches of the worker's share. So there is one way to make a
batch, and the bytes are the same whoever makes it. What is whole on the disk is never made again: a worker that dies is
replaced, and its successor continues after the last whole batch.

An image may kill each process that looks at it. So after a death on a batch the successor looks at its images one by one. An
image that costs three tries is opened by nobody any more, and gets a row that says why.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Generic, TypeVar, final

import torch
from tqdm import tqdm

from concept_cam.address import absolute
from concept_cam.errors import OptionError, OutputError, one_line
from concept_cam.runs.share import NOWHERE, RAISED, Share, work

R = TypeVar("R")

_TRIES = 3
"""Deaths that an image costs before it is skipped; the run ends after as many before a first batch, on a batch of which no
image kills alone, or on as many images in a row."""

_SECONDS, _PATIENCE = 0.2, 5.0
"""Between two looks at how far the workers are; and for them to end when they are told to."""


_crew: Crew[Any] | None = None


def crew() -> Crew[Any] | None:
    """The crew that is to make the batches of the next run of this process, if there is one."""
    return _crew


def run_together(processes: int, job: Callable[..., R], **heard: Any) -> R:
    """Run a job whose batches are made by several processes, each with a model of its own.

    The result is that of ``job(**heard)``, and so are the bytes in the folder. A process that dies is replaced. An image on
    which three processes die is a row with the reason. The threads of torch are divided among the processes.

    Args:
        processes: how many; with 1 the job is called here.
        job: one of ``localize_images``, ``find_parts_of_images``, ``store_fields``, ``evaluate`` and ``audit`` with its
            arguments (``functools.partial``). It goes to new processes, so job and arguments must pickle.
        heard: further arguments that only this process needs and that need not pickle, such as ``told``.

    Raises:
        OptionError: the job does not pickle.
        OutputError: processes die at once, or all that make one batch.

    Example:
        >>> import tempfile
        >>> from functools import partial
        >>> from concept_cam import world
        >>> from concept_cam.evaluation import evaluate
        >>> from concept_cam.runs import run_together
        >>> from concept_cam.world.dataset import twins_dataset
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     job = partial(evaluate, world.localizer(), twins_dataset(2), folder, methods="hires_cam", strengths=1.0)
        ...     found = run_together(1, job)  # or 2 processes
        >>> found.used
        2
    """
    global _crew  # noqa: PLW0603  (the run that takes it is made within the job)
    if processes < 1:
        raise OptionError(f"processes is {processes}; expected 1 or more.")
    if processes == 1:
        return job(**heard)
    before, _crew = _crew, Crew(processes, job)
    try:
        return job(**heard)
    finally:
        _crew = before


@final
@dataclass
class Crew(Generic[R]):
    """Workers that make the batches of a run.

    Attributes:
        processes: how many.
        job: what each of them calls.
        deaths: how often a process died on a batch, and it is not known on which image.
        tries: how often a process died on an image.
        deadly: paths of images that are skipped.
        in_a_row: how many images were skipped since any was made.
        identity: of the run, see ``identity_of``.
    """

    processes: int
    job: Callable[..., R]
    deaths: Counter[int] = field(default_factory=Counter)
    tries: Counter[str] = field(default_factory=Counter)
    deadly: set[str] = field(default_factory=set)
    in_a_row: int = 0
    identity: Mapping[str, Any] = field(default_factory=dict)

    def make(self, batches: Sequence[Sequence[object]], missing: Sequence[int]) -> None:
        """Have batches made; some may still be missing afterwards, where their share had an error.

        Args:
            batches: the items of each.
            missing: the numbers of those that are to be made.

        Raises:
            OptionError, OutputError: see ``run_together``; or what a worker raised.
        """
        count = min(self.processes, len(missing))
        context = multiprocessing.get_context("spawn")
        at = context.RawArray("q", [NOWHERE] * (2 * count))
        made = context.RawArray("q", [0] * count)
        threads = max(1, torch.get_num_threads() // count)
        # Not as multiprocessing sends tensors, in memory that all share: a model may write into itself while it runs.
        job = _pickled(self.job)
        workers: dict[int, tuple[Any, Connection]] = {}

        def start(worker: int, probed: int = NOWHERE) -> None:
            own, deadly = frozenset(missing[worker::count]), frozenset(self.deadly)
            given = Share(worker, own, threads, probed, deadly, self.identity, at, made)
            # A pipe and not a queue: of that a semaphore is left where this process is killed.
            here, there = context.Pipe(duplex=False)
            process = context.Process(target=work, args=(job, given, there), daemon=True)
            with _quietly(), there:
                process.start()
            workers[worker] = process, here

        try:
            for worker in range(count):
                start(worker)
            seen = 0
            with tqdm(total=sum(len(batches[number]) for number in missing), desc="images", disable=None) as bar:
                while workers:
                    wait([process.sentinel for process, _ in workers.values()], _SECONDS)
                    now = sum(made)
                    if now > seen:
                        self.in_a_row, self.deaths[NOWHERE] = 0, 0
                    bar.update(now - seen)
                    seen = now
                    for worker, (process, here) in list(workers.items()):
                        if process.exitcode is None:
                            continue
                        del workers[worker]
                        with here:
                            error = _received(here) if process.exitcode == RAISED else None
                        if error is not None:
                            raise error
                        if process.exitcode != 0:
                            start(worker, self._next(worker, at, batches, process.exitcode))
        finally:
            for process, _ in workers.values():
                process.terminate()
            for process, here in workers.values():
                process.join(_PATIENCE)
                process.kill()
                process.join()
                here.close()

    def _next(self, worker: int, at: Any, batches: Sequence[Sequence[object]], code: int) -> int:
        """Take note of the death of a worker; the batch that its successor looks at one by one, if there is one.

        Raises:
            OutputError: too many have died.
        """
        batch, image = at[2 * worker], at[2 * worker + 1]
        at[2 * worker] = at[2 * worker + 1] = NOWHERE
        path = path_of(batches[batch][image]) if image != NOWHERE else None
        if path is None:
            self.deaths[batch] += 1
        else:
            # It is this image, then, on which the batch was tried before.
            self.tries[path] += 1 + self.deaths.pop(batch, 0)
            if self.tries[path] >= _TRIES:
                self.deadly.add(path)
                self.in_a_row += 1
        if self.deaths[batch] >= _TRIES or self.in_a_row >= _TRIES:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            where = "before the first batch" if batch == NOWHERE else f"on batch {batch}" if path is None else f"on {path}"
            hint = '; a script needs `if __name__ == "__main__":`' if batch == NOWHERE else ""
            raise OutputError(f"Processes died {_TRIES} times {where} ({how}){hint}; try with one process, which says more.")
        return int(batch)


def path_of(item: object) -> str | None:
    """The file of an item of a run: a path itself, or the image of an example."""
    image = getattr(item, "image", item)
    return str(absolute(image)) if isinstance(image, str | Path) else None


def _pickled(job: Callable[..., object]) -> bytes:
    """A job as it is sent.

    Raises:
        OptionError: it does not pickle.
    """
    try:
        return pickle.dumps(job)
    except MemoryError:
        raise
    except Exception as error:
        raise OptionError(
            f"The job cannot be sent to other processes ({one_line(error, 200)}); run it with one process, or use functions "
            "that are defined in a module."
        ) from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Workers have no progress bars of their own."""
    before = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TQDM_DISABLE"]
        else:
            os.environ["TQDM_DISABLE"] = before


def _received(here: Connection) -> BaseException | None:
    """What a worker has said; None if it died with that exit code and said nothing."""
    try:
        error = pickle.loads(here.recv_bytes(1 << 16))  # noqa: S301  (from a process that we have started)
    except (EOFError, OSError):
        return None
    return error if isinstance(error, BaseException) else None
