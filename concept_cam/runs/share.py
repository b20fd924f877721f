"""A share: the batches that one of several workers makes of a run, and what it tells of itself.

A worker is a process of this machine (``spawned``) or one that Ray has placed somewhere (``rays``).
"""

from __future__ import annotations

import os
import pickle
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, final

import torch

from concept_cam import decoding
from concept_cam.errors import OutputError, Unreachable, one_line
from concept_cam.runs.digests import digest_of

NOWHERE = -1
"""No batch, and no image."""

Tell: TypeAlias = Callable[[int, int, int], None]
"""Tells the process that began the run at which batch and image a worker is, and how many more images it has made. When it
returns, that is known there, even if the worker dies at once."""

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
        run: the digest of the run's settings.
        tell: how it tells of itself.
    """

    worker: int
    batches: frozenset[int]
    threads: int
    probed: int
    deadly: frozenset[str]
    identity: Mapping[str, Any]
    run: str
    tell: Tell

    def begin(self, batch: int, image: int = NOWHERE) -> None:
        """Tell which batch is being made, and which of its images, where that is known."""
        self.tell(batch, image, 0)

    def end(self, images: int) -> None:
        """Tell how many images are made."""
        self.tell(NOWHERE, NOWHERE, images)

    def settings_in(self, folder: Path, read: Callable[[Path], dict[str, Any]], first: bool = False) -> dict[str, Any]:
        """The settings of the run, which ``read`` finds in its folder.

        Args:
            folder: of a run.
            read: reads the settings in a folder.
            first: whether it may be an earlier run of the job, which is complete.

        Raises:
            OutputError: the run is not there, as where a machine has a disk of its own.
        """
        try:
            if digest_of(found := read(folder)) == self.run or first:
                return found
        except Unreachable:
            raise
        except OutputError:
            pass
        raise OutputError(
            f"{folder.absolute()}: the worker on {platform.node()} does not see the run there; choose a folder that all "
            "machines share."
        )


_share: Share | None = None


def share() -> Share | None:
    """The share of this process, if it is a worker."""
    return _share


def make_share(job: bytes, given: Share) -> bytes:
    """Make a share in this process, which is a worker from now on.

    Args:
        job: pickled; its run makes the share.
        given: the share.

    Returns:
        The error that it ended with, pickled; nothing if there was none.
    """
    global _share  # noqa: PLW0603  (a process is one worker)
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8", errors="replace")  # noqa: SIM115, PTH123  (to the end)
    torch.set_num_threads(given.threads)
    decoding.DEADLY.update(given.deadly)
    _share = given
    try:
        pickle.loads(job)()  # noqa: S301  (our own bytes)
    except ShareDone:
        pass
    except BaseException as error:  # noqa: BLE001  (whatever it is, it is raised where the job began)
        return _sendable(error)
    return b""


def received(said: bytes) -> BaseException | None:
    """The error that ``make_share`` has returned."""
    error = pickle.loads(said) if said else None  # noqa: S301  (from a process that we have started)
    return error if isinstance(error, BaseException) else None


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
