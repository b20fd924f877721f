"""transformers' dual encoders, tiny. Their classes build square models only; another aspect comes by interpolation."""

from __future__ import annotations

from typing import Any

import transformers
from torch import nn
from transformers import PreTrainedTokenizerFast

from concept_cam.world.checkpoint import FOLDER
from zoo.shake import shaken

_WIDTH = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_IDS = {"vocab_size": 200, "pad_token_id": 0}
_ENDS = {**_IDS, "bos_token_id": 110, "eos_token_id": 111}
_VISION = {"image_size": 32, "patch_size": 8, **_WIDTH}


def tokenizer() -> PreTrainedTokenizerFast:
    """The embedded world's words, as transformers holds them."""
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<start>", "eos_token": "<end>"}
    return PreTrainedTokenizerFast(tokenizer_file=str(FOLDER / "tokenizer.json"), model_max_length=40, **special)


def _build(kind: str, text: dict[str, Any], vision: dict[str, Any] | None = None, **common: Any) -> nn.Module:
    text = {"max_position_embeddings": 40, **_WIDTH, **text}
    config = getattr(transformers, f"{kind}Config")(text_config=text, vision_config=vision or dict(_VISION), **common)
    return shaken(lambda: getattr(transformers, f"{kind}Model")(config))


def clip() -> nn.Module:
    """CLIP."""
    return _build("CLIP", _ENDS, projection_dim=24)


def metaclip2() -> nn.Module:
    """MetaCLIP 2, from version 4.56."""
    return _build("MetaClip2", _ENDS, projection_dim=24)


def siglip() -> nn.Module:
    """SigLIP, and SigLIP 2 at a fixed size: without a projection."""
    return _build("Siglip", {**_ENDS, "projection_size": 32})


def siglip2() -> nn.Module:
    """SigLIP 2's NaFlex: any number of patches up to 16."""
    return _build("Siglip2", {**_ENDS, "projection_size": 32}, {"num_patches": 16, "patch_size": 8, **_WIDTH})


def altclip() -> nn.Module:
    """AltCLIP, whose text tower is a RoBERTa."""
    text = {**_ENDS, "max_position_embeddings": 42, "project_dim": 28, "type_vocab_size": 1}
    return _build("AltCLIP", text, projection_dim=24)


def chinese_clip() -> nn.Module:
    """Chinese-CLIP, whose text tower is a BERT."""
    return _build("ChineseCLIP", _IDS, projection_dim=24)


def align() -> nn.Module:
    """ALIGN: an EfficientNet, averaged."""
    vision = {
        "image_size": 64,
        "width_coefficient": 1.0,
        "depth_coefficient": 1.0,
        "kernel_sizes": [3, 3, 5],
        "in_channels": [32, 16, 16],
        "out_channels": [16, 16, 24],
        "strides": [1, 2, 2],
        "num_block_repeats": [1, 1, 2],
        "expand_ratios": [1, 2, 2],
        "hidden_dim": 64,
    }
    return _build("Align", _IDS, vision, projection_dim=24)


def clipseg() -> nn.Module:
    """A dual encoder that no adapter names: found as any module is."""
    return _build("CLIPSeg", _ENDS, projection_dim=24)
