"""LOAD: a model by one string, or the instance that you hold; either is tried on itself before it is handed out."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concept_cam.errors import BackboneError, did_you_mean
from concept_cam.prompts import read_vocabulary

if TYPE_CHECKING:
    import torch
    from torch import nn

    from concept_cam.backbones import Backbone


def load(
    name: str,
    pretrained: str | None = None,
    device: str | torch.device = "cpu",
    *,
    classes: str | Iterable[str] | None = None,
) -> Backbone:
    """Load a model by name, in evaluation mode, frozen, on the device that you choose.

    Args:
        name: a dual encoder: an open_clip architecture and tag (``ViT-B-16/laion400m_e32``), ``hf-hub:org/model`` or
            ``local-dir:folder`` in open_clip's layout, the name (``google/siglip2-base-patch16-224``) or folder of a model of
            transformers. Or a classifier: the name of a model of timm (``resnet50.a1_in1k``). Where a name could mean two
            things, ``open_clip:``, ``transformers:`` or ``timm:`` before it says which.
        pretrained: an open_clip tag, which open_clip downloads on first use, or a file of weights.
        device: where it shall lie.
        classes: of a classifier, one for each row in order: names, or a file of them (``.txt`` or ``.yaml``); timm knows
            those of ImageNet.

    Raises:
        BackboneError: it cannot be found, downloaded or read, or it is of no family that is known.

    Warns:
        UserWarning: its closed form does not fit, or its default site is blind; see ``concept_cam.checks``.

    Example:
        >>> from concept_cam import load
        >>> from concept_cam.fieldguide import FOLDER
        >>> load(f"local-dir:{FOLDER}").preprocess.size
        (96, 96)
    """
    from concept_cam.checks import check_at_load

    library, name, pretrained = _resolve(name, pretrained)
    if classes is not None and library != "timm":
        raise BackboneError(f"{name} is a dual encoder: its concepts are texts; leave out classes.")
    if library == "open_clip":
        from concept_cam.backbones import openclip

        return check_at_load(openclip.load(name, pretrained, device))
    if library == "transformers":
        from concept_cam.backbones import huggingface

        return check_at_load(huggingface.load(name, device))
    from concept_cam.backbones import classifier

    return check_at_load(classifier.load(name, pretrained, device, None if classes is None else _names(classes)))


def wrap(
    model: nn.Module,
    tokenizer: Any = None,
    preprocess: Any = None,
    *,
    classes: str | Iterable[str] | None = None,
    name: str | None = None,
) -> Backbone:
    """Use a model that you hold. It is used as it is and left as it was.

    Args:
        model: a dual encoder of open_clip or transformers, or one with their methods; or, with ``classes``, any classifier
            that ends in a linear layer.
        tokenizer: that of a dual encoder; transformers' processor will do.
        preprocess: how its pictures are prepared: a ``Preprocess``, the transform that came with it, or transformers'
            processor of images; by default what the model itself says.
        classes: of a classifier, one for each row in order: names, or a file of them.
        name: how to call it in results; its class by default.

    Raises:
        BackboneError: it is of no family that is known.

    Warns:
        UserWarning: its closed form does not fit, or its default site is blind; see ``concept_cam.checks``.

    Example:
        >>> import open_clip
        >>> from concept_cam import wrap
        >>> model, tokenizer = open_clip.create_model("ViT-B-32", pretrained=None), open_clip.get_tokenizer("ViT-B-32")
        >>> wrap(model, tokenizer).sites[0].name
        'visual.transformer.resblocks.11.ln_1'
    """
    from concept_cam.checks import check_at_load

    name = name or type(model).__name__
    _check_instance(model, name)
    if classes is not None:
        from concept_cam.backbones.classifier import Classifier

        return check_at_load(Classifier(model, _names(classes), preprocess, name))
    of_transformers = hasattr(model, "get_image_features")
    if not of_transformers and not (hasattr(model, "encode_image") and hasattr(model, "visual")):
        raise BackboneError(
            f"{name} is no dual encoder that is known (it has neither encode_image nor get_image_features); "
            "if it is a classifier, name its classes; else write an adapter: docs/adapters.md."
        )
    if tokenizer is None:
        raise BackboneError(f"{name} is a dual encoder, which reads texts: wrap(model, tokenizer).")
    if of_transformers:
        from concept_cam.backbones.huggingface import HuggingFace

        return check_at_load(HuggingFace(model, tokenizer, preprocess, name))
    encode: Any = model.encode_image
    if "normalize" not in signature(encode).parameters:
        raise BackboneError(
            f"{name} is not of open_clip: encode_image takes no normalize; write an adapter: docs/adapters.md."
        )
    from concept_cam.backbones.openclip import OpenClip

    return check_at_load(OpenClip(model, tokenizer, name, preprocess))


def _check_instance(model: nn.Module, name: str) -> None:
    parameters = getattr(model, "parameters", None)
    if not callable(parameters):
        raise BackboneError(f"Expected a torch module, given a {name}; load(name) takes a model by its name.")
    if any(parameter.is_meta for parameter in parameters()):
        raise BackboneError(f"{name} has no weights yet (parameters on the device 'meta'); load them first.")
    if any(parameter.is_inference() for parameter in parameters()):
        raise BackboneError(f"{name} was built inside torch.inference_mode(), so it has no gradients; build it outside.")


def _names(classes: str | Iterable[str]) -> tuple[str, ...]:
    return read_vocabulary(classes).names if isinstance(classes, str) else tuple(classes)


def _resolve(name: str, pretrained: str | None) -> tuple[str, str, str | None]:
    """(library, name, pretrained)."""
    schema, _, rest = name.partition(":")
    if schema in ("open_clip", "transformers", "timm") and rest:
        library, name = schema, rest
    elif schema in ("hf-hub", "local-dir"):
        return "open_clip", name, pretrained
    elif Path(name).is_dir():
        library = _library_of_folder(Path(name))
        return library, f"local-dir:{name}" if library == "open_clip" else name, pretrained
    else:
        library = _library_of_name(name)
    if library == "open_clip" and "/" in name and pretrained is None:
        name, _, pretrained = name.partition("/")
    return library, name, pretrained


def _library_of_folder(folder: Path) -> str:
    if (folder / "open_clip_config.json").is_file():
        return "open_clip"
    with suppress(OSError, ValueError):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return "timm" if "architecture" in config else "transformers"
    raise BackboneError(
        f"{folder}: neither open_clip_config.json nor a config.json that can be read is in that folder; "
        "expected a checkpoint of open_clip, transformers or timm."
    )


def _library_of_name(name: str) -> str:
    from concept_cam.backbones import classifier, openclip

    if name.partition("/")[0] in openclip.names():
        return "open_clip"
    if name.partition(".")[0] in classifier.names():
        return "timm"
    if name.count("/") == 1:
        return "transformers"
    hint = did_you_mean(name, [*openclip.names(), *classifier.names()])
    raise BackboneError(
        f"No model {name!r} in open_clip or timm, and no such folder.{hint} `concept-cam models` lists what can be loaded."
    )
