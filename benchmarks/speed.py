"""What a map costs, beside the model's own forward pass and beside the packages that people use.

    python -m benchmarks.speed                      the tables of docs/performance.md, some 20 minutes on two cores
    python -m benchmarks.speed --only ViT-B-16      one model
    python -m benchmarks.speed --only blocks        the methods that read every block, ViT-B-16
    python -m benchmarks.speed --device cuda        on a GPU, in float32 and bfloat16, by its own clock

Contenders take turns in one process; times are medians, relative to the model's own ``encode_image(normalize=True)`` under
inference mode on the same batch. Memory is what torch's allocator has given out at most, over the model and its input.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks.contenders import LAYER_ALONE, PER_GRAPH, Bench, count_of, every_block, ours, peers, tried
from benchmarks.timing import Contender, alternate, machine, peak_memory

OWN = "the model's own forward pass"
TRIED = "tried"
BLOCKS = "blocks"
COMPARED = [f"concept-cam, {count_of(count)}" for count in (1, 1_000)]


@dataclass(frozen=True)
class Case:
    """What one table is of.

    Attributes:
        model: open_clip's name.
        batch: images.
        runs: that the medians are of.
        dtype: of the model, by torch's name.
        peers: whether the other packages take part.
        several: with one and with several concepts, so as to scale up; then of ours only what is compared with.
    """

    model: str
    batch: int
    runs: int
    dtype: str = "float32"
    peers: bool = True
    several: bool = False


CPU = (
    Case("ViT-B-16", 8, 15),
    Case("ViT-B-16", 8, 7, several=True),
    Case("ViT-B-16", 1, 15),
    Case("ViT-B-16", 8, 9, "bfloat16", peers=False),
    Case("ViT-B-16-SigLIP-256", 1, 9),
    Case("ViT-B-16-SigLIP-512", 1, 7),
    Case("ViT-L-14-336", 1, 7),
)
GPU = tuple(
    Case(model, 8, 25, dtype, peers=dtype == "float32", several=several)
    for model in ("ViT-B-16", "ViT-L-14-336", "ViT-B-16-SigLIP-512")
    for dtype, several in (("float32", False), ("float32", True), ("bfloat16", False))
)


def table(case: Case, device: str = "cpu") -> Iterator[str]:
    """The lines of one table, as Markdown."""
    bench = Bench.of(case.model, case.batch, getattr(torch, case.dtype), device)
    own = {name: way for name, way in ours(bench).items() if not case.several or name in COMPARED}
    contenders = {OWN: bench.own, **own, **(peers(bench, case.several) if case.peers else {})}
    seconds = alternate(contenders, case.runs, device)
    height, width = bench.pixels.shape[2:]
    rows, cols = bench.fields[0].vectors.shape[:2]
    yield f"### {case.model}, {height} x {width}, {rows} x {cols} patches, batch of {case.batch}, {case.dtype}"
    yield ""
    yield from _rows(contenders, seconds, case.runs, device)
    if case.several:
        yield from _against_peers(seconds)


def blocks_table(device: str, runs: int = 9) -> Iterator[str]:
    """The methods that read every block, beside one concept of the last."""
    bench = Bench.of("ViT-B-16", 8, device=device)
    contenders = {OWN: bench.own, COMPARED[0]: partial(bench.one_by_one, 1), **every_block(bench)}
    seconds = alternate(contenders, runs, device)
    yield "### Every block: ViT-B-16, batch of 8, float32"
    yield ""
    yield from _rows(contenders, seconds, runs, device)


def tried_table(device: str) -> Iterator[str]:
    """Other ways to run the model."""
    bench = Bench.of("ViT-B-16", 8, device=device)
    seconds = alternate({OWN: bench.own, **tried(bench)}, 7, device)
    yield "### Other ways to run the model: ViT-B-16, batch of 8, float32"
    yield ""
    yield "| medians of 7 | seconds | relative |"
    yield "|---|---|---|"
    for name, taken in seconds.items():
        yield f"| {name} | {taken:.4f} | {taken / seconds[OWN]:.3f} |"
    yield ""


def _rows(contenders: Mapping[str, Contender], seconds: Mapping[str, float], runs: int, device: str) -> Iterator[str]:
    yield f"| medians of {runs} | seconds | relative | memory, MB |"
    yield "|---|---|---|---|"
    for name, contender in contenders.items():
        peak = peak_memory(contender, device) / 1e6
        yield f"| {name} | {seconds[name]:.4f} | {seconds[name] / seconds[OWN]:.4f} | {peak:.0f} |"
    yield ""


def _against_peers(seconds: dict[str, float]) -> Iterator[str]:
    """How many times faster; for 1,000 concepts theirs are extrapolated from one and several."""
    our_one, our_many = (seconds[name] for name in COMPARED)
    for peer in (f"{package}{how}" for package in ("torch-cam", "grad-cam") for how in ("", LAYER_ALONE)):
        if f"{peer}, {count_of(1)}" in seconds:
            one, some = (seconds[f"{peer}, {count_of(count)}"] for count in (1, PER_GRAPH))
            each = (some - one) / (PER_GRAPH - 1)
            faster, far_faster = one / our_one, (one + 999 * each) / our_many
            yield f"* {peer}: {each / seconds[OWN]:.3f} for each further concept (1 and {PER_GRAPH} timed, more extrapolated)."
            yield f"  concept-cam is {faster:.2f} times as fast for one concept and {far_faster:,.0f} times for 1,000."
    yield ""


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", help=f"one model, by open_clip's name, {BLOCKS}: methods of every block, or {TRIED}: other ways to run it"
    )
    parser.add_argument("--batch", type=int, help="that batch size alone")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    print(f"{machine()}\n")
    for case in GPU if given.device.startswith("cuda") else CPU:
        if given.only in (None, case.model) and given.batch in (None, case.batch):
            for line in table(case, given.device):
                print(line, flush=True)
    if given.only in (None, BLOCKS) and given.batch is None:
        for line in blocks_table(given.device):
            print(line, flush=True)
    if given.only in (None, TRIED) and given.batch is None:
        print("\n".join(tried_table(given.device)))


if __name__ == "__main__":
    main()
