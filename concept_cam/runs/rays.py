"""Workers that are actors of Ray: on this machine, or on all of a cluster.

Ray places them, and says when one has died. It restarts none and repeats nothing, for of these deaths the crew keeps count: an
image on which workers die shall be skipped, and Ray alone would try it for ever, or drop all images beside it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, final

from concept_cam.errors import OptionError, OutputError, one_line, reason
from concept_cam.runs.launcher import End, pickled
from concept_cam.runs.share import NOWHERE, Share, Tell, make_share, received
from concept_cam.runs.spawned import end_at_once

_READ = ("SOURCE_DATE_EPOCH", "CONCEPT_CAM_PROMPTS")
"""Variables of the environment on which results depend."""

_SILENT = 120.0
"""Seconds until an actor that is neither reached nor known to be dead counts as lost. Ray needs some 15 to miss a machine."""

_GROWS = 300.0
"""Seconds in which a cluster may get the machine that is asked for; one that is started here gets none."""

_LOOKS = 5.0
"""Seconds between two looks at what the machines have."""


class _Notes:
    """What workers have told: an actor beside the process that began the run, so that it lives as long as that."""

    def __init__(self) -> None:
        self.nodes: dict[int, str] = {}
        self.at: dict[int, tuple[int, int]] = {}
        self.made = 0

    def begin(self, start: int, node: str) -> None:
        self.nodes[start] = node

    def tell(self, start: int, batch: int, image: int, images: int) -> None:
        self.made += images
        self.at[start] = batch, image

    def read(self) -> tuple[dict[int, str], dict[int, tuple[int, int]], int]:
        return self.nodes, self.at, self.made


class _Worker:
    """An actor: a process that makes one share."""

    def work(self, job: bytes, given: Share, begin: Callable[[str], None], paths: list[str], folder: str, read: Any) -> bytes:
        import ray  # noqa: PLC0415  (an extra)

        begin(ray.get_runtime_context().get_node_id())
        # As Ray ends processes of a machine that is shut down: what is lost then is no error of the job.
        signal.signal(signal.SIGTERM, end_at_once)
        sys.path += [path for path in paths if path not in sys.path]
        for name, value in read.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        # Relative paths mean what they mean there; a folder that is not here is told where the run is looked for.
        with suppress(OSError):
            os.chdir(folder)
        return make_share(job, given)

    def answer(self) -> bool:
        return True


def _tell(notes: Any, start: int, batch: int, image: int, images: int) -> None:
    import ray  # noqa: PLC0415  (an extra)

    ray.get(notes.tell.remote(start, batch, image, images))


def _begin(notes: Any, start: int, node: str) -> None:
    import ray  # noqa: PLC0415  (an extra)

    ray.get(notes.begin.remote(start, node))


@final
class Rays:
    """Has Ray start workers; see ``Launcher``.

    A Ray that this process has connected to is used as it is. Else that of ``RAY_ADDRESS`` is, or one is started here, which
    ends with the workers.

    Args:
        job: what they call.

    Raises:
        OptionError: the job does not pickle, or its model is on a GPU that is not the first.
        OutputError: Ray cannot be reached or started.
    """

    threads = 1

    def __init__(self, job: Callable[..., object]) -> None:
        import ray  # noqa: PLC0415  (an extra)
        from ray import cloudpickle  # noqa: PLC0415
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: PLC0415

        self._ray, self._gpus = ray, _gpus_of(job)
        # As Ray sends functions: those of a script too.
        sent = pickled(job, cloudpickle.dumps)
        self._ours = not ray.is_initialized()
        self._grows = _GROWS if not self._ours or os.environ.get("RAY_ADDRESS") else 0.0
        if self._ours:
            _connect(ray)
        try:
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            self._notes = ray.remote(_Notes).options(num_cpus=0, scheduling_strategy=here).remote()
            self._job = ray.put(sent)
            once = {"max_restarts": 0, "max_task_retries": 0}
            self._actor = ray.remote(_Worker).options(num_cpus=1, num_gpus=self._gpus, **once)
            self._workers: dict[Any, tuple[int, Any]] = {}
            self._starts: dict[int, int] = {}
            self._count = 0
            self._silent: dict[int, tuple[float, tuple[int, int]]] = {}
            self._nodes: dict[int, str]
            self._at: dict[int, tuple[int, int]]
            self._made: int
            self._nodes, self._at, self._made = ray.get(self._notes.read.remote())
        except BaseException:
            self._leave()
            raise
        self._looked = self._roomy = self._begun = time.monotonic()

    def teller(self, worker: int) -> Tell:
        """See ``Launcher``."""
        self._count += 1
        self._starts[worker] = self._count
        return partial(_tell, self._notes, self._count)

    def start(self, share: Share) -> None:
        """See ``Launcher``."""
        actor = self._actor.remote()
        begin = partial(_begin, self._notes, self._starts[share.worker])
        read = {name: os.environ.get(name) for name in _READ}
        self._workers[actor.work.remote(self._job, share, begin, sys.path, os.getcwd(), read)] = share.worker, actor  # noqa: PTH109

    def ended(self, seconds: float) -> Mapping[int, End]:
        """See ``Launcher``.

        Raises:
            OutputError: no machine can take a worker.
        """
        ready, _ = self._ray.wait(list(self._workers), timeout=seconds)
        found = {}
        # After the wait, so that a worker which has ended has told all of it.
        self._nodes, self._at, self._made = self._ray.get(self._notes.read.remote())
        for ref in ready:
            worker, actor = self._workers.pop(ref)
            end = self._end_of(ref, worker)
            if end is None:
                # It is not reached, and may have died or not: the next call tells.
                self._silent.setdefault(worker, (time.monotonic(), self.at(worker)))
                self._workers[actor.answer.remote()] = worker, actor
            else:
                found[worker] = end
                self._silent.pop(worker, None)
                self._ray.kill(actor)  # it holds its CPU until then
        for ref, (worker, actor) in list(self._workers.items()):
            since, was_at = self._silent.get(worker, (time.monotonic(), None))
            if worker in self._silent and self.at(worker) != was_at:
                # It is at work, behind which the call waits.
                self._silent[worker] = time.monotonic(), self.at(worker)
            elif time.monotonic() - since > _SILENT:
                del self._workers[ref], self._silent[worker]
                found[worker] = End("Ray does not reach its machine", lost=True)
                self._ray.kill(actor)
        self._look_for_room()
        return found

    def at(self, worker: int) -> tuple[int, int]:
        """See ``Launcher``."""
        return self._at.get(self._starts[worker], (NOWHERE, NOWHERE))

    def made(self) -> int:
        """See ``Launcher``."""
        return self._made

    def stop(self) -> None:
        """See ``Launcher``."""
        # Where Ray itself is gone, they are too, and what was wrong is on its way to be told.
        with suppress(Exception):
            for _, actor in self._workers.values():
                self._ray.kill(actor)
            self._ray.kill(self._notes)
        self._leave()

    def _leave(self) -> None:
        if self._ours:
            self._ray.shutdown()

    def _end_of(self, ref: Any, worker: int) -> End | None:
        """How a worker has ended; None if that is not known yet."""
        errors = self._ray.exceptions
        try:
            said = self._ray.get(ref)
        except errors.ActorUnavailableError:
            return None
        except errors.RayActorError as error:
            return self._death(error, worker)
        except (errors.OutOfMemoryError, errors.WorkerCrashedError):
            return End("Ray ended it, as memory ran out")
        except errors.RayError as error:
            return End(error=OutputError(f"Ray cannot run a worker ({_last(error)})."))
        # An answer after silence: what the worker had to say is lost, and all that it has made is there.
        return End("Ray lost its result", lost=True) if said is True else End(error=received(said))

    def _death(self, error: Any, worker: int) -> End:
        """How an actor has died: alone, or with its machine."""
        if error.actor_init_failed:
            return End(error=OutputError(f"Ray cannot start a worker ({_last(error)}); install concept-cam on all machines."))
        node = self._nodes.get(self._starts[worker])
        alive = {one["NodeID"] for one in self._ray.nodes() if one["Alive"]}
        lost = bool(error.preempted) or "node has died" in str(error) or (node is not None and node not in alive)
        return End("its machine was lost" if lost else "as Ray says", lost)

    def _look_for_room(self) -> None:
        """See that workers which wait can be placed some day.

        Raises:
            OutputError: they cannot.
        """
        now = time.monotonic()
        waiting = [worker for worker, _ in self._workers.values() if self._starts[worker] not in self._nodes]
        if not waiting or now - self._looked < _LOOKS:
            return
        self._looked = now
        has = [one["Resources"] for one in self._ray.nodes() if one["Alive"]]
        if any(one.get("CPU", 0) >= 1 and one.get("GPU", 0) >= self._gpus for one in has):
            self._roomy = now
        elif now - self._roomy >= self._grows:
            what = "a CPU and a GPU" if self._gpus else "a CPU"
            machines = "; ".join(f"{one.get('CPU', 0):g} CPUs, {one.get('GPU', 0):g} GPUs" for one in has)
            raise OutputError(
                f"A worker needs {what}, and no machine of Ray has them ({machines}); add one, or change --device."
            )
        if len(waiting) == len(self._workers) and now - self._begun > 60.0:
            self._begun = float("inf")
            warnings.warn("All CPUs or GPUs of Ray are taken by others; the workers wait for them.", stacklevel=2)


def _gpus_of(job: Callable[..., object]) -> int:
    """How many GPUs a worker needs for the model of a job.

    Raises:
        OptionError: the model is not on the first GPU; an actor sees one alone.
    """
    given = (*getattr(job, "args", ()), *getattr(job, "keywords", {}).values())
    devices = [one.backbone.original.device for one in given if hasattr(one, "backbone")]
    for device in devices:
        if device.type == "cuda" and device.index:
            raise OptionError(f"The model is on {device}; with Ray each worker has one GPU, which is cuda.")
    return int(any(device.type == "cuda" for device in devices))


def _connect(ray: Any) -> None:
    """Connect to the Ray of RAY_ADDRESS, or start one for this process.

    Raises:
        OutputError: it cannot be reached or started.
    """
    address = os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Else Ray gives its workers the least priority: beside other work on the machine they take twice as long.
    os.environ.setdefault("RAY_worker_niceness", "0")
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        with _own_signals():
            ray.init(**quiet) if address else ray.init("local", include_dashboard=False, **quiet)
    except Exception as error:
        what = f"Ray cannot be reached at {address}, which RAY_ADDRESS says" if address else "Ray cannot be started here"
        raise OutputError(f"{what} ({reason(error)}).") from error


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray puts a handler of its own in the place of ours."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _last(error: BaseException) -> str:
    """The last line of what Ray says, which names the reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return one_line(lines[-1] if lines else type(error).__name__, 200)
