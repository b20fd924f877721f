"""A share: the batches that one of several processes makes of a run, and what this process tells of itself."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, final

import torch

from concept_cam import decoding
from concept_cam.errors import OutputError, one_line
from concept_cam.files import remove_unfinished

NOWHERE = -1
"""No batch, and no image."""

RAISED = 3
"""Exit code of a worker that has said what was wrong."""

_LARGEST_ERROR = 4096
"""Bytes of an error that is sent whole: a pipe that is full stops the one who writes to it."""


class ShareDone(BaseException):
    """Raised in a worker once its share is made, to leave the job: what follows is for the process that has the folder."""


@final
@dataclass(frozen=True, eq=False)
class Share:
    """Which batches of a run are a worker's, and what it tells of itself.

    Attributes:
        worker: its number.
        batches: the numbers of those that it makes.
        threads: of torch.
        probed: a batch whose images it looks at one by one first.
        deadly: paths of images that are not opened.
        identity: of the run, see ``identity_of``.
        at: of each worker the batch and the image it is at.
        made: of each worker how many images it has made.
    """

    worker: int
    batches: frozenset[int]
    threads: int
    probed: int
    deadly: frozenset[str]
    identity: Mapping[str, Any]
    at: Any
    made: Any

    def begin(self, batch: int, image: int = NOWHERE) -> None:
        """Tell which batch is being made, and which of its images, where that is known."""
        self.at[2 * self.worker], self.at[2 * self.worker + 1] = batch, image

    def end(self, images: int) -> None:
        """Tell how many images are made."""
        self.made[self.worker] += images
        self.begin(NOWHERE)


_share: Share | None = None


def share() -> Share | None:
    """The share of this process, if it is a worker."""
    return _share


def work(job: bytes, given: Share, there: Connection) -> None:
    """What a worker does; the process ends here.

    Args:
        job: pickled; its run makes the share.
        given: the share.
        there: where an error is told.
    """
    global _share  # noqa: PLW0603  (a process is one worker)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of them; the process that started them ends them.
    signal.signal(signal.SIGTERM, _end)
    threading.Thread(target=_end_with_the_starter, daemon=True).start()
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8", errors="replace")  # noqa: SIM115, PTH123  (to the end)
    torch.set_num_threads(given.threads)
    decoding.DEADLY.update(given.deadly)
    _share = given
    try:
        pickle.loads(job)()  # noqa: S301  (our own bytes)
    except ShareDone:
        pass
    except BaseException as error:  # noqa: BLE001  (whatever it is, it is raised where the job began)
        there.send_bytes(_sendable(error))
        os._exit(RAISED)
    # At once: what libraries do as Python ends can fail, and all is written.
    os._exit(0)


def _sendable(error: BaseException) -> bytes:
    """An error that arrives as it was sent, or what it says."""
    try:
        sent = pickle.dumps(error)
        if len(sent) <= _LARGEST_ERROR:
            pickle.loads(sent)  # noqa: S301  (our own bytes)
            return sent
    except Exception:  # noqa: BLE001, S110  (it is told in words)
        pass
    return pickle.dumps(OutputError(f"A process stopped: {type(error).__name__}: {one_line(error, 300)}"))


def _end(*_: object) -> None:
    """End without unfinished files."""
    remove_unfinished()
    os._exit(1)


def _end_with_the_starter() -> None:
    """If the process that started this one is gone, end too, without unfinished files."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        _end()
