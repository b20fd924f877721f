"""How a model says that its images are prepared, whatever holds it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from concept_cam.backbones import openclip
from concept_cam.backbones.towers import timm as timm_towers
from concept_cam.backbones.weights import ADVICE, first_run
from concept_cam.backbones.wrappers import outermost
from concept_cam.errors import BackboneError
from concept_cam.hooks import on_output
from concept_cam.images import Preprocess

_IMAGENET = Preprocess((224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), shortest=256)
"""What nearly every classifier is fed with."""


@dataclass(frozen=True)
class Statement:
    """What one module says.

    Attributes:
        name: the module's name within the model.
        module: the module.
        preprocess: how its images are prepared; None if its library says that in another place.
    """

    name: str
    module: nn.Module
    preprocess: Preprocess | None


def statements(model: nn.Module) -> list[Statement]:
    """All that the modules within a model say, the outermost first."""
    found = {id(module): (prefix.removesuffix("."), module) for prefix, module in outermost(model, _says)}
    return [Statement(name, module, _said(module)) for name, module in found.values()]


def _says(module: nn.Module) -> bool:
    own = vars(module)
    return "pretrained_cfg" in own or "preprocess_cfg" in own or _of_transformers(module)


def _of_transformers(module: nn.Module) -> bool:
    # One that holds a model of timm leaves it to that to say.
    return hasattr(vars(module).get("config"), "model_type") and not hasattr(module, "timm_model")


def _said(module: nn.Module) -> Preprocess | None:
    if "preprocess_cfg" in vars(module):
        return openclip.preprocess_of(module)
    return timm_towers.preprocess(module)


def preprocess_of(
    model: nn.Module, name: str, run: Callable[[Float[Tensor, "1 3 height width"]], Any], noise: Callable[[Preprocess], Tensor]
) -> Preprocess:
    """How a model says that its images are prepared, or how ImageNet's are if it does not, with a warning.

    What a module says holds for the model around it only if that hands it the pixels as they are: a layer of its own may have
    normalised them before.

    Args:
        model: whatever may hold a model of a library that says it.
        name: of the model, for messages.
        run: calls the model on pixels.
        noise: pixels to try it with.

    Raises:
        BackboneError: its library says it in another place, several modules differ, or the model changes pixels first.

    Warns:
        UserWarning: nobody says it.
    """
    found = statements(model)
    if not found:
        warnings.warn(
            f"{name} does not say how its images are prepared; assumed: {_IMAGENET.size[0]} x {_IMAGENET.size[1]} pixels with "
            "the mean and deviation of ImageNet. If that is not so, say it with preprocess=.",
            stacklevel=5,
        )
        return _IMAGENET
    silent = next((one for one in found if one.preprocess is None), None)
    if silent is not None:
        raise BackboneError(
            f"{name}: how images are prepared for a {type(silent.module).__name__} of transformers is in its processor; "
            "give it as preprocess=, such as AutoImageProcessor.from_pretrained(...)."
        )
    said = [one.preprocess for one in found if one.preprocess is not None]
    if any(replace(other, stride=said[0].stride) != said[0] for other in said):
        names = ", ".join(one.name for one in found)
        raise BackboneError(f"{name} holds {names}, whose images are prepared in different ways; say it with preprocess=.")
    if found[0].name and not _gets_pixels(found[0].module, name, run, noise(said[0])):
        raise BackboneError(
            f"{name} changes images before they reach {found[0].name} ({type(found[0].module).__name__}), so what that says "
            "of how they are prepared does not hold; say it with preprocess=."
        )
    return said[0]


def _gets_pixels(module: nn.Module, name: str, run: Callable[[Tensor], Any], pixels: Tensor) -> bool:
    """Whether a module within a model gets the pixels that the model gets."""
    seen: list[bool] = []

    def look(_: nn.Module, inputs: tuple[Any, ...], __: Any) -> None:
        seen.append(any(isinstance(given, Tensor) and torch.equal(given, pixels) for given in inputs))

    size = int(pixels.shape[2]), int(pixels.shape[3])
    with on_output(module, look), first_run(name, size, f"{ADVICE}, or say how it is called with call="):
        run(pixels)
    return all(seen) and bool(seen)
