"""How well maps localize, beside those of the packages that people use, on the same images and the same model.

    python -m benchmarks.quality                    the table of docs/evaluation.md, some 15 minutes on two cores
    python -m benchmarks.quality --count 500 --methods grad_cam,hires_cam,layer_cam

Plates of the embedded world, each against its twin. Chefer's relevance, LeGrad, Grad-ECLIP, RISE and the similarity of patches
and texts are this library's own, each tested against its equation; the two packages run their own code.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.contenders import ZeroShot
from benchmarks.timing import machine
from concept_cam import world
from concept_cam.evaluation import ClassProbabilities, Grid, GridRow, Settings, own_scale, read_rows, tables, write_rows
from concept_cam.evaluation.contrasts import BASE
from concept_cam.evaluation.grid import OcclusionScores, where
from concept_cam.evidence import EvidenceMap
from concept_cam.localizer import Localizer
from concept_cam.passes import Pass
from concept_cam.views import View
from concept_cam.world.dataset import twins_dataset

STRENGTH = 0.6
METHODS = "grad_cam,hires_cam,layer_cam,class_stream,value_attribution,legrad,grad_eclip,patch_text"

Peer = Callable[[nn.Module, nn.Module, Tensor, float], Tensor]
"""From a classifier whose first class is the target and whose second is the twin, a layer, pixels and a strength, to a map."""


def torch_cam(classifier: nn.Module, layer: nn.Module, pixels: Tensor, strength: float) -> Tensor:
    """Torch-cam's FinerCAM, before it scales the map."""
    from torchcam.methods import FinerCAM

    with FinerCAM(classifier, layer, tuple(pixels.shape[1:]), gamma=strength, reshape_transform=_on_grid) as cam:
        (found,) = cam(0, classifier(pixels), comparison_idx=[1], normalized=False)
    return found[0].detach()


def grad_cam(classifier: nn.Module, layer: nn.Module, pixels: Tensor, strength: float) -> Tensor:
    """grad-cam's FinerCAM, scaled and enlarged to the input as it comes."""
    from pytorch_grad_cam import FinerCAM
    from pytorch_grad_cam.utils.model_targets import FinerWeightedTarget

    with FinerCAM(classifier, [layer], reshape_transform=_on_grid) as cam:
        return torch.from_numpy(cam(pixels, targets=[FinerWeightedTarget(0, [1], strength)])[0])


PEERS: Mapping[str, tuple[str, Peer]] = {
    "torch-cam FinerCAM": ("torchcam", torch_cam),
    "grad-cam FinerCAM": ("pytorch_grad_cam", grad_cam),
}


def _on_grid(tokens: Tensor) -> Tensor:
    side = round((tokens.shape[1] - 1) ** 0.5)
    return tokens[:, 1:].transpose(1, 2).unflatten(2, (side, side))


def peer_rows(localizer: Localizer, count: int) -> Iterator[GridRow]:
    """The rows of the packages, base and contrastive."""
    bank, backbone = localizer.bank(world.species()), localizer.backbone
    site = backbone.sites[0]
    probabilities = ClassProbabilities(backbone, bank, own_scale(backbone))
    for example in tqdm(twins_dataset(count).examples, desc="peers", disable=None):
        view = View.of(example, localizer.preprocess)
        pixels = view.frame.pixels[None]
        seen = Pass.of(backbone, pixels)
        patch = view.frame.placement.cell_size((seen.layout.rows, seen.layout.cols))[0]
        occluded = OcclusionScores.of(probabilities, seen, [example])
        classifier = ZeroShot(backbone.module, bank.vectors_of([example.label, example.twin or ""]))
        for name, (module, peer) in PEERS.items():
            if find_spec(module) is None:
                continue
            for references, strength in ((BASE, 0.0), ("twin", STRENGTH), ("twin", 1.0)):
                with _gradients(site.module, backbone.module):
                    grid = peer(classifier, site.module, pixels, strength).float()
                yield GridRow(
                    image=example.name,
                    label=example.label,
                    method=name,
                    references=references,
                    strength=strength,
                    correct=bool(seen.scores(bank)[0].argmax() == bank.index(example.label)),
                    **where(view, EvidenceMap(grid, view.frame.placement), patch),
                    **{key: float(value) for key, value in occluded.about(grid[None], 0).items()},
                )


@contextmanager
def _gradients(layer: nn.Module, model: nn.Module) -> Iterator[None]:
    """The layer asks for gradients while a package runs."""
    layer.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        layer.requires_grad_(False)
        model.zero_grad()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100, help="plates")
    parser.add_argument("--methods", default=METHODS, help="of this library")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    print(f"{machine()}\n")
    localizer = world.localizer()
    bank = localizer.bank(world.species())
    settings = Settings(tuple(given.methods.split(",")), ("twin",), (STRENGTH, 1.0))
    grid = Grid(localizer, bank, own_scale(localizer.backbone), settings)
    with tempfile.TemporaryDirectory() as folder:
        rows = read_rows(write_rows(grid, twins_dataset(given.count), Path(folder), {}))
    console = Console(width=320)
    for table in tables([*rows, *peer_rows(localizer, given.count)]):
        console.print(table)


if __name__ == "__main__":
    main()
