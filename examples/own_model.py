"""Explain a classifier in memory: the evidence for its prediction against the runner-up. The model stays unchanged.

    python examples/own_model.py
    python examples/own_model.py --image photo.jpg --architecture resnet18 --weights mine.pt --classes names.txt

Any module with a linear last layer works: replace ``trained`` by yours. Without arguments, the model is the trunk of the
embedded encoder with a linear layer for four birds, and the image is a plate of the embedded world.
"""

from __future__ import annotations

from pathlib import Path

import open_clip
import timm
import torch
import typer
from torch import nn

from concept_cam import Localizer, checks, drawing, read_vocabulary, rivals, world, wrap
from concept_cam.images import read_image

BIRDS = ("ember finch", "frost finch", "willow finch", "copper finch")


def main(
    image: Path | None = None,
    architecture: str | None = None,
    weights: Path | None = None,
    classes: Path | None = None,
    out: Path = Path("concept-cam-out/own-model.png"),
) -> None:
    """Draw what tells the first class of a classifier from the runner-up."""
    names = read_vocabulary(classes).names if classes else BIRDS
    model, transform = trained(architecture, weights, len(names)) if architecture and weights else probed()
    before = checks.fingerprint(model)
    localizer = Localizer(wrap(model, preprocess=transform, classes=names))
    image = read_image(image) if image else world.draw_species("ember finch", seed=3).image
    with torch.no_grad():
        first = names[int(model(localizer.frame(image).pixels[None]).argmax())]
    result = localizer(image, first, rivals(1), strength=1.0)  # all of the runner-up: what decided
    (second,), (x, y) = result.comparison.references, result.peak()
    print(f"{first} ({result.scores[first]:.2f}), not {second} ({result.scores[second]:.2f}): see ({x:.0f}, {y:.0f}) in {out}")
    out.parent.mkdir(parents=True, exist_ok=True)
    drawing.side_by_side(result, image).save(out)
    verdicts = list(checks.check(localizer.backbone))
    print(f"{sum(verdict.passed for verdict in verdicts)} of {len(verdicts)} checks passed")
    for verdict in verdicts:
        if not verdict.passed:
            print(f"failed: {verdict.check}: {verdict.finding}")
    print("the model is as it was" if checks.fingerprint(model) == before else "the model has changed")


def trained(architecture: str, weights: Path, count: int) -> tuple[nn.Module, None]:
    """A model of timm with a state dict of yours; None: it says itself how it wants its images."""
    model = timm.create_model(architecture, num_classes=count)
    model.load_state_dict(torch.load(weights, weights_only=True))
    return model.eval(), None


def probed() -> tuple[nn.Module, object]:
    """A trunk of open_clip, a linear layer that finds the bird whose mean feature is nearest, and the trunk's transform."""
    clip, _, transform = open_clip.create_model_and_transforms(f"local-dir:{world.MODELS['world']}")
    head = nn.Linear(192, len(BIRDS))
    with torch.no_grad():
        for row, name in enumerate(BIRDS):
            plates = [transform(world.draw_species(name, seed).image) for seed in range(100, 108)]
            head.weight[row] = clip.visual(torch.stack(plates)).mean(0)
        head.bias.copy_(-head.weight.square().sum(1) / 2)
    return nn.Sequential(clip.visual, head).eval(), transform


if __name__ == "__main__":
    typer.run(main)
