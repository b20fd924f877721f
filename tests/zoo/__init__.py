"""Tiny models with random weights, one row for each architecture: the table that the cross-cutting tests iterate over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import open_clip
import torch
from open_clip.model import convert_weights_to_lp
from open_clip.transformer import LayerNorm, LayerNormFp32
from torch import nn

from concept_cam import wrap
from concept_cam.backbones import Backbone
from concept_cam.world.checkpoint import FOLDER

TOKENIZER = open_clip.get_tokenizer(f"local-dir:{FOLDER}")

WORDS = ("red crown", "blue crown", "green wing", "yellow beak", "bird")


def tiny_clip(seed: int = 0, quick_gelu: bool = False, text: Mapping[str, Any] | None = None, **vision: Any) -> nn.Module:
    """A CLIP of open_clip's own classes: two blocks, width 32, a grid of 3 x 5 unless told otherwise."""
    vision_cfg = {"image_size": (24, 40), "patch_size": 8, "layers": 2, "width": 32, "head_width": 8, **vision}
    text_cfg = {"context_length": 40, "vocab_size": 200, "width": 32, "heads": 4, "layers": 1, **(text or {})}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = open_clip.CLIP(embed_dim=24, vision_cfg=vision_cfg, text_cfg=text_cfg, quick_gelu=quick_gelu)
        # Biases, norms and class tokens start at zero or one, or nearly: a formula that forgets one of them would pass.
        for parameter in model.parameters():
            if parameter.ndim < 2:
                parameter.data += 0.2 * torch.randn_like(parameter)
        model.positional_embedding.data *= 20
    return model.double().eval()


def half(precision: torch.dtype) -> nn.Module:
    """open_clip's own half precision: matrices in half, norms and positions in single."""
    model = tiny_clip().float()
    convert_weights_to_lp(model, precision)
    for module in model.modules():
        if type(module) is LayerNorm:
            # As the factory builds it for half precision: a norm that computes in single.
            module.__class__ = LayerNormFp32
    return model


CASES: Mapping[str, Callable[[], nn.Module]] = {
    "class token": tiny_clip,
    "class token, quick gelu": lambda: tiny_clip(quick_gelu=True),
    "class token, layer scale": lambda: tiny_clip(ls_init_value=0.3),
    "class token, no first norm": lambda: tiny_clip(no_ln_pre=True),
    "class token, norm after pooling": lambda: tiny_clip(final_ln_after_pool=True),
    "class token, one head": lambda: tiny_clip(head_width=32),
    "class token, square": lambda: tiny_clip(image_size=32),
    "class token, scaled attention": lambda: tiny_clip(scale_heads=True),
    "average": lambda: tiny_clip(pool_type="avg"),
    "average, norm after pooling": lambda: tiny_clip(pool_type="avg", final_ln_after_pool=True),
}


def backbone(case: str) -> Backbone:
    """The model of a row, wrapped."""
    return wrap(CASES[case](), TOKENIZER, name=case)


def pixels(backbone: Backbone, count: int = 3, seed: int = 1) -> torch.Tensor:
    """Random input for a model, in its precision."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, *backbone.preprocess.size, generator=generator, dtype=torch.float64).to(backbone.dtype)


def directions(backbone: Backbone, count: int = 4, seed: int = 2) -> torch.Tensor:
    """Random directions, one for each of ``count`` concepts and all images."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, 24, generator=generator, dtype=torch.float64).to(backbone.dtype)
