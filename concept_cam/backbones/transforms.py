"""A user's own preprocessing, read as a Preprocess: torchvision's, open_clip's and timm's transforms, and processors."""

from __future__ import annotations

from typing import Any

from concept_cam.backbones.backbone import Backbone
from concept_cam.backbones.processors import read_processor
from concept_cam.errors import BackboneError, OptionError
from concept_cam.images import Fit, Preprocess, Size, check_fit

_SILENT = {"MaybeConvertMode", "MaybeToTensor", "ToTensor", "PILToTensor", "ToImage", "ToDtype", "ConvertImageDtype", "RGB"}
"""Steps that a Frame takes anyway."""


def read_transform(given: Any) -> Preprocess:
    """What a transform does, without running it.

    Args:
        given: a Preprocess, which is taken as it is; a torchvision ``Compose`` as open_clip and timm make it for evaluation;
            the preset that torchvision's weights bring (``weights.transforms()``); or a processor of transformers.

    Raises:
        BackboneError: it has a step that is not known.

    Example:
        >>> from torchvision.models import ResNet50_Weights
        >>> preprocess = read_transform(ResNet50_Weights.IMAGENET1K_V2.transforms())
        >>> preprocess.size, preprocess.shortest
        ((224, 224), 232)
    """
    if isinstance(given, Preprocess):
        return given
    # A processor of pictures and texts has one of pictures within.
    given = getattr(given, "image_processor", given)
    if hasattr(given, "image_mean"):
        return read_processor(given)
    if hasattr(given, "crop_size") and hasattr(given, "resize_size"):
        return Preprocess(
            size=_pair(given.crop_size),
            mean=tuple(given.mean),
            std=tuple(given.std),
            interpolation=_interpolation(given.interpolation),
            shortest=_pair(given.resize_size)[0],
        )
    steps = list(getattr(given, "transforms", ()))
    if not steps:
        raise BackboneError(f"{type(given).__name__} is no preprocessing that is known; give a concept_cam Preprocess.")
    return _of_steps(steps)


def _of_steps(steps: list[Any]) -> Preprocess:
    found: dict[str, Any] = {"fit": "squash"}
    for step in steps:
        kind = type(step).__name__
        if kind == "Normalize":
            found |= {"mean": _floats(step.mean), "std": _floats(step.std)}
        elif kind == "Resize" and isinstance(step.size, int):
            found |= {"shortest": step.size, "interpolation": _interpolation(step.interpolation)}
        elif kind == "Resize":
            found |= {"size": _pair(step.size), "interpolation": _interpolation(step.interpolation)}
        elif kind == "ResizeKeepRatio":
            fit: Fit = "pad" if step.longest else "crop"
            found |= {"size": _pair(step.size), "interpolation": _interpolation(step.interpolation), "fit": fit}
        elif kind in ("CenterCrop", "CenterCropOrPad"):
            found |= {"size": _pair(step.size), "fit": "pad" if found["fit"] == "pad" else "crop"}
            found["fill"] = getattr(step, "fill", 0)
        elif kind not in _SILENT and getattr(step, "__name__", "") != "_convert_to_rgb":
            raise BackboneError(f"The preprocessing has a step {kind} that is not known; give a concept_cam Preprocess.")
    missing = {"size", "mean", "std"} - set(found)
    if missing:
        raise BackboneError(f"The preprocessing does not say its {', '.join(sorted(missing))}; give a concept_cam Preprocess.")
    return Preprocess(**found)


def _pair(size: Any) -> tuple[int, int]:
    sides = [size] if isinstance(size, int) else list(size)
    return int(sides[0]), int(sides[-1])


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _interpolation(mode: Any) -> Any:
    """Pillow's name of it: torchvision has an enumeration, timm a name or a number."""
    return getattr(mode, "value", mode)


def preprocess_for(backbone: Backbone, fit: Fit | None, size: int | Size | None) -> Preprocess:
    """The model's own, with what the user wants otherwise; a size that the model cannot take is found now.

    Raises:
        OptionError: no such fit, or a size below one.
        BackboneError: the model cannot take that size.
    """
    own = backbone.preprocess
    if fit is not None:
        check_fit(fit)
    wanted = own.size if size is None else (size, size) if isinstance(size, int) else (size[0], size[1])
    if min(wanted) < 1:
        raise OptionError(f"size is {size}; expected the side of a square, or (height, width), in pixels.")
    if wanted != own.size:
        own = backbone.at_size(wanted).preprocess
    return own if fit is None else own.fitted(fit)
