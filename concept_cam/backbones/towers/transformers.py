"""transformers' vision towers: CLIP and models built like it, SigLIP, SigLIP 2, and any other that keeps a grid."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from concept_cam.backbones.block import Block, Projections, is_of
from concept_cam.backbones.pooling import ClassToken, LatentPooling
from concept_cam.backbones.site import Site, TokenLayout
from concept_cam.backbones.tower import Tower
from concept_cam.backbones.towers import generic

_CLASS_TOKEN = {"clip": "CLIP", "metaclip_2": "MetaCLIP 2", "altclip": "AltCLIP", "chinese_clip": "Chinese-CLIP"}
_ATTENTION_POOLING = {"siglip": "SigLIP", "siglip2": "SigLIP 2, NaFlex"}


def describe(model: nn.Module, embed: Callable[[Tensor], Tensor], pixels: Float[Tensor, "1 3 height width"]) -> Tower | None:
    """The tower of a dual encoder; None if it has no known pooling or grid.

    Args:
        model: a dual encoder; without a ``vision_model``, the whole model is examined.
        embed: runs the model and returns its embedding.
        pixels: a test image.
    """
    own: Any = model
    kind = own.config.model_type
    if kind not in _CLASS_TOKEN and kind not in _ATTENTION_POOLING:
        prefix, tower = ("vision_model.", own.vision_model) if hasattr(own, "vision_model") else ("", own)
        stages = [name for name, _ in tower.named_modules() if re.fullmatch(r"encoder\.(blocks|layers|stages)\.\d+", name)]
        found = generic.describe(tower, prefix, embed, pixels, stages=stages)
        return found and replace(found, family="ALIGN" if kind == "align" else f"transformers {kind}")
    vision = own.vision_model
    step = vision.config.patch_size
    prefix_tokens = int(kind in _CLASS_TOKEN)
    layout = TokenLayout(prefix_tokens, pixels.shape[2] // step, pixels.shape[3] // step)
    layers = list(vision.encoder.layers)
    norms = tuple(
        Site(f"vision_model.encoder.layers.{i}.layer_norm1", layer.layer_norm1, layout) for i, layer in enumerate(layers)
    )[::-1]
    regular = is_of("transformers", vision, vision.encoder, *layers)
    blocks = tuple(_block(layer) for layer in layers)
    if kind in _CLASS_TOKEN:

        def project(x: Tensor) -> Tensor:
            embedding: Tensor = own.visual_projection(x)
            return embedding

        def matrix() -> Tensor | None:
            last: Any = own.visual_projection
            return last.weight if type(last) is nn.Linear and last.bias is None else None

        family = f"transformers {_CLASS_TOKEN[kind]}"
        return Tower(family, norms, step, blocks, ClassToken(vision.post_layernorm, project, matrix), regular=regular)
    if not hasattr(vision, "head"):
        return None
    pooled = Site("vision_model.post_layernorm", vision.post_layernorm, layout)
    family = f"transformers {_ATTENTION_POOLING[kind]}"
    return Tower(family, (pooled, *norms), step, blocks, _latent_pooling(vision.head, pooled), regular=regular)


def _block(block: Any) -> Block | None:
    """The block in the form of the formulas; None if it is built otherwise."""
    attention = block.self_attn
    if not is_of("transformers", block, attention):
        return None
    return Block(
        module=block,
        norm=block.layer_norm1,
        second_norm=block.layer_norm2,
        projections=lambda: Projections.of_linears(attention.q_proj, attention.k_proj, attention.v_proj, attention.num_heads),
        outward=attention.out_proj,
        mlp=lambda x: x + block.mlp(block.layer_norm2(x)),
        layers=lambda: (attention.out_proj, block.layer_norm2, block.mlp.fc1, block.mlp.activation_fn, block.mlp.fc2),
    )


def _latent_pooling(pool: Any, site: Site) -> LatentPooling:
    def rest(output: Tensor) -> Tensor:
        x = pool.attention.out_proj(output)
        embedding: Tensor = x + pool.mlp(pool.layernorm(x))
        return embedding

    return LatentPooling(site, lambda: Projections.of(pool.attention), lambda: pool.probe[0, 0], rest)
