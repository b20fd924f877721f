"""What workers are given in tests: functions of a module, for they go to other processes."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

from concept_cam import world
from concept_cam.localizer import Localizer
from concept_cam.methods import TraceMethod
from concept_cam.runs.share import share


def _is_worker():
    return share() is not None


def plain(trace, directions):
    """HiResCAM, as far as one can see."""
    return trace.gradient(directions).dot_tokens()


def killed_by_white(trace, directions):
    """Whoever looks at a white image dies, as in a decoder that is broken."""
    if bool((trace.pixels.flatten(1).std(1) < 0.01).any()):
        os.kill(os.getpid(), signal.SIGSEGV)
    return plain(trace, directions)


def killed_once(flag: Path, trace, directions):
    """The first worker that comes here dies."""
    if _is_worker():
        try:
            flag.touch(exist_ok=False)
        except FileExistsError:
            return plain(trace, directions)
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(trace, directions)


def killed_later(folder: Path, trace, directions):
    """After the first batch of eight images no worker comes through."""
    if _is_worker() and list(folder.glob("out/batches/*.json")):
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(trace, directions)


def kill_by_white(module, given):
    """Before a layer: whoever gives a white image to the model dies."""
    if _is_worker() and bool((given[0].flatten(1).std(1) < 0.01).any()):
        os.kill(os.getpid(), signal.SIGSEGV)


def fragile() -> Localizer:
    """The embedded encoder, on which processes die that embed a white image."""
    found = world.localizer()
    found.backbone.module.visual.conv1.register_forward_pre_hook(kill_by_white)
    return found


def verbose(trace, directions):
    """An error that holds what it is about."""
    return (b"x" * 200_000 + b"\xff").decode("ascii")


def broken(trace, directions):
    """An error that nobody has foreseen."""
    raise ZeroDivisionError("as nobody has foreseen")


def tell_gpu(folder: Path):
    """Which GPUs a worker sees."""
    (folder / str(share().worker)).write_text(os.environ["CUDA_VISIBLE_DEVICES"])


def localizer(maps=plain, *given) -> Localizer:
    """The embedded encoder with one of these methods."""
    return world.localizer(method=TraceMethod(partial(maps, *given) if given else maps))
