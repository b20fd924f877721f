"""What it costs to hold every pass against the model, so that no map is out of date.

    python -m benchmarks.checks                 ViT-B-16, a batch of eight, two minutes on two cores
    python -m benchmarks.checks --batch 1

Each check is run by itself in turn with the model's own forward pass; medians, as shares of that pass.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Mapping
from typing import Any

import torch

from benchmarks.contenders import Bench
from benchmarks.timing import Contender, alternate, machine
from concept_cam.backbones.closed_form import ClassAttention
from concept_cam.backbones.snapshot import Snapshot, checksum
from concept_cam.hooks import on_input

OWN = "the model's own forward pass"
STRUCTURE = "structure: modules, attributes, hooks (each pass)"
IMAGE = "the first image on to the model's own embedding (each pass)"
TEXTS = "all weights of the text encoder (each call that uses embedded texts)"
FOLDED = "all weights of the end whose products are kept (each field)"


def contenders(bench: Bench) -> Mapping[str, Contender]:
    """The checks, and the pass that they are compared with."""
    backbone = bench.backbone
    head: Any = backbone.sites[0].head
    if not isinstance(head, ClassAttention):
        raise SystemExit(f"{backbone.name} does not read its class token in a last block; measure another model.")
    around, by_row, end = head.around, head.by_row, head.end()
    entered: list[torch.Tensor] = []
    with on_input(around, lambda _, inputs: entered.append(inputs[0])), backbone.evaluating():
        backbone.embed_pixels(bench.pixels)

    def image() -> torch.Tensor:
        with backbone.evaluating(), on_input(by_row, lambda _, inputs: (inputs[0][:, :1],)):
            embedding: torch.Tensor = head.rest(around(entered[0][:1])[:, 0])
        return embedding

    return {
        OWN: bench.own,
        STRUCTURE: lambda: Snapshot(backbone.module, backbone.text_parts()),
        IMAGE: image,
        TEXTS: lambda: Snapshot(backbone.module, backbone.image_parts(), contents=True),
        **({} if end is None else {FOLDED: lambda: checksum(end.tensors())}),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checks", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ViT-B-16", help="by open_clip's name")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    seconds = alternate(contenders(Bench.of(given.model, given.batch, device=given.device)), given.runs, given.device)
    print(f"{machine()}\n\n### {given.model}, batch of {given.batch}\n")
    print(f"| medians of {given.runs} | milliseconds | share of the pass, % |\n|---|---|---|")
    for name, taken in seconds.items():
        print(f"| {name} | {1000 * taken:.2f} | {100 * taken / seconds[OWN]:.3f} |")
    each = sum(seconds[name] for name in (STRUCTURE, IMAGE)) / seconds[OWN]
    print(
        f"\nEach pass: {100 * each:.2f} %; with texts that are at hand {100 * (each + seconds[TEXTS] / seconds[OWN]):.2f} %."
    )


if __name__ == "__main__":
    main()
