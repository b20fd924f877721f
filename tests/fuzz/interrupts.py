"""Stop commands at random moments, have them go on, and hold what they leave against a run that nobody stopped.

    python tests/fuzz/interrupts.py --count 30        each command so often; some minutes
    python tests/fuzz/interrupts.py audit --only 7    one case again, with all that was said
    python tests/fuzz/interrupts.py --kills 5         each case is killed five times, with SIGKILL

A case is stopped once to three times: by a signal at a random moment, or by a disk that is full. Whatever stopped it says one
line, or nothing where it is killed. Then the command is run once more in the same folder: all files must be those of the run
that nobody stopped, byte for byte, and there must be no others.

The commands run in copies of this process, which has imported everything and run nothing: a case takes seconds.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

COMMANDS = {
    "localize": (
        "images",
        "--target",
        "ember finch",
        "--against",
        "frost finch",
        "--sweep",
        "--batch-size",
        "1",
        "--out",
        "out",
    ),
    "parts": ("images", "--method", "hires_cam", "--batch-size", "1", "--out", "out"),
    "evaluate": ("set.csv", "--methods", "grad_cam", "--references", "twin", "--strengths", "1", "--out", "out"),
    "audit": ("set.csv", "--backgrounds", "scenes.txt", "--out", "out"),
    "fields": ("images", "--keep", "compact", "--batch-size", "1", "--out", "out"),
}
_SIGNALS = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM, "HUP": signal.SIGHUP, "INT": signal.SIGINT}
_DISKS = ("full", "small")
"""No room from one file on; and none for large files."""

_HEAVY = (
    "concept_cam.cli concept_cam.audit.report concept_cam.evaluation.run concept_cam.localizer concept_cam.world.dataset "
    "concept_cam.parts.sheet concept_cam.backbones.openclip concept_cam.backbones.towers.timm concept_cam.checks "
    "open_clip timm transformers concept_cam.store concept_cam.writers concept_cam.datasets.layouts concept_cam.page "
    "rich.console rich.table"
)


@dataclass
class Ended:
    """How a run ended.

    Attributes:
        code: its exit code, less than 0 for a signal that nobody handled.
        said: on the error stream, line by line.
        seconds: how long it took.
        writes: how many files and folders it had on the disk.
    """

    code: int
    said: list[str]
    seconds: float
    writes: int


def main() -> None:
    """Run cases of each command and print what came of them."""
    parser = argparse.ArgumentParser(prog="python tests/fuzz/interrupts.py")
    parser.add_argument("commands", nargs="*", help=f"of {', '.join(COMMANDS)}; none: all")
    parser.add_argument("--count", type=int, default=30, help="cases of each command")
    parser.add_argument("--only", type=int, help="one case")
    parser.add_argument("--kills", type=int, default=0, help="kill each case so often, and do nothing else to it")
    given = parser.parse_args()
    # What says when it was made says the same each time.
    os.environ |= {"SOURCE_DATE_EPOCH": "1700000000", "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    for name in _HEAVY.split():
        importlib.import_module(name)
    # A batch has more images than there are; here it shall have one.
    importlib.import_module("concept_cam.store.storing")._BATCH = 1
    with tempfile.TemporaryDirectory() as folder:
        world = Path(folder) / "world"
        code = run(Path(folder), _write_world, "world").code
        assert code == 0, "the images could not be drawn"
        for command in given.commands or COMMANDS:
            whole = Path(shutil.copytree(world, Path(folder) / command))
            base = run(whole, _command, command)
            assert base.code == 0, base.said
            numbers = range(given.count) if given.only is None else (given.only,)
            outcomes: Counter[str] = Counter()
            for number in numbers:
                outcomes += check(Path(folder) / f"{command}-{number}", world, whole, base, command, number, given.kills)
            listed = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
            print(
                f"{command}: {len(numbers)} cases of {base.seconds:.1f} s each, all went on to the same bytes: {listed}",
                flush=True,
            )


def check(folder: Path, world: Path, whole: Path, base: Ended, command: str, number: int, kills: int = 0) -> Counter[str]:
    """Stop a command and have it go on; how it was stopped.

    Raises:
        AssertionError: something else came of it.
    """
    rng = random.Random(f"{command} {number}")
    shutil.copytree(world, folder)
    outcomes: Counter[str] = Counter()
    for _ in range(kills or rng.choice((1, 1, 2, 3))):
        how = "KILL" if kills else rng.choice((*_SIGNALS, *_DISKS))
        ended = run(folder, _command, command, how, rng, base)
        more = [line for line in ended.said if line not in base.said]
        told = f"{command} {number}, {how}: exit code {ended.code}, said {ended.said}"
        assert not any("Traceback" in line for line in ended.said), told
        assert len(more) <= 1, told
        if ended.code == 0:
            assert not more, told
            outcomes["ended before"] += 1
            continue
        assert how != "KILL" or not more, told
        assert how not in _DISKS or len(more) == 1, told
        outcomes[how] += 1
    ended = run(folder, _command, command)
    told = f"{command} {number}: exit code {ended.code}, said {ended.said}"
    assert (ended.code, ended.said) == (base.code, base.said), told
    found, expected = tree(folder), tree(whole)
    other = [name for name in sorted(found.keys() | expected.keys()) if found.get(name) != expected.get(name)]
    assert not other, f"{command} {number}: not as if nobody had stopped it: {', '.join(other)}"
    shutil.rmtree(folder)
    return outcomes


def tree(folder: Path) -> dict[str, bytes]:
    """All files by their names; folders end in a slash."""
    return {
        str(path.relative_to(folder)) + "/" * path.is_dir(): b"" if path.is_dir() else path.read_bytes()
        for path in folder.rglob("*")
    }


def run(
    folder: Path,
    work: Callable[[str], object],
    name: str,
    how: str | None = None,
    rng: random.Random | None = None,
    base: Ended | None = None,
) -> Ended:
    """Run something in a copy of this process, in a folder, and stop it.

    Args:
        folder: its working folder.
        work: what is run.
        name: what it is given.
        how: stops it; nothing, if it is None.
        rng: for the moment.
        base: how it ends if nothing stops it.
    """
    rng = rng or random.Random(0)
    begun, begins = os.pipe()
    counts, counted = os.pipe()
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if child == 0:
            os.close(begun)
            os.close(counts)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(said.fileno(), 2)
            _child(folder, work, name, _disk(how, rng, base), begins, counted)
        os.close(begins)
        os.close(counted)
        os.read(begun, 1)
        start = time.monotonic()
        if how in _SIGNALS and base is not None:
            time.sleep(rng.uniform(0.005, base.seconds))
            os.kill(child, _SIGNALS[how])
        _, status = os.waitpid(child, 0)
        seconds = time.monotonic() - start
        writes = os.read(counts, 100)
        os.close(begun)
        os.close(counts)
        said.seek(0)
        lines = said.read().decode(errors="replace").splitlines()
    return Ended(os.waitstatus_to_exitcode(status), lines, seconds, int(writes or 0))


def _disk(how: str | None, rng: random.Random, base: Ended | None) -> tuple[int | None, int | None]:
    """From which write on there is no room, and how large a file can be."""
    if base is None or how not in _DISKS:
        return None, None
    return (rng.randrange(base.writes), None) if how == "full" else (None, round(10 ** rng.uniform(1, 5.5)))


def _child(
    folder: Path, work: Callable[[str], object], name: str, disk: tuple[int | None, int | None], begins: int, counted: int
) -> NoReturn:
    code = 1
    full_at, largest = disk
    writes, sync = 0, os.fsync

    def counting(descriptor: int) -> None:
        nonlocal writes
        writes += 1
        if full_at is not None and writes > full_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    try:
        os.chdir(folder)
        os.fsync = counting
        if largest is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
        os.write(begins, b".")
        work(name)
        code = 0
    except SystemExit as leaving:
        # As the interpreter does.
        code = leaving.code if isinstance(leaving.code, int) else leaving.code is not None
        if isinstance(leaving.code, str):
            print(leaving.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        os.write(counted, str(writes).encode())
        sys.stderr.flush()
        os._exit(int(code))


def _command(name: str) -> None:
    from unittest import mock

    from concept_cam import cli

    sys.argv = ["concept-cam", name, *COMMANDS[name]]
    # Several batches of few images.
    batches = ("concept_cam.evaluation.rows.BATCH", "concept_cam.audit.run.BATCH", "concept_cam.writers.run.BATCH")
    with ExitStack() as stack:
        for one in batches:
            stack.enter_context(mock.patch(one, 1))
        cli.main()


def _write_world(name: str) -> None:
    """Images of two species, with masks and boxes, in a table and as a folder of each."""
    import numpy as np
    from PIL import Image

    from concept_cam import world

    lines = ["file,label,twin,mask,left,top,right,bottom"]
    Path(name, "images").mkdir(parents=True)
    for seed, (label, twin) in enumerate([("ember finch", "frost finch"), ("frost finch", "ember finch")] * 2):
        plate = world.draw_species(label, seed, 96)
        file = Path(f"{seed}.png")
        plate.image.save(Path(name) / file)
        Image.fromarray(255 * np.uint8(plate.labels > 0)).save(Path(name) / f"{seed}-mask.png")
        if seed < 3:
            plate.image.save(Path(name) / "images" / file)
        lines.append(f"{file},{label},{twin},{seed}-mask.png,10,10,80,90")
    Path(name, "scenes.txt").write_text("bird in meadow\nbird in sky\n")
    Path(name, "set.csv").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
