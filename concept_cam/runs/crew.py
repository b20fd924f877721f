"""A crew: workers that make the batches of a run together, each with a model of its own.

A worker calls the job itself, and its ``Run`` makes only the batches of the worker's share. So there is one way to make a
batch, and the bytes are the same whoever makes it. What is whole on the disk is never made again: a worker that dies is
replaced, and its successor continues after the last whole batch.

An image may kill each worker that looks at it. So after a death on a batch the successor looks at its images one by one. An
image that costs three tries is opened by nobody any more, and gets a row that says why. For the death of a whole machine no
image is to blame.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, TypeVar, final

from tqdm import tqdm

from concept_cam.address import absolute
from concept_cam.errors import OptionError, OutputError, did_you_mean, missing
from concept_cam.runs.launcher import End, Launcher
from concept_cam.runs.share import NOWHERE, Share
from concept_cam.runs.spawned import Processes

R = TypeVar("R")

_TRIES = 3
"""Deaths that an image costs before it is skipped; the run ends after as many before a first batch, on a batch of which no
image kills alone, or on as many images in a row."""

_SECONDS = 0.2
"""Between two looks at how far the workers are."""

ENGINES = ("processes", "ray")
"""What starts workers."""


_crew: Crew[Any] | None = None


def crew() -> Crew[Any] | None:
    """The crew that is to make the batches of the next run of this process, if there is one."""
    return _crew


def run_together(processes: int, job: Callable[..., R], *, engine: str = "processes", gpus: int = 0, **heard: Any) -> R:
    """Run a job whose batches are made by several processes, each with a model of its own.

    The result is that of ``job(**heard)``, and so are the bytes in the folder. A process that dies is replaced. An image on
    which three processes die is a row with the reason.

    Args:
        processes: how many.
        job: one of ``localize_images``, ``find_parts_of_images``, ``store_fields``, ``evaluate`` and ``audit`` with its
            arguments (``functools.partial``). It goes to new processes, so job and arguments must pickle.
        engine: ``processes`` of this machine, among which the threads of torch are divided; with one of them the job is called
            here. Or ``ray``: actors with one CPU each, and one GPU if the model is on one, wherever Ray has room for them.
        gpus: over how many GPUs of this machine its processes are spread. Ray gives each actor its own.
        heard: further arguments that only this process needs and that need not pickle, such as ``told``.

    Raises:
        OptionError: the job does not pickle, or there is no such engine.
        OutputError: processes die at once, or all that make one batch; or Ray has no room for any.

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
    check_engine(engine)
    if processes == 1 and engine == "processes":
        return job(**heard)
    before, _crew = _crew, Crew(processes, job, engine, gpus)
    try:
        return job(**heard)
    finally:
        _crew = before


def check_engine(engine: str) -> None:
    """Refuse what cannot start workers here.

    Raises:
        OptionError: there is no such engine, or it is not installed.
    """
    if engine not in ENGINES:
        raise OptionError(f"No engine {engine!r}; expected one of {', '.join(ENGINES)}.{did_you_mean(engine, ENGINES)}")
    if engine == "ray" and find_spec("ray") is None:
        raise OptionError(missing("ray", "share a run with Ray"))


@final
@dataclass
class Crew(Generic[R]):
    """Workers that make the batches of a run.

    Attributes:
        processes: how many.
        job: what each of them calls.
        engine: what starts them.
        gpus: over how many GPUs processes of this machine are spread.
        deaths: how often a worker died on a batch, and it is not known on which image.
        tries: how often a worker died on an image.
        deadly: paths of images that are skipped.
        in_a_row: how many images were skipped since any was made.
        lost: how many workers were lost with their machines since any image was made.
        identity: of the run, see ``identity_of``.
    """

    processes: int
    job: Callable[..., R]
    engine: str = "processes"
    gpus: int = 0
    deaths: Counter[int] = field(default_factory=Counter)
    tries: Counter[str] = field(default_factory=Counter)
    deadly: set[str] = field(default_factory=set)
    in_a_row: int = 0
    lost: int = 0
    identity: Mapping[str, Any] = field(default_factory=dict)

    def make(self, batches: Sequence[Sequence[object]], missing: Sequence[int], run: str) -> None:
        """Have batches made; some may still be missing afterwards, where their share had an error.

        Args:
            batches: the items of each.
            missing: the numbers of those that are to be made.
            run: the digest of its settings.

        Raises:
            OptionError, OutputError: see ``run_together``; or what a worker raised.
        """
        count = min(self.processes, len(missing))
        self.deaths.clear()  # numbers of batches are those of this run
        with self._launcher(count) as launcher:

            def start(worker: int, probed: int = NOWHERE) -> None:
                # In one piece, so that each of the files of many images is read by one or two workers.
                first, last = (len(missing) * k // count for k in (worker, worker + 1))
                own, deadly = frozenset(missing[first:last]), frozenset(self.deadly)
                tell = launcher.teller(worker)
                launcher.start(Share(worker, own, launcher.threads, probed, deadly, self.identity, run, tell))

            for worker in range(count):
                start(worker)
            working, seen = count, 0
            with tqdm(total=sum(len(batches[number]) for number in missing), desc="images", disable=None) as bar:
                while working:
                    ended = launcher.ended(_SECONDS)
                    now = launcher.made()
                    if now > seen:
                        self.in_a_row = self.lost = self.deaths[NOWHERE] = 0
                    bar.update(now - seen)
                    seen = now
                    for worker, end in ended.items():
                        if end.error is not None:
                            raise end.error
                        if end.died:
                            start(worker, self._next(launcher.at(worker), batches, end))
                        else:
                            working -= 1

    @contextmanager
    def _launcher(self, count: int) -> Iterator[Launcher]:
        """What starts the workers, which all end with it."""
        launcher: Launcher
        if self.engine == "ray":
            from concept_cam.runs.rays import Rays  # noqa: PLC0415  (an extra)

            launcher = Rays(self.job)
        else:
            launcher = Processes(self.job, count, self.gpus)
        try:
            yield launcher
        finally:
            launcher.stop()

    def _next(self, at: tuple[int, int], batches: Sequence[Sequence[object]], end: End) -> int:
        """Take note of the death of a worker; the batch that its successor looks at one by one, if there is one.

        Args:
            at: the batch and the image that it was at.
            batches: the items of each.
            end: how it died.

        Raises:
            OutputError: too many have died.
        """
        batch, image = at
        if end.lost:
            self.lost += 1
            if self.lost > _TRIES * self.processes:
                raise OutputError(f"Machines were lost {self.lost} times and nothing was made in between; see to them first.")
            return batch
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
            where = "before the first batch" if batch == NOWHERE else f"on batch {batch}" if path is None else f"on {path}"
            script = batch == NOWHERE and self.engine == "processes"
            hint = '; a script needs `if __name__ == "__main__":`' if script else ""
            raise OutputError(
                f"Processes died {_TRIES} times {where} ({end.died}){hint}; try with one process, which says more."
            )
        return batch


def path_of(item: object) -> str | None:
    """The file of an item of a run: a path itself, or the image of an example."""
    image = getattr(item, "image", item)
    return str(absolute(image)) if isinstance(image, str | Path) else None
