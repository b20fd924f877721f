"""transformers' vision towers: CLIP and what is built like it, SigLIP and SigLIP 2, and any other that keeps a grid."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from concept_cam.backbones.backbone import Site, TokenLayout, Tower
from concept_cam.backbones.heads import ClassAttention, Head, LatentAttention, Projections
from concept_cam.backbones.towers import anything

_CLASS_TOKEN = {"clip": "CLIP", "metaclip_2": "MetaCLIP 2", "altclip": "AltCLIP", "chinese_clip": "Chinese-CLIP"}
_ATTENTION_POOLING = {"siglip": "SigLIP", "siglip2": "SigLIP 2, NaFlex"}


def describe(model: nn.Module, embed: Callable[[Tensor], Tensor], pixels: Float[Tensor, "1 3 height width"]) -> Tower | None:
    """What the vision tower of a dual encoder offers.

    Args:
        model: with a ``vision_model``; any other is looked at as a whole.
        embed: runs the model and gives its embedding.
        pixels: a picture to try it with.
    """
    own: Any = model
    kind = own.config.model_type
    if kind not in _CLASS_TOKEN and kind not in _ATTENTION_POOLING:
        prefix, tower = ("vision_model.", own.vision_model) if hasattr(own, "vision_model") else ("", own)
        stages = [name for name, _ in tower.named_modules() if re.fullmatch(r"encoder\.(blocks|layers|stages)\.\d+", name)]
        found = anything.describe(tower, prefix, embed, pixels, stages=stages)
        return found and Tower("ALIGN" if kind == "align" else f"transformers {kind}", found.sites, found.stride)
    vision = own.vision_model
    step = vision.config.patch_size
    prefix_tokens = int(kind in _CLASS_TOKEN)
    layout = TokenLayout(prefix_tokens, pixels.shape[2] // step, pixels.shape[3] // step)
    norms = [
        Site(f"vision_model.encoder.layers.{i}.layer_norm1", layer.layer_norm1, layout)
        for i, layer in enumerate(vision.encoder.layers)
    ][::-1]
    if kind in _CLASS_TOKEN:
        default = Site(norms[0].name, norms[0].module, layout, _class_attention(own, vision))
        return Tower(f"transformers {_CLASS_TOKEN[kind]}", (default, *norms[1:]), step)
    if not hasattr(vision, "head"):
        return None
    pooled = Site("vision_model.post_layernorm", vision.post_layernorm, layout, _latent_attention(vision.head))
    return Tower(f"transformers {_ATTENTION_POOLING[kind]}", (pooled, *norms), step)


def _class_attention(model: Any, vision: Any) -> Head:
    block = vision.encoder.layers[-1]
    attention = block.self_attn

    def projections() -> Projections:
        return Projections.of_linears(attention.q_proj, attention.k_proj, attention.v_proj, attention.num_heads)

    def rest(output: Tensor, residual: Tensor) -> Tensor:
        x = residual + attention.out_proj(output)
        x = x + block.mlp(block.layer_norm2(x))
        embedding: Tensor = model.visual_projection(vision.post_layernorm(x))
        return embedding

    return ClassAttention(projections, rest)


def _latent_attention(pool: Any) -> Head:
    def rest(output: Tensor) -> Tensor:
        x = pool.attention.out_proj(output)
        embedding: Tensor = x + pool.mlp(pool.layernorm(x))
        return embedding

    return LatentAttention(lambda: Projections.of(pool.attention), lambda: pool.probe[0, 0], rest)
