"""What does a run take? ``python -m benchmarks.processes``: maps of many plates, by one process, by several, and by Ray.

*bare* decodes the same images and runs the model on them, in this process, and nothing else. The others are the jobs without
their start: the seconds of so many images minus those of a few. One thread each, as for workers beside each other. *parquet*
is ``localize`` with a data set as its output, by one process; bare beside it is that model.

``--memory`` prints the largest memory of a process that localizes so many images into a data set.
"""

from __future__ import annotations

import multiprocessing
import resource
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated

import open_clip
import torch
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.timing import machine
from concept_cam import Localizer, world, wrap
from concept_cam.passes import embedded
from concept_cam.runs import run_together
from concept_cam.store import store_fields
from concept_cam.writers import localize_images

_BATCH, _DRAWN = 8, 500
_METHODS = ("class_stream", "hires_cam")


def bare(localizer: Localizer, images: list[Path]) -> float:
    """Seconds of decoding and of the model's own forward pass."""
    begun = time.perf_counter()
    for start in range(0, len(images), _BATCH):
        frames = [localizer.frame(path).pixels for path in images[start : start + _BATCH]]
        with torch.no_grad():
            embedded(localizer.backbone, torch.stack(frames))
    return time.perf_counter() - begun


def vit(method: str) -> Localizer:
    """A model of full size, with random weights."""
    model, *_ = open_clip.create_model_and_transforms("ViT-B-16", pretrained=None)
    return Localizer(wrap(model.eval(), open_clip.get_tokenizer("ViT-B-16"), name="ViT-B-16"), method=method)


def parquet(localizer: Localizer, images: list[Path]) -> float:
    """Seconds of ``localize`` into a data set, with its start."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        localize_images(localizer, images, folder, "ember finch", "frost finch", batch_size=_BATCH, output="parquet")
        return time.perf_counter() - begun


def alone_and_parquet(localizer: Localizer, images: list[Path], few: int, times: int = 3) -> tuple[float, float]:
    """Seconds of an image, bare and into a data set: the median of several times, in turn."""
    found = []
    for _ in range(times):
        start = bare(localizer, images[:few]), parquet(localizer, images[:few])
        whole = bare(localizer, images), parquet(localizer, images)
        found.append([(more - less) / (len(images) - few) for more, less in zip(whole, start, strict=True)])
    alone, written = (statistics.median(times) for times in zip(*found, strict=True))
    return alone, written


def drawn(folder: str, count: int, side: int) -> list[Path]:
    """Plates in files; of many, copies."""
    images = [Path(folder, f"{seed:05d}.png") for seed in range(count)]
    for seed, path in enumerate(images):
        if seed < _DRAWN:
            world.draw_species("ember finch", seed, side).image.save(path)
        else:
            shutil.copyfile(images[seed % _DRAWN], path)
    return images


def peak_of(count: int, side: int) -> float:
    """Megabytes that a process of its own needs at most to localize so many images into a data set."""
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak_here, drawn(folder, count, side)).result()


def _peak_here(images: list[Path]) -> float:
    torch.set_num_threads(1)
    parquet(world.localizer(), images)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


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
    large: Annotated[int, typer.Option(help="Images for a ViT-B-16, of which 8 are the start; 0 leaves it out.")] = 64,
    memory: Annotated[str, typer.Option(help="Numbers of images, instead of all else.")] = "",
) -> None:
    """Print seconds for each image, and how they compare; or memory."""
    torch.set_num_threads(1)
    if memory:
        table = Table("images", "peak MB", box=box.MARKDOWN)
        for number in map(int, memory.split(",")):
            table.add_row(f"{number:,}", f"{peak_of(number, side):.0f}")
        print(f"{machine()}\n")
        Console(width=150).print(table)
        return
    localizer = world.localizer()
    table = Table("job", "engine", "processes", "ms an image", "relative to one", "relative to bare", box=box.MARKDOWN)
    with tempfile.TemporaryDirectory() as folder:
        images = drawn(folder, count, side)
        bare(localizer, images[:few])
        alone = bare(localizer, images) / count
        table.add_row("bare", "", "1", f"{1000 * alone:.2f}", "", "1.000")
        for job in ("localize", "fields") if processes else ():
            first = 0.0
            asked = [("processes", int(one)) for one in processes.split(",")]
            for engine, number in [*asked, *(("ray", int(one)) for one in actors.split(",") if one)]:
                start = shared(job, localizer, images[:few], number, engine)
                each = (shared(job, localizer, images, number, engine) - start) / (count - few)
                first = first or each
                cells = (f"{1000 * each:.2f}", f"{each / first:.3f}", f"{each / alone:.3f}")
                table.add_row(job, engine, str(number), *cells)
        cases = [(f"parquet, {name}", world.localizer(method=name), images, few) for name in _METHODS]
        if large:
            cases += [(f"parquet, ViT-B-16, {name}", vit(name), images[:large], 8) for name in _METHODS]
        for what, one, some, less in cases:
            beside, written = alone_and_parquet(one, some, less)
            table.add_row(what, "processes", "1", f"{1000 * written:.2f}", "", f"{written / beside:.3f}")
    print(f"{machine()}\n")
    Console(width=150).print(table)


if __name__ == "__main__":
    typer.run(main)
