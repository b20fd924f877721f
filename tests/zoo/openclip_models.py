"""open_clip's models, tiny: its own towers, and timm's trunks by their own recipes with smaller numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import open_clip
import timm
from timm.models import convnext, eva, fastvit, vision_transformer, vision_transformer_hybrid as hybrid, vitamin
from torch import nn

from zoo.shake import shaken

TEXT = {"context_length": 40, "vocab_size": 200, "width": 32, "heads": 4, "layers": 1}
VIT = {"img_size": (24, 40), "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}


def vit(**vision: Any) -> nn.Module:
    """open_clip's VisionTransformer, a grid of 3 x 5; square models 4 x 4."""
    cfg = {"image_size": (24, 40), "patch_size": 8, "layers": 2, "width": 32, "head_width": 8, **vision}
    return shaken(lambda: open_clip.CLIP(24, cfg, TEXT, quick_gelu=cfg.pop("quick_gelu", False)))


def coca() -> nn.Module:
    """With five latents, of which the first makes the embedding."""
    cfg = {"image_size": (24, 40), "patch_size": 8, "layers": 2, "width": 32, "head_width": 8, "output_tokens": True}
    pool = {"attentional_pool": True, "attn_pooler_queries": 5, "attn_pooler_heads": 4}
    text = {**TEXT, "embed_cls": True, "output_tokens": True}
    decoder = {"context_length": 40, "vocab_size": 200, "width": 32, "heads": 4, "layers": 1}
    return shaken(lambda: open_clip.CoCa(24, decoder, text, {**cfg, **pool}))


def resnet() -> nn.Module:
    """CLIP's own, a grid of 2 x 2: it can be built square only."""
    return shaken(lambda: open_clip.CLIP(24, {"image_size": 64, "layers": (1, 1, 1, 1), "width": 4, "head_width": 32}, TEXT))


def on_trunk(name: str, recipe: Callable[..., nn.Module], size: tuple[int, int], **vision: Any) -> Callable[[], nn.Module]:
    """A dual encoder on a trunk of timm: a recipe of timm under a new name, which open_clip then builds."""
    smaller = vision.pop("smaller")

    def tiny(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return recipe(pretrained=pretrained, **{**smaller, **kwargs})

    tiny.__name__ = tiny.__qualname__ = f"concept_cam_tiny_{name}"
    tiny.__module__ = __name__
    if not timm.is_model(tiny.__name__):
        timm.models.register_model(tiny)
    cfg = {"timm_model_name": tiny.__name__, "image_size": size, **vision}
    # Without a projection the trunk's own width is the embedding's.
    width = 32 if vision["timm_proj"] == "none" else 24
    return lambda: shaken(lambda: open_clip.CustomTextCLIP(width, dict(cfg), TEXT))


def _mobileclip_b(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """timm's recipe fixes the width of its stem, so it is said again here."""
    stem = hybrid.ConvStem(channels=(8, 8, 32), stride=(4, 2, 2), kernel_size=(4, 2, 2), padding=0, act_layer=nn.GELU)
    own = {"backbone": stem, "embed_args": {"proj": False}, "no_embed_class": True}
    return hybrid._create_vision_transformer_hybrid("vit_base_mci_224", pretrained=pretrained, **{**own, **kwargs})


_STEM = vitamin.VitCfg(
    embed_dim=(8, 16, 32),
    depths=(1, 1, 1),
    stem_width=8,
    conv_cfg=vitamin.VitConvCfg(norm_layer="layernorm2d", norm_eps=1e-6),
    head_type="1d",
)
_SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 4, "img_size": (32, 48)}

TRUNKS: dict[str, Callable[[], nn.Module]] = {
    "siglip": on_trunk(
        "siglip", vision_transformer.vit_base_patch16_siglip_224, (24, 40), smaller=VIT, timm_pool="map", timm_proj="none"
    ),
    "eva02": on_trunk("eva02", eva.eva02_base_patch16_clip_224, (24, 40), smaller=VIT, timm_pool="token", timm_proj=None),
    "eva02 e": on_trunk(
        "eva02_e", eva.eva02_enormous_patch14_clip_224, (24, 40), smaller=VIT, timm_pool="token", timm_proj=None
    ),
    "pe core": on_trunk("pe_core", eva.vit_pe_core_base_patch16_224, (24, 40), smaller=VIT, timm_pool="map", timm_proj=None),
    "mobileclip b": on_trunk("mci_b", _mobileclip_b, (32, 48), smaller=_SMALL, timm_pool="token", timm_proj=None),
    "mobileclip s": on_trunk(
        "mci0",
        fastvit.fastvit_mci0,
        (64, 96),
        smaller={"layers": (1, 1, 1, 1), "embed_dims": (4, 8, 16, 32)},
        timm_pool="avg",
        timm_proj=None,
    ),
    "mobileclip2 l": on_trunk(
        "clip_l", vision_transformer.vit_large_patch14_clip_224, (24, 40), smaller=VIT, timm_pool="token", timm_proj=None
    ),
    "vitamin": on_trunk(
        "vitamin",
        vitamin.vitamin_small_224,
        (32, 48),
        smaller={**_SMALL, "embed_cfg": _STEM},
        timm_pool="",
        timm_proj="linear",
    ),
    "convnext": on_trunk(
        "convnext",
        convnext.convnext_tiny,
        (64, 96),
        smaller={"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)},
        timm_pool="",
        timm_proj="mlp",
    ),
}
