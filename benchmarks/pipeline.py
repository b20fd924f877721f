"""From JPEG files to saved maps, beside reading the same files and running the model alone.

    python -m benchmarks.pipeline                   the table of docs/performance.md, some four minutes on two cores

Both read every image, shrink it as the model wants and run the model in batches of 8; ``stream`` also localizes one concept
against another and saves each result. They take turns.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from tqdm import tqdm

from benchmarks.timing import machine, resident
from concept_cam import Localizer, wrap

BATCH = 8
PAIR = ("a cardinal", "a tanager")


@dataclass(frozen=True)
class Run:
    """One way through all files.

    Attributes:
        rate: images a second.
        held: memory of the process at some numbers of images, in bytes.
    """

    rate: float
    held: dict[int, int]


def write_images(folder: Path, count: int) -> list[Path]:
    """JPEG files of 500 x 375, as datasets have them: smooth patches with some noise on them."""
    paths = []
    for seed in range(count):
        random = np.random.default_rng(seed)
        coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(
            (500, 375), Image.Resampling.BICUBIC
        )
        noisy = np.asarray(coarse, dtype=np.float32) + random.normal(0, 8, (375, 500, 3))
        paths.append(folder / f"{seed:04}.jpg")
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=90)
    return paths


def bare(model: Any, transform: Any, paths: list[Path]) -> Iterator[None]:
    """What a plain loop does: decode, transform, encode."""
    for start in range(0, len(paths), BATCH):
        images = []
        for path in paths[start : start + BATCH]:
            with Image.open(path) as image:
                images.append(transform(image))
        with torch.inference_mode():
            model.encode_image(torch.stack(images), normalize=True)
        yield from [None] * len(images)


def localized(localizer: Localizer, paths: list[Path], out: Path, pair: tuple[str, str] = PAIR) -> Iterator[None]:
    """A map of each, saved."""
    for path, result in localizer.stream(paths, *pair, batch_size=BATCH):
        result.save(out / f"{path.stem}.safetensors")
        yield


def timed(images: Iterator[None], total: int, marks: tuple[int, ...]) -> Run:
    """Go through them all."""
    held = {}
    start = time.perf_counter()
    for done, _ in enumerate(tqdm(images, total=total, disable=None, leave=False), 1):
        if done in marks:
            held[done] = resident()
    return Run(total / (time.perf_counter() - start), held)


def table(model_name: str, count: int, rounds: int) -> Iterator[str]:
    """Both ways in turn, the other first each time."""
    torch.manual_seed(0)
    model, _, transform = open_clip.create_model_and_transforms(model_name, pretrained=None)
    model.eval().requires_grad_(False)
    tokenizer = open_clip.get_tokenizer(model_name)
    localizer = Localizer(wrap(model, tokenizer, name=model_name), method="hires_cam")
    marks = (count // 3, count)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_images(Path(folder), count)
        ways: dict[str, Callable[[list[Path]], Iterable[object]]] = {
            "decode and forward pass alone": lambda some: bare(model, transform, some),
            "Localizer.stream, one concept, saved": lambda some: localized(localizer, some, Path(folder)),
        }
        for way in ways.values():
            list(way(paths[: 2 * BATCH]))
        runs: dict[str, list[Run]] = {name: [] for name in ways}
        for number in range(rounds):
            for name in list(ways) if number % 2 else reversed(ways):
                runs[name].append(timed(ways[name](paths), count, marks))
    first, last = marks
    yield f"### {model_name}, {count} JPEG files of 500 x 375, batches of {BATCH}, float32"
    yield ""
    yield f"| medians of {rounds} | images a second | relative | MB after {first} images | MB after {last} images |"
    yield "|---|---|---|---|---|"
    rates = {name: statistics.median(run.rate for run in some) for name, some in runs.items()}
    for name, rate in rates.items():
        held = [statistics.median(run.held[mark] for run in runs[name]) / 1e6 for mark in marks]
        yield f"| {name} | {rate:.2f} | {rate / rates[next(iter(ways))]:.3f} | {held[0]:.0f} | {held[1]:.0f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipeline", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ViT-B-16", help="open_clip's name")
    parser.add_argument("--count", type=int, default=300, help="how many files")
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    print(f"{machine()}\n")
    for line in table(given.model, given.count, given.rounds):
        print(line, flush=True)


if __name__ == "__main__":
    main()
