"""Kill the process that began a shared run, or let its disk be full, and have the next one go on.

    python tests/fuzz/drivers.py                          two processes; some minutes
    python tests/fuzz/drivers.py --engine ray --kills 5   two actors of a Ray that each command starts

``localize`` looks at 96 plates, in twelve batches. It is killed with SIGKILL so many times, at a random moment of all or of
those after another batch; then it is run to its end. Then the folder is a disk of 1 MB (a tmpfs, which takes root), which gets
full: it says so in one line, and goes on once there is room. In both cases all files must be those of one process that
nobody stopped, byte for byte, with one row for each image.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

COUNT = 96


def main() -> None:
    """Run both cases and print what came of them."""
    parser = argparse.ArgumentParser(prog="python tests/fuzz/drivers.py")
    parser.add_argument("--engine", default="processes")
    parser.add_argument("--processes", default=2, type=int)
    parser.add_argument("--kills", default=5, type=int)
    parser.add_argument("--seed", default=0, type=int)
    given = parser.parse_args()
    os.environ |= {"SOURCE_DATE_EPOCH": "1700000000", "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    rng = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw(folder / "images")
        begun = time.monotonic()
        assert Begun(folder, "whole", "processes", 1).wait() == 0
        seconds = time.monotonic() - begun
        print(f"one process: {seconds:.0f} s", flush=True)
        kept = []
        for number in range(given.kills):
            process, before = Begun(folder, "killed", given.engine, given.processes), done(folder / "killed")
            while number % 2 and done(folder / "killed") == before and process.poll() is None:
                time.sleep(0.05)
            time.sleep(rng.uniform(0, 2.0 if number % 2 else seconds))
            process.send_signal(signal.SIGKILL)
            process.wait()
            kept.append(done(folder / "killed"))
        process = Begun(folder, "killed", given.engine, given.processes)
        assert (ended := process.ended()) == (0, []), ended
        check(folder, "killed")
        print(f"killed {len(kept)} times, with {kept} of 12 batches done: {COUNT} rows, the same bytes", flush=True)
        with disk(folder / "small"):
            process = Begun(folder, "small", given.engine, given.processes)
            code, lines = process.ended()
            assert code == 2, lines
            assert len(lines) == 1, lines
            assert "No space left on device" in lines[0], lines
            held = done(folder / "small")
            shutil.copytree(folder / "small", folder / "roomy")
        process = Begun(folder, "roomy", given.engine, given.processes)
        assert (ended := process.ended()) == (0, []), ended
        check(folder, "roomy")
        print(f"disk full with {held} of 12 batches done ({lines[0]}): {COUNT} rows, the same bytes", flush=True)


def draw(folder: Path) -> None:
    """Images of one species."""
    from concept_cam import world

    folder.mkdir()
    for seed in range(COUNT):
        world.draw_species("ember finch", seed, 96).image.save(folder / f"{seed:02d}.png")


class Begun(subprocess.Popen):
    """The command; what it says is kept in a file of its own, for workers that are left may speak later."""

    def __init__(self, folder: Path, out: str, engine: str, processes: int) -> None:
        asked = ("--target", "ember finch", "--against", "frost finch", "--batch-size", "1", "--out", out)
        command = (sys.executable, "-m", "concept_cam", "localize", "images", *asked)
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (as long as this)
        shared = ("--engine", engine, "--processes", str(processes))
        super().__init__((*command, *shared), cwd=folder, stdout=subprocess.DEVNULL, stderr=self.file)

    def ended(self) -> tuple[int, list[str]]:
        """Its exit code, and the lines on its error stream."""
        code = self.wait()
        self.file.seek(0)
        return code, self.file.read().decode().splitlines()


def done(folder: Path) -> int:
    """How many batches are whole."""
    return len(list((folder / "batches").glob("*.json")))


def check(folder: Path, out: str) -> None:
    """Hold a folder against that of one process."""
    ours, theirs = (
        {p.relative_to(base): p.read_bytes() for p in base.rglob("*") if p.is_file()}
        for base in (folder / out, folder / "whole")
    )
    other = sorted(str(name) for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    assert not other, other
    with (folder / out / "rows.csv").open() as file:
        names = [Path(row["image"]).name for row in csv.DictReader(file)]
    assert names == [f"{seed:02d}.png" for seed in range(COUNT)]


@contextmanager
def disk(folder: Path):
    """A disk of 1 MB in this place."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


if __name__ == "__main__":
    main()
