"""Are the results the same, whoever makes them? ``python -m benchmarks.launchers``: 2,000 plates by each launcher.

``localize`` and ``parts`` into data sets and ``fields`` into a store are run in this process, by two processes and by two
actors of Ray. Then each is begun by one launcher, which is killed in mid-run, and finished by another. Every file in the
folder must have the same bytes each time. The command fails if one has not.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.timing import machine
from concept_cam import world
from concept_cam.part_vocabulary import read_parts
from concept_cam.runs import run_together
from concept_cam.store import store_fields
from concept_cam.writers import find_parts_of_images, localize_images

_DRAWN = 200
LAUNCHERS = {"in process": (1, "processes"), "2 processes": (2, "processes"), "Ray, 2 actors": (2, "ray")}
RELAYS = {
    "localize": ("in process", "Ray, 2 actors"),
    "parts": ("Ray, 2 actors", "2 processes"),
    "fields": ("2 processes", "in process"),
}
"""What begins a job, and what finishes it."""


def jobs(images: list[Path], folder: Path) -> dict[str, Callable[..., Any]]:
    """What is run, each without the folder for its results."""
    localizer = world.localizer()
    return {
        "localize": partial(localize_images, localizer, images, folder, "ember finch", "frost finch", output="parquet"),
        "parts": partial(
            find_parts_of_images, localizer, dict.fromkeys(images, "bird"), folder, read_parts("world-parts"), output="parquet"
        ),
        "fields": partial(store_fields, localizer, images, folder),
    }


def run(job: str, launcher: str, images: list[Path], folder: Path) -> None:
    """Run a job to its end."""
    processes, engine = LAUNCHERS[launcher]
    torch.set_num_threads(2)
    run_together(processes, jobs(images, folder)[job], engine=engine)


def begin(job: str, launcher: str, images: list[Path], folder: Path) -> int:
    """Run a job in another process, which is killed after its second batch; how many batches are there then."""
    process = multiprocessing.get_context("spawn").Process(target=run, args=(job, launcher, images, folder))
    process.start()
    while process.is_alive() and len(list(folder.glob("batches/*.json"))) < 2:
        time.sleep(0.05)
    process.kill()
    process.join()
    time.sleep(10)  # for its workers to notice
    return len(list(folder.glob("batches/*.json")))


def digest_of(folder: Path) -> tuple[str, int]:
    """Of all files by their names, and how many they are."""
    digest, files = hashlib.sha256(), sorted(file for file in folder.rglob("*") if file.is_file())
    for file in files:
        digest.update(file.relative_to(folder).as_posix().encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16], len(files)


def main(count: Annotated[int, typer.Option(help="Images.")] = 2000) -> None:
    """Print the digests of all files, and seconds; exit with 1 if they differ."""
    table = Table("job", "launcher", "seconds", "files", "digest of all files", box=box.MARKDOWN)
    same = True
    with tempfile.TemporaryDirectory() as holder:
        images = [Path(holder, "images", f"{seed:05d}.png") for seed in range(count)]
        images[0].parent.mkdir()
        names = list(world.species())
        for seed, path in enumerate(images):
            if seed < _DRAWN:
                world.draw_species(names[seed % len(names)], seed, 192).image.save(path)
            else:
                shutil.copyfile(images[seed % _DRAWN], path)
        for job, (first, second) in RELAYS.items():
            found = set()
            for launcher in (*LAUNCHERS, f"{first}, killed, then {second}"):
                # The same place each time: a store says where its images are.
                folder = Path(holder, "out")
                begun = time.perf_counter()
                made = None if launcher in LAUNCHERS else begin(job, first, images, folder)
                run(job, launcher if made is None else second, images, folder)
                digest, files = digest_of(folder)
                told = launcher if made is None else f"{launcher} (after {made} batches)"
                table.add_row(job, told, f"{time.perf_counter() - begun:.0f}", str(files), digest)
                found.add(digest)
                shutil.rmtree(folder)
            same &= len(found) == 1
    print(f"{machine()}\n")
    Console(width=150).print(table)
    if not same:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
