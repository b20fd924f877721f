"""What does it take to share a run? ``python -m benchmarks.processes``: maps by one process, by several, and by Ray.

*bare* decodes the same images and runs the model on them, in this process, and nothing else. The others are the jobs without
their start: the seconds of so many images minus those of a few. One thread each, as for workers beside each other.
"""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.timing import machine
from concept_cam import Localizer, world
from concept_cam.passes import embedded
from concept_cam.runs import run_together
from concept_cam.store import store_fields
from concept_cam.writers import localize_images

_BATCH = 8


def bare(localizer: Localizer, images: list[Path]) -> float:
    """Seconds of decoding and of the model's own forward pass."""
    begun = time.perf_counter()
    for start in range(0, len(images), _BATCH):
        frames = [localizer.frame(path).pixels for path in images[start : start + _BATCH]]
        with torch.no_grad():
            embedded(localizer.backbone, torch.stack(frames))
    return time.perf_counter() - begun


def shared(job: str, localizer: Localizer, images: list[Path], processes: int, engine: str) -> float:
    """Seconds of a job, with its start."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        if job == "localize":
            work = partial(localize_images, localizer, images, folder, "ember finch", "frost finch", batch_size=_BATCH)
        else:
            work = partial(store_fields, localizer, images, folder, batch_size=_BATCH)
        run_together(processes, work, engine=engine)
        return time.perf_counter() - begun


def main(
    count: Annotated[int, typer.Option(help="Images.")] = 1000,
    few: Annotated[int, typer.Option(help="Images of the run whose time is subtracted.")] = 64,
    processes: Annotated[str, typer.Option(help="Numbers with commas between them.")] = "1,2",
    actors: Annotated[str, typer.Option(help="Of Ray: numbers, or nothing.")] = "1,2",
    side: Annotated[int, typer.Option(help="Of the images, in pixels.")] = 192,
) -> None:
    """Print seconds for each image, and how they compare."""
    torch.set_num_threads(1)
    localizer = world.localizer()
    table = Table("job", "engine", "processes", "ms an image", "relative to one", "relative to bare", box=box.MARKDOWN)
    with tempfile.TemporaryDirectory() as folder:
        images = [Path(folder, f"{seed:05d}.png") for seed in range(count)]
        for seed, path in enumerate(images):
            world.draw_species("ember finch", seed, side).image.save(path)
        bare(localizer, images[:few])
        alone = bare(localizer, images) / count
        table.add_row("bare", "", "1", f"{1000 * alone:.2f}", "", "1.000")
        for job in ("localize", "fields"):
            first = 0.0
            asked = [("processes", int(one)) for one in processes.split(",")]
            for engine, number in [*asked, *(("ray", int(one)) for one in actors.split(",") if one)]:
                start = shared(job, localizer, images[:few], number, engine)
                each = (shared(job, localizer, images, number, engine) - start) / (count - few)
                first = first or each
                cells = (f"{1000 * each:.2f}", f"{each / first:.3f}", f"{each / alone:.3f}")
                table.add_row(job, engine, str(number), *cells)
    print(f"{machine()}\n")
    Console(width=150).print(table)


if __name__ == "__main__":
    typer.run(main)
