"""What starts workers: processes of this machine (``spawned``), or Ray (``rays``)."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, final

from concept_cam.errors import OptionError, one_line
from concept_cam.runs.share import Share, Tell


@final
@dataclass(frozen=True)
class End:
    """How a worker has ended: its share is made, or one of these.

    Attributes:
        died: how, if it died.
        lost: whether it died with its machine, for which no image is to blame.
        error: what it raised.
    """

    died: str = ""
    lost: bool = False
    error: BaseException | None = None


class Launcher(Protocol):
    """Starts workers and learns how they end."""

    @property
    def threads(self) -> int:
        """Of torch, for each worker."""
        ...

    def teller(self, worker: int) -> Tell:
        """How a worker that is about to be started tells of itself; it has told nothing yet."""
        ...

    def start(self, share: Share) -> None:
        """Start a worker, or have it start as soon as there is room."""
        ...

    def ended(self, seconds: float) -> Mapping[int, End]:
        """The workers that have ended; waits so long until there is one."""
        ...

    def at(self, worker: int) -> tuple[int, int]:
        """The batch and the image that a worker has told last."""
        ...

    def made(self) -> int:
        """How many images all workers have made."""
        ...

    def stop(self) -> None:
        """End all workers."""
        ...


def pickled(job: Callable[..., object], dumps: Callable[[object], bytes] = pickle.dumps) -> bytes:
    """A job as it is sent.

    Not as multiprocessing sends tensors, in memory that all share: a model may write into itself while it runs.

    Raises:
        OptionError: it does not pickle.
    """
    try:
        return dumps(job)
    except MemoryError:
        raise
    except Exception as error:
        raise OptionError(
            f"The job cannot be sent to other processes ({one_line(error, 200)}); run it with one process, or use functions "
            "that are defined in a module."
        ) from error
