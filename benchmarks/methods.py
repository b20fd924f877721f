"""What each method takes in time and memory on a ViT-B/16 at 224, for one image and 16 concepts.

python -m benchmarks.methods            those that need a few passes, and occlusion
python -m benchmarks.methods --all      all: hundreds of passes each for those by perturbation
"""

from __future__ import annotations

import argparse
import logging
import warnings
from functools import partial

from benchmarks.contenders import Bench
from benchmarks.speed import OWN
from benchmarks.timing import alternate, machine, peak_memory
from concept_cam import trace
from concept_cam.methods import CARDS, Method, depth_of, explain

CONCEPTS = 16
SHORT = "occlusion"
"""Of those by perturbation the one with the fewest passes: they all hold one batch of changed images at a time."""


def run(bench: Bench, method: Method) -> None:
    """Trace and maps."""
    explain(method, trace(bench.backbone, bench.pixels, depth=depth_of(method)), bench.directions[:CONCEPTS, None])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.methods", description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="with those of hundreds of passes")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    bench = Bench.of("ViT-B-16", 1)
    chosen = {name: card for name, card in CARDS.items() if given.all or card.kind != "perturbation" or name == SHORT}
    contenders = {OWN: bench.own, **{name: partial(run, bench, card.method) for name, card in chosen.items()}}
    few = {name: way for name, way in contenders.items() if name == OWN or CARDS[name].kind != "perturbation"}
    seconds = alternate(few, 7)
    print(f"{machine()}\n")
    print("| method | forward passes | time, relative | memory, MB |")
    print("|---|---|---|---|")
    for name, contender in contenders.items():
        passes = "1" if name == OWN else CARDS[name].forwards
        taken = f"{seconds[name] / seconds[OWN]:.2f}" if name in seconds else "as its passes"
        print(f"| {name} | {passes} | {taken} | {peak_memory(contender) / 1e6:.0f} |", flush=True)


if __name__ == "__main__":
    main()
