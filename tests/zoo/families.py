"""The table of families: one row for each line of ``concept-cam models``, and for what hides behind a line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn

import zoo
from concept_cam import wrap
from concept_cam.backbones import Backbone
from concept_cam.images import Preprocess
from zoo import classifiers, openclip_models, transformers_models

Own = Callable[[Any, Tensor], Tensor]


@dataclass(frozen=True)
class Row:
    """A model and what is known of it beforehand.

    Attributes:
        through, family: its line in ``concept_cam.families``.
        build: makes the bare model.
        wrapped: wraps it.
        own: the library's own embedding of pixels.
        factored: names of the sites that have a closed form.
    """

    through: str
    family: str
    build: Callable[[], nn.Module]
    wrapped: Callable[[nn.Module], Backbone]
    own: Own
    factored: tuple[str, ...] = ()

    def backbone(self) -> Backbone:
        """The model, wrapped."""
        return self.wrapped(self.build())


def _openclip(family: str, build: Callable[[], nn.Module], *factored: str) -> Row:
    return Row(
        "open_clip", family, build, lambda m: wrap(m, zoo.TOKENIZER), lambda m, x: m.encode_image(x, normalize=False), factored
    )


def _features(model: Any, pixels: Tensor) -> Tensor:
    other = model.config.model_type != "align" and (model.config.vision_config.image_size,) * 2 != tuple(pixels.shape[2:])
    options = {"interpolate_pos_encoding": True} if other else {}
    out = model.get_image_features(pixel_values=pixels, **options)
    return out if isinstance(out, Tensor) else out.pooler_output


def _naflex(model: Any, pixels: Tensor) -> Tensor:
    rows, cols = (side // 8 for side in pixels.shape[2:])
    patches = pixels.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 4, 5, 1).reshape(len(pixels), rows * cols, 192)
    shapes = torch.tensor([[rows, cols]] * len(pixels))
    out = model.get_image_features(patches, torch.ones(len(pixels), rows * cols, dtype=torch.int32), shapes)
    return out if isinstance(out, Tensor) else out.pooler_output


def _transformers(family: str, build: Callable[[], nn.Module], *factored: str, own: Own = _features) -> Row:
    return Row("transformers", family, build, lambda m: wrap(m, transformers_models.tokenizer()), own, factored)


def _classifier(
    through: str, family: str, build: Callable[[], nn.Module], size: tuple[int, int], own: Own, *factored: str
) -> Row:
    preprocess = Preprocess(size, (0.5,) * 3, (0.5,) * 3)
    return Row(through, family, build, lambda m: wrap(m, None, preprocess, classes=classifiers.CLASSES), own, factored)


def _pre_logits(model: Any, pixels: Tensor) -> Tensor:
    out: Tensor = model.forward_head(model.forward_features(pixels), pre_logits=True)
    return out


def _torchvision_resnet(model: Any, pixels: Tensor) -> Tensor:
    x = model.maxpool(model.relu(model.bn1(model.conv1(pixels))))
    for layer in (model.layer1, model.layer2, model.layer3, model.layer4):
        x = layer(x)
    out: Tensor = model.avgpool(x).flatten(1)
    return out


def _torchvision_vit(model: Any, pixels: Tensor) -> Tensor:
    tokens = model._process_input(pixels)
    out: Tensor = model.encoder(torch.cat([model.class_token.expand(len(tokens), -1, -1), tokens], 1))[:, 0]
    return out


def _own(model: Any, pixels: Tensor) -> Tensor:
    cells = model.body(model.stem(pixels))
    out: Tensor = model.hidden(cells.square().sum((2, 3)).add(1).log()).tanh()
    return out


_LAST = "visual.transformer.resblocks.1.ln_1"
_TRUNK = "visual.trunk.blocks.1.norm1"
_HF = "vision_model.encoder.layers.1.layer_norm1"
_POOLED = "vision_model.post_layernorm"
_T, _C, _P = openclip_models.TRUNKS, classifiers, transformers_models

ROWS: Mapping[str, Row] = {
    "open_clip ViT": _openclip("ViT, class token", openclip_models.vit, _LAST),
    "open_clip ViT, quick GELU": _openclip("ViT, class token", lambda: openclip_models.vit(quick_gelu=True), _LAST),
    "open_clip ViT, average": _openclip("ViT, average", lambda: openclip_models.vit(pool_type="avg"), "visual.ln_post"),
    "open_clip ResNet": _openclip("ResNet, attention pooling", openclip_models.resnet, "visual.layer4"),
    "CoCa": _openclip("CoCa", openclip_models.coca, "visual.attn_pool.ln_k"),
    "SigLIP": _openclip("SigLIP, SigLIP 2", _T["siglip"], "visual.trunk.norm"),
    "EVA-02": _openclip("EVA-02", _T["eva02"], _TRUNK),
    "EVA-02 E": _openclip("EVA-02 E", _T["eva02 e"]),
    "PE-Core": _openclip("PE-Core", _T["pe core"], "visual.trunk.norm"),
    "MobileCLIP-B": _openclip("MobileCLIP-B, MobileCLIP2-L", _T["mobileclip b"], _TRUNK),
    "MobileCLIP2-L": _openclip("MobileCLIP-B, MobileCLIP2-L", _T["mobileclip2 l"], _TRUNK),
    "MobileCLIP S": _openclip("MobileCLIP S", _T["mobileclip s"], "visual.trunk.final_conv"),
    "ViTamin": _openclip("ViTamin", _T["vitamin"], "visual.trunk.norm"),
    "ConvNeXt": _openclip("ConvNeXt", _T["convnext"], "visual.trunk.stages.3"),
    "transformers CLIP": _transformers("CLIP", _P.clip, _HF),
    "transformers SigLIP": _transformers("SigLIP, SigLIP 2", _P.siglip, _POOLED),
    "transformers SigLIP 2 NaFlex": _transformers("SigLIP 2, NaFlex", _P.siglip2, _POOLED, own=_naflex),
    "AltCLIP": _transformers("AltCLIP", _P.altclip, _HF),
    "Chinese-CLIP": _transformers("Chinese-CLIP", _P.chinese_clip, _HF),
    "ALIGN": _transformers("ALIGN", _P.align, "vision_model.encoder.blocks.3"),
    "CLIPSeg": _transformers("any dual encoder", _P.clipseg),
    "timm ViT": _classifier("timm", "ViT, class token", _C.timm_vit, (24, 40), _pre_logits, "blocks.1.norm1"),
    "timm ViT, average": _classifier(
        "timm", "ViT, average", lambda: _C.timm_vit(global_pool="avg"), (24, 40), _pre_logits, "norm"
    ),
    "timm DINOv3": _classifier("timm", "ViT, average", _C.timm_dinov3, (24, 40), _pre_logits, "norm"),
    "DINOv2 and a probe": _classifier(
        "timm", "ViT, class token", _C.linear_probe, (24, 40), lambda m, x: m[0](x), "0.blocks.1.norm1"
    ),
    "DINOv2 with registers and a probe": _classifier(
        "timm", "ViT, class token", lambda: _C.linear_probe(True), (24, 40), lambda m, x: m[0](x), "0.blocks.1.norm1"
    ),
    "timm ResNet": _classifier("timm", "CNN", _C.timm_resnet, (64, 96), _pre_logits, "layer4"),
    "timm ConvNeXt": _classifier("timm", "CNN", _C.timm_convnext, (64, 96), _pre_logits, "stages.3"),
    "timm Swin": _classifier("your own", "any classifier", _C.timm_swin, (32, 48), _pre_logits),
    "torchvision ResNet": _classifier("torchvision", "CNN", _C.torchvision_resnet, (64, 96), _torchvision_resnet, "layer4"),
    "torchvision ViT": _classifier(
        "torchvision",
        "ViT, class token",
        _C.torchvision_vit,
        (32, 32),
        _torchvision_vit,
        "encoder.layers.encoder_layer_1.ln_1",
    ),
    "a user's own": _classifier("your own", "any classifier", _C.own, (48, 80), _own),
}
if hasattr(transformers, "MetaClip2Model"):
    ROWS = {**ROWS, "MetaCLIP 2": _transformers("MetaCLIP 2", _P.metaclip2, _HF)}

FEW = (
    *("open_clip ViT", "open_clip ResNet", "SigLIP", "EVA-02", "transformers CLIP", "transformers SigLIP 2 NaFlex"),
    *("timm ViT, average", "torchvision ViT", "a user's own"),
)
"""One of each kind of tower, pooling and library: what the tests run by default."""
