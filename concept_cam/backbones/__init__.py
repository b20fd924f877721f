"""The only code that knows a model library: ``load`` by name, ``wrap`` for an instance of the user's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from concept_cam.backbones.backbone import Backbone, Site, TokenLayout

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Backbone", "Site", "TokenLayout", "load", "wrap"]


def load(name: str, pretrained: str | None = None, device: str | torch.device = "cpu") -> Backbone:
    """Load a model by name, in evaluation mode, frozen, on the device that you choose.

    Args:
        name: an open_clip architecture (with ``pretrained``), ``hf-hub:org/model``, or ``local-dir:folder``.
        pretrained: an open_clip tag, which open_clip downloads on first use, or a file of weights.
        device: where it shall lie.

    Raises:
        BackboneError: it cannot be found, downloaded or read, or it is of no family that is supported.

    Example:
        >>> from concept_cam import load
        >>> from concept_cam.fieldguide import FOLDER
        >>> load(f"local-dir:{FOLDER}").preprocess.size
        (96, 96)
    """
    from concept_cam.backbones import openclip

    return openclip.load(name, pretrained, device)


def wrap(model: nn.Module, tokenizer: Any, name: str | None = None) -> Backbone:
    """Use a model that you hold. It is used as it is and left as it was.

    Args:
        model: an open_clip model.
        tokenizer: its tokenizer, as ``open_clip.get_tokenizer`` gives it.
        name: how to call it in results; its class by default.

    Raises:
        BackboneError: it is of no family that is supported.

    Example:
        >>> import open_clip
        >>> from concept_cam import wrap
        >>> model, tokenizer = open_clip.create_model("ViT-B-32", pretrained=None), open_clip.get_tokenizer("ViT-B-32")
        >>> wrap(model, tokenizer).sites[0].name
        'visual.transformer.resblocks.11.ln_1'
    """
    from concept_cam.backbones.openclip import OpenClip

    return OpenClip(model, tokenizer, name or type(model).__name__)
