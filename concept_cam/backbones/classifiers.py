"""Classifiers of timm by name."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from concept_cam.backbones.archives import ENDINGS, check_weights
from concept_cam.backbones.classifier import Classifier
from concept_cam.backbones.confined import built_within, check_input, check_named, confined, downloaded
from concept_cam.backbones.settings import TIMM, WEIGHTS, check_folder, check_settings, check_timm
from concept_cam.backbones.towers import timm as timm_towers
from concept_cam.backbones.weights import check_device
from concept_cam.errors import BackboneError


def load(
    name: str, weights: str | None = None, device: str | torch.device = "cpu", classes: Iterable[str] | None = None
) -> Classifier:
    """Load a classifier of timm by its name, its folder, or its name and a tag or a file of weights.

    A file may have another number of classes than timm's own weights, if their names are given.

    Args:
        name: the name of a model of timm, or its folder.
        weights: a tag of timm's weights for the model, or a file of weights; timm's own by default.
        device: where the model runs.
        classes: the name of each row of the last layer, in order; by default those that the model knows.

    Raises:
        BackboneError: no such model, tag or file, weights that have to be downloaded and cannot be, classes without names, or
            a checkpoint that brings code or chooses how it is loaded.
    """
    check_device(device)
    name = name.removeprefix("local-dir:")
    local = Path(name).is_dir()
    if weights is not None and not Path(weights).is_file():
        tags = () if local else timm_towers.tags(name)
        if weights not in tags:
            known = f"the tags of {name} are {', '.join(tags)}" if tags else f"{name} has no tags"
            raise BackboneError(f"{weights!r} is no file and no tag of timm; {known}. Leave pretrained out for timm's own.")
        name, weights = f"{name}.{weights}", None
    with confined(f"{name} ({weights})" if weights else name, local=local or weights is not None):
        with _explained(name, local, weights):
            model = timm_towers.create(f"local-dir:{name}" if local else name, weights).to(device)
        prepared = timm_towers.preprocess(model)
        if prepared is not None:
            check_input(name, prepared.size)
        known_classes = timm_towers.classes(model) if classes is None else tuple(classes)
        if not known_classes:
            raise BackboneError(
                f"{name}: nobody knows the names of its classes; give classes, a name for each row or a file of them."
            )
        return Classifier(model.eval().requires_grad_(False), known_classes, name=name)


def _explained(name: str, local: bool, weights: str | None) -> AbstractContextManager[None]:
    """Look at a checkpoint that describes itself; the model of a folder is built within what its weights explain."""
    if local:
        check_folder(Path(name))
        file = Path(name) / TIMM
        check_timm(file, check_settings(file), timm_towers.is_known)
        files = [one for one in sorted(Path(name).iterdir()) if one.suffix in ENDINGS]
        return built_within(name, check_weights([Path(weights)] if weights else files))
    if weights is not None:
        return built_within(name, check_weights([Path(weights)]))
    schema, _, repository = name.partition(":")
    if repository and schema.replace("_", "-") == "hf-hub":
        settings = check_named(repository.partition("@")[0], [TIMM])
        check_timm(Path(repository) / TIMM, settings.get(TIMM, {}), timm_towers.is_known)
        found = None if "@" in repository else downloaded(repository, WEIGHTS)
        if found is not None:
            return built_within(name, check_weights([found]))
    return nullcontext()
