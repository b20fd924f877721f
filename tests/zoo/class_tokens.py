"""Towers whose class token becomes the embedding, and what it does in every block, from hooks and weights alone.

Nothing here reads a block of the library: the user's own model runs, with hooks that hold tokens or move an output.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import classifiers, openclip_models
from zoo.families import ROWS, Row, _classifier, _openclip, _pre_logits

_LAST, _TIMM = "visual.transformer.resblocks.1.ln_1", "blocks.1.norm1"


def _timm(build: Callable[[], nn.Module]) -> Row:
    return _classifier("timm", "ViT, class token", build, (24, 40), _pre_logits, _TIMM)


TOWERS: Mapping[str, Row] = {
    **{name: row for name, row in ROWS.items() if row.family == "ViT, class token"},
    **{name: ROWS[name] for name in ("EVA-02", "MobileCLIP-B", "MobileCLIP2-L", "transformers CLIP", "AltCLIP")},
    **{name: ROWS[name] for name in ("Chinese-CLIP", "MetaCLIP 2") if name in ROWS},
    "open_clip ViT, layer scale": _openclip("ViT, class token", partial(openclip_models.vit, ls_init_value=0.3), _LAST),
    "open_clip ViT, no first norm, one head": _openclip(
        "ViT, class token", partial(openclip_models.vit, no_ln_pre=True, head_width=32), _LAST
    ),
    "timm ViT, no bias, layer scale": _timm(partial(classifiers.timm_vit, qkv_bias=False, init_values=0.3)),
    "timm ViT, a norm of the output": _timm(partial(classifiers.timm_vit, scale_attn_norm=True)),
    "timm DINOv3, class token": _timm(partial(classifiers.timm_dinov3, global_pool="token")),
}
"""Those of the table of families, and kinds of block that it lacks."""

FEW = ("open_clip ViT", "EVA-02", "transformers CLIP", "torchvision ViT", "timm DINOv3, class token")
"""One of each library, with and without: rotary positions, registers, a norm of the output, layer scale, unit length."""


@dataclass
class Seen:
    """What a run of the user's model has shown of one block.

    Attributes:
        block: the block itself.
        entered: all tokens before it, (B, M, D).
        normed: after its first norm.
        weights: of the attention of each head, where the library tells, (B, H, M, M).
        left: all tokens after it.
    """

    block: Any
    entered: Tensor = field(init=False)
    normed: Tensor = field(init=False)
    weights: Tensor = field(init=False)
    left: Tensor = field(init=False)

    @property
    def attention(self) -> Any:
        """The module that attends."""
        names = ("attn", "self_attn", "self_attention")
        return next(getattr(self.block, name) for name in names if hasattr(self.block, name))

    @property
    def norm(self) -> Any:
        """The first norm."""
        names = ("norm1", "ln_1", "layer_norm1")
        return next(getattr(self.block, name) for name in names if hasattr(self.block, name))

    @property
    def inner(self) -> nn.Module | None:
        """The norm of what the heads give, if there is one."""
        norm = getattr(self.attention, "norm", None)
        return None if isinstance(norm, nn.Identity) else norm

    @property
    def last(self) -> nn.Linear:
        """The output projection."""
        return self.attention.proj if hasattr(self.attention, "proj") else self.attention.out_proj

    @property
    def scale(self) -> Tensor | float:
        """By which the block multiplies what its attention adds."""
        gamma = getattr(self.block, "gamma_1", None)
        layer = getattr(self.block, "ls1", getattr(self.block, "ls_1", None))
        return gamma if gamma is not None else getattr(layer, "gamma", 1.0)

    def taken(self) -> Tensor:
        """a_hn v_hn of the class token from all tokens, (B, M, H, d)."""
        own, tokens = self.attention, self.normed
        by_head = (own.num_heads, -1)
        if isinstance(own, nn.MultiheadAttention):
            weights = own(tokens, tokens, tokens, need_weights=True, average_attn_weights=False)[1]
            width = tokens.shape[-1]
            value = F.linear(tokens, own.in_proj_weight[2 * width :], own.in_proj_bias[2 * width :])
        elif hasattr(own, "attn_drop"):
            weights = self.weights
            if own.qkv is None:
                value = own.v_proj(tokens)
            else:
                value = own.qkv(tokens).chunk(3, -1)[2]
                value = value if getattr(own, "v_bias", None) is None else value + own.v_bias
        else:
            query, key = (layer(tokens).unflatten(-1, by_head) for layer in (own.q_proj, own.k_proj))
            weights = torch.einsum("bmhd,bnhd->bhmn", query, key).div(query.shape[-1] ** 0.5).softmax(-1)
            value = own.v_proj(tokens)
        return weights[:, :, 0].transpose(1, 2)[..., None] * value.unflatten(-1, by_head)


def blocks_of(model: Any) -> list[nn.Module]:
    """The blocks of the vision tower, wherever its library keeps them."""
    ways = (
        *("visual.transformer.resblocks", "visual.trunk.blocks", "vision_model.encoder.layers"),
        *("blocks", "0.blocks", "encoder.layers"),
    )
    modules = dict(model.named_modules())
    return list(next(modules[way] for way in ways if way in modules).children())


def deeper(model: Any, count: int = 1) -> Any:
    """Put the first block at the end again: what moves patches shows only where two more blocks follow."""
    blocks = blocks_of(model)
    (holder,) = [one for one in model.modules() if list(one.children()) == blocks and len(blocks) > 1]
    for _ in range(count):
        holder.append(copy.deepcopy(blocks[0]))
    return model


@torch.no_grad()
def watch(row: Row, model: Any, pixels: Tensor) -> tuple[list[Seen], Tensor]:
    """One run of the user's model: what each block did, and the embedding as it is scored."""
    seen = [Seen(block) for block in blocks_of(model)]
    with ExitStack() as stack:

        def on(module: nn.Module, keep: Callable[[Any, Any], None]) -> None:
            handle = module.register_forward_hook(lambda _, inputs, output: keep(inputs, output))
            stack.callback(handle.remove)

        for one in seen:
            on(one.norm, lambda inputs, output, one=one: vars(one).update(entered=inputs[0].clone(), normed=output.clone()))
            on(one.block, lambda _, output, one=one: vars(one).update(left=_first(output).clone()))
            if hasattr(one.attention, "attn_drop"):
                stack.callback(setattr, one.attention, "fused_attn", one.attention.fused_attn)
                one.attention.fused_attn = False
                on(one.attention.attn_drop, lambda _, output, one=one: vars(one).update(weights=output.clone()))
        embedding = row.own(model, pixels)
    return seen, scored(row, embedding)


def scored(row: Row, embedding: Tensor) -> Tensor:
    """Of unit length in dual encoders; classifiers multiply it by their rows as it is."""
    return F.normalize(embedding, dim=-1) if row.through in ("open_clip", "transformers") else embedding


def stream_maps(
    row: Row, model: Any, pixels: Tensor, directions: Tensor, count: int, depth: int | None = None, *, hold: bool = True
) -> Tensor:
    """dS/dt_n at 0, (K, B, N), when t_n a_hn v_hn is added to what the heads of every block give the class token.

    Args:
        row: of the table.
        model: the user's.
        pixels: its input.
        directions: (K, 1, E).
        count: of patches, which come last.
        depth: of how many of the last blocks.
        hold: put in place of all other tokens, before every block, what they are without any change.
    """
    seen, _ = watch(row, model, pixels)
    seen = seen[-(depth or len(seen)) :]
    taken = [one.taken()[:, -count:].flatten(2) for one in seen]
    moved = torch.zeros(taken[0].shape[:2], dtype=pixels.dtype, requires_grad=True)
    with ExitStack() as stack:
        for one, given in zip(seen, taken, strict=True):
            added = torch.einsum("bn,bnw->bw", moved, given)

            def kept(module: Any, inputs: tuple[Any, ...], one: Seen = one) -> tuple[Any, ...]:
                return torch.cat([inputs[0][:, :1], one.entered[:, 1:]], 1), *inputs[1:]

            if hold:
                stack.callback(one.block.register_forward_pre_hook(kept).remove)
            stack.callback(_adding(one, added).remove)
        score = (scored(row, row.own(model, pixels)) * directions).sum((1, 2))
        return torch.stack([torch.autograd.grad(one, moved, retain_graph=True)[0] for one in score])


def ending(model: Any) -> tuple[Any, Tensor | None, Tensor | None]:
    """The last norm, and matrix and bias of what comes after it, if anything does."""
    if hasattr(model, "vision_model"):
        return model.vision_model.post_layernorm, model.visual_projection.weight, None
    if hasattr(model, "encoder"):
        return model.encoder.ln, None, None
    if not hasattr(model, "visual"):
        return (model if hasattr(model, "norm") else model[0]).norm, None, None
    if hasattr(model.visual, "trunk"):
        return model.visual.trunk.norm, model.visual.trunk.head.weight, model.visual.trunk.head.bias
    return model.visual.ln_post, model.visual.proj.T, None


def held(norm: Any, x: Tensor, vectors: Tensor) -> Tensor:
    """What a layer norm makes of vectors (..., D) without its bias, with mean and variance taken from x (..., D)."""
    centred = vectors - vectors.mean(-1, keepdim=True)
    return centred / (x.var(-1, correction=0, keepdim=True) + norm.eps).sqrt() * norm.weight


@torch.no_grad()
def summands(
    row: Row, model: Any, pixels: Tensor, directions: Tensor, depth: int | None = None
) -> tuple[dict[str, Tensor], Tensor]:
    """Of the last class state, all that was added to it, each behind the last norm held fixed; and the scores.

    ``tokens`` are (L, K, B, M, H), ``mlps`` and ``biases`` (L, K, B), ``entered`` and ``constant`` (K, B).

    Args:
        row: of the table.
        model: the user's.
        pixels: its input.
        directions: (K, 1, E).
        depth: of how many of the last blocks.
    """
    seen, embedding = watch(row, model, pixels)
    seen = seen[-(depth or len(seen)) :]
    norm, matrix, bias = ending(model)
    last = seen[-1].left[:, 0]
    matrix = torch.eye(last.shape[-1], dtype=last.dtype) if matrix is None else matrix
    raw = row.own(model, pixels)
    length = raw.norm(dim=-1) if row.through in ("open_clip", "transformers") else torch.ones_like(raw[:, 0])

    def told(vectors: Tensor) -> Tensor:
        """Scores (K, B, ...) of vectors (B, ..., D)."""
        shape = (len(last), *[1] * (vectors.ndim - 2), -1)
        image = held(norm, last.view(shape), vectors) @ matrix.T / length.view(shape)
        return torch.einsum("b...e,ke->kb...", image, directions[:, 0])

    tokens, mlps, biases = [], [], []
    for one in seen:
        taken = one.taken()
        heads, size = taken.shape[2:]
        apart = torch.einsum("bmhd,hg->bmhgd", taken, torch.eye(heads, dtype=taken.dtype)).flatten(-2)
        output, still = taken.sum(1).flatten(-2), torch.zeros(heads * size, dtype=taken.dtype)
        if one.inner is not None:
            apart, still = held(one.inner, output[:, None, None], apart), one.inner.bias
        added = apart @ one.last.weight.T * one.scale
        constant = (still @ one.last.weight.T + one.last.bias) * one.scale
        tokens.append(told(added))
        biases.append(told(constant.expand(len(last), -1)))
        mlps.append(told(one.left[:, 0] - one.entered[:, 0] - added.sum((1, 2)) - constant))
    constant = norm.bias @ matrix.T + (0 if bias is None else bias)
    parts = {"tokens": torch.stack(tokens), "mlps": torch.stack(mlps), "biases": torch.stack(biases)}
    parts |= {"entered": told(seen[0].entered[:, 0]), "constant": directions[:, 0] @ constant[:, None] / length}
    return parts, torch.einsum("be,ke->kb", embedding, directions[:, 0])


def _adding(seen: Seen, added: Tensor) -> Any:
    """Add to what the heads give the class token: before the output projection, or behind it by its matrix."""
    if isinstance(seen.attention, nn.MultiheadAttention):

        def behind(module: Any, inputs: Any, output: tuple[Tensor, Any]) -> tuple[Tensor, Any]:
            return _on_first_row(output[0], added @ seen.last.weight.T), output[1]

        return seen.attention.register_forward_hook(behind)
    before = seen.last if seen.inner is None else seen.inner
    return before.register_forward_pre_hook(lambda _, inputs: (_on_first_row(inputs[0], added), *inputs[1:]))


def _on_first_row(tokens: Tensor, added: Tensor) -> Tensor:
    return torch.cat([tokens[:, :1] + added[:, None], tokens[:, 1:]], 1)


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output
