"""Workers that are processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, final

import torch

from concept_cam.files import remove_unfinished
from concept_cam.runs.launcher import End, pickled
from concept_cam.runs.share import NOWHERE, Share, Tell, make_share, received

_RAISED = 3
"""Exit code of a worker that has said what was wrong."""

_PATIENCE = 5.0
"""Seconds for workers to end when they are told to."""


@final
@dataclass(frozen=True, eq=False)
class _Told:
    """Tells in memory that both processes have: it is there when a worker dies."""

    worker: int
    at: Any
    made: Any

    def __call__(self, batch: int, image: int, images: int) -> None:
        self.made[self.worker] += images
        self.at[2 * self.worker], self.at[2 * self.worker + 1] = batch, image


@final
class Processes:
    """Starts processes of this machine; see ``Launcher``.

    Args:
        job: what they call.
        count: how many at once; the threads of torch are divided among them.
        gpus: over how many GPUs they are spread, each of which is the first one to its worker; with 0 they see what this
            process sees.

    Raises:
        OptionError: the job does not pickle.
    """

    def __init__(self, job: Callable[..., object], count: int, gpus: int = 0) -> None:
        self.threads = max(1, torch.get_num_threads() // count)
        self._job, self._gpus = pickled(job), gpus
        self._context = multiprocessing.get_context("spawn")
        self._at = self._context.RawArray("q", [NOWHERE] * (2 * count))
        self._made = self._context.RawArray("q", [0] * count)
        self._workers: dict[int, tuple[Any, Connection]] = {}

    def teller(self, worker: int) -> Tell:
        """See ``Launcher``."""
        told = _Told(worker, self._at, self._made)
        told(NOWHERE, NOWHERE, 0)
        return told

    def start(self, share: Share) -> None:
        """See ``Launcher``."""
        # A pipe and not a queue: of that a semaphore is left where this process is killed.
        here, there = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_work, args=(self._job, share, there), daemon=True)
        # Workers have no progress bars of their own.
        given = {"TQDM_DISABLE": "1"} | ({"CUDA_VISIBLE_DEVICES": self._gpu(share.worker)} if self._gpus else {})
        with _environment(given), there:
            process.start()
        self._workers[share.worker] = process, here

    def ended(self, seconds: float) -> Mapping[int, End]:
        """See ``Launcher``."""
        wait([process.sentinel for process, _ in self._workers.values()], seconds)
        found = {}
        for worker, (process, here) in list(self._workers.items()):
            if process.exitcode is not None:
                del self._workers[worker]
                with here:
                    found[worker] = _end_of(process.exitcode, here)
        return found

    def at(self, worker: int) -> tuple[int, int]:
        """See ``Launcher``."""
        return self._at[2 * worker], self._at[2 * worker + 1]

    def made(self) -> int:
        """See ``Launcher``."""
        return sum(self._made)

    def stop(self) -> None:
        """See ``Launcher``."""
        for process, _ in self._workers.values():
            process.terminate()
        for process, here in self._workers.values():
            process.join(_PATIENCE)
            process.kill()
            process.join()
            here.close()

    def _gpu(self, worker: int) -> str:
        """The GPU of a worker, as CUDA calls it: of those that this process may use."""
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = seen.split(",") if seen else [str(number) for number in range(self._gpus)]
        return names[worker % self._gpus].strip()


def _end_of(code: int, here: Connection) -> End:
    """How a process has ended, by its exit code and what it has said."""
    if code == 0:
        return End()
    if code == _RAISED:
        try:
            return End(error=received(here.recv_bytes(1 << 16)))
        except (EOFError, OSError):
            pass  # it died with that code and said nothing
    return End(died=f"signal {-code}" if code < 0 else f"exit code {code}")


def _work(job: bytes, given: Share, there: Connection) -> None:
    """What a worker does; the process ends here."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of them; the process that started them ends them.
    signal.signal(signal.SIGTERM, end_at_once)
    threading.Thread(target=_end_with_the_starter, daemon=True).start()
    said = make_share(job, given)
    if said:
        there.send_bytes(said)
    # At once: what libraries do as Python ends can fail, and all is written.
    os._exit(_RAISED if said else 0)


def end_at_once(*_: object) -> None:
    """End this process without unfinished files."""
    remove_unfinished()
    os._exit(1)


def _end_with_the_starter() -> None:
    """If the process that started this one is gone, end too, without unfinished files."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        end_at_once()


@contextmanager
def _environment(given: Mapping[str, str]) -> Iterator[None]:
    """These variables for processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in given}
    os.environ |= given
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
