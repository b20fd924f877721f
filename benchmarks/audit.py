"""Does an audit of many images take more memory than one of few? ``python -m benchmarks.audit``: peaks, and seconds.

Each audit has a process of its own: the embedded encoder on plates of the embedded world, drawn as they are asked for,
with words, backgrounds, all tables and the report. A peak is the most that the process ever held, as Linux counts it.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.timing import machine


@dataclass(frozen=True)
class Run:
    """One audit.

    Attributes:
        images: so many.
        seconds: for all of it.
        before: the peak in bytes when the model and its texts were there, and no image had been looked at but one.
        looked: when all had been.
        reported: when the report was written.
    """

    images: int
    seconds: float
    before: int
    looked: int
    reported: int


def peak() -> int:
    """Bytes that the process has held at most, as Linux counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def run(count: int) -> Run:
    """Audit so many plates."""
    from concept_cam import world
    from concept_cam.audit import audit, write_report, write_tables
    from concept_cam.parts import read_parts
    from concept_cam.prompts import read_vocabulary
    from concept_cam.world.dataset import birds_dataset

    localizer = world.localizer()
    asked = {"parts": read_parts("world-parts"), "backgrounds": read_vocabulary("world-habitats").names}
    with tempfile.TemporaryDirectory() as folder:
        audit(localizer, birds_dataset(1), Path(folder) / "first", **asked)
        before, start = peak(), time.perf_counter()
        found = audit(localizer, birds_dataset(count), Path(folder) / "all", **asked)
        looked = peak()
        write_report(found)
        write_tables(found)
        return Run(count, time.perf_counter() - start, before, looked, peak())


def main(
    count: Annotated[int, typer.Option(min=1, help="Images of the larger audit.")] = 2000,
    few: Annotated[int, typer.Option(min=1, help="Images of the smaller.")] = 500,
) -> None:
    """Print the table."""
    print(f"{machine()}\n")
    print("| images | seconds | images a second | MB at first | MB when all were looked at | MB with the report |")
    print("|---|---|---|---|---|---|")
    for number in (few, count):
        # A process that is started anew: what one audit has held shall not be counted for the next.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            one = pool.submit(run, number).result()
        held = " | ".join(f"{value / 1e6:.0f}" for value in (one.before, one.looked, one.reported))
        print(f"| {number} | {one.seconds:.0f} | {number / one.seconds:.1f} | {held} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
