"""Run cases, and hold each to what is promised: a result or one line, no hang, little memory."""

from __future__ import annotations

import random
import resource
import signal
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from pathlib import Path

from concept_cam.errors import ConceptCamError

SECONDS = 20
"""What one case may take; a hang takes longer."""

MEGABYTES = 1536
"""What the process may hold at most beyond what it held before: some 2 GB in all, of which 500 MB are the libraries."""

Case = Callable[[random.Random, Path], Callable[[], object]]


class Broken(AssertionError):
    """A case that is neither a result nor one line."""


def run_case(kind: str, case: Case, number: int) -> str:
    """``"result"``, or the name of the error that the library raised in one line.

    Raises:
        Broken: anything else came of it.
    """
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read = case(random.Random(f"{kind} {number}"), Path(folder))
        try:
            with _no_longer_than(SECONDS):
                read()
        except ConceptCamError as error:
            message = str(error)
            if not message or not message.isprintable():
                raise Broken(f"{kind} {number}: the message is not one line of printable text: {message!r}") from error
            return type(error).__name__
        except Exception as error:
            raise Broken(f"{kind} {number}: {type(error).__name__}: {error}") from error
    return "result"


def run_cases(kind: str, case: Case, numbers: Iterable[int]) -> Counter[str]:
    """How many cases came out how.

    Raises:
        Broken: one of them did not keep what is promised, or all together took too much memory.
    """
    # Other tests of this process may have held more, and may hold it yet.
    most = max(peak_memory(), held_memory() + MEGABYTES)
    outcomes = Counter(run_case(kind, case, number) for number in numbers)
    if peak_memory() > most:
        raise Broken(f"{kind}: {peak_memory():.0f} MB were held at once; at most {most:.0f} are promised.")
    return outcomes


def peak_memory() -> float:
    """Megabytes that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def held_memory() -> float:
    """Megabytes that this process holds now; at most, where the system does not tell."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * resource.getpagesize() / 2**20 if statm.exists() else peak_memory()


@contextmanager
def _no_longer_than(seconds: int):
    def ring(*_):
        raise TimeoutError(f"longer than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
