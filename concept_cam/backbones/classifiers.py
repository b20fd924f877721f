"""Classifiers of timm by name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from concept_cam.backbones.classifier import Classifier
from concept_cam.backbones.towers import timm as timm_towers
from concept_cam.backbones.weights import check_device, load_failure
from concept_cam.errors import BackboneError


def load(
    name: str, weights: str | None = None, device: str | torch.device = "cpu", classes: Iterable[str] | None = None
) -> Classifier:
    """Load a classifier of timm by its name, its folder, or its name and a tag or a file of weights.

    A file may have another number of classes than timm's own weights, if their names are given.

    Raises:
        BackboneError: no such model, tag or file, weights that have to be downloaded and cannot be, or classes without names.
    """
    check_device(device)
    local = Path(name).is_dir()
    if weights is not None and not Path(weights).is_file():
        tags = () if local else timm_towers.tags(name)
        if weights not in tags:
            known = f"the tags of {name} are {', '.join(tags)}" if tags else f"{name} has no tags"
            raise BackboneError(f"{weights!r} is no file and no tag of timm; {known}. Leave pretrained out for timm's own.")
        name, weights = f"{name}.{weights}", None
    try:
        # Weights are drawn at random before they are read.
        with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
            model = timm_towers.create(f"local-dir:{name}" if local else name, weights).to(device)
    except Exception as error:
        what = f"{name} ({weights})" if weights else name
        raise BackboneError(load_failure(what, error, local=local or weights is not None)) from error
    known_classes = timm_towers.classes(model) if classes is None else tuple(classes)
    if not known_classes:
        raise BackboneError(
            f"{name}: nobody knows the names of its classes; give them, one for each row (classes=, or --classes FILE)."
        )
    return Classifier(model.eval().requires_grad_(False), known_classes, name=name)
