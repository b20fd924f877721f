"""The program ``concept-cam``, and ``python -m concept_cam``: signals are heard before anything else is imported."""

from __future__ import annotations

import atexit
import os
import sys

try:  # what signal is made of: signal itself takes longer to import than all else before the first signal is heard
    import _signal as signal  # type: ignore[import-not-found]
except ImportError:
    import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

_FINISHED = "what was finished is kept."
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


def main(*, alone: bool = False) -> None:
    """Run the command line; a signal ends it with one line and 128 + its number, and leaves no unfinished file.

    Args:
        alone: whether this is all that the process does.
    """
    for name in _SIGNALS:
        number = getattr(signal, name, None)  # Windows has not all of them
        # What is ignored stays so: nohup asks for it, and a shell for what it runs in the background.
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stop)
    from concept_cam.cli import main as run

    run(alone=alone)


def program() -> None:
    """``main`` as all that a process does, which ends with it and at once."""
    end = _End()
    if not _others():
        atexit.register(end)  # the first to be registered is the last to be called
    try:
        main(alone=True)
    except SystemExit as ending:
        end.code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
        raise
    except BaseException:
        end.code = 1
        raise


class _End:
    """Ends the process when all is done: to take libraries apart one by one takes Python longer than to draw a map."""

    code = 0

    def __call__(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (AttributeError, OSError, ValueError):
                pass
        os._exit(self.code)


def _others() -> int:
    """How many wait for the end of the process already, such as a debugger; they would not be called."""
    count: int = getattr(atexit, "_ncallbacks", lambda: 1)()
    return count


def _stop(number: int, frame: FrameType | None) -> None:
    """End the process here and now: an exception is lost wherever a library catches all of them, in imports above all."""
    for name in _SIGNALS:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)  # `timeout` sends two
    remove_unfinished = getattr(sys.modules.get("concept_cam.files"), "remove_unfinished", None)
    if remove_unfinished is not None:
        remove_unfinished()
    keep = getattr(sys.modules.get("concept_cam.runs.run"), "keep", None)
    kept = None if keep is None else keep()
    name = next(name for name in _SIGNALS if getattr(signal, name, None) == number)
    what = "interrupted" if name == "SIGINT" else f"stopped by {name}"
    bar = os.isatty(2) and "tqdm" in sys.modules  # its line has no end yet
    try:
        os.write(2, f"{os.linesep * bar}concept-cam: {what}; {kept or _FINISHED}{os.linesep}".encode())
    except OSError:
        pass
    os._exit(128 + number)


if __name__ == "__main__":
    program()
