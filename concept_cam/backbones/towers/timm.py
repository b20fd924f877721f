"""timm's trunks: under open_clip's SigLIP, EVA-02, PE-Core, MobileCLIP, ViTamin and ConvNeXt, and as classifiers."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import floor
from typing import Any

import timm
import torch
from jaxtyping import Float
from timm.data import ImageNetInfo, infer_imagenet_subset
from timm.layers import AttentionRope, HybridEmbed, apply_rot_embed_cat
from timm.layers.attention_pool import AttentionPoolLatent
from timm.models.eva import Eva, EvaAttention, EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import Attention, Block as TimmBlock, ResPostBlock, VisionTransformer
from torch import Tensor, nn

from concept_cam.backbones.block import Block, Projections, Rotation, is_of
from concept_cam.backbones.locks import PROCESS
from concept_cam.backbones.names import told_apart
from concept_cam.backbones.pooling import ClassToken, LatentPooling, PatchMean
from concept_cam.backbones.site import Site, TokenLayout
from concept_cam.backbones.tower import Tower
from concept_cam.backbones.towers import generic
from concept_cam.backbones.towers.positions import check_multiple, interpolate
from concept_cam.images import Fit, Preprocess, Size

_NAMES: dict[str, str] = {"token": "class token", "avg": "average", "map": "attention pooling"}


def describe(
    trunk: Any,
    prefix: str,
    project: Callable[[Tensor], Tensor],
    embed: Callable[[Tensor], Tensor],
    pixels: Float[Tensor, "1 3 height width"],
    *,
    whole: bool,
) -> Tower | None:
    """The tower of a timm trunk; None of any other model.

    Args:
        trunk: the model that ``timm.create_model`` returns.
        prefix: of the names of its layers within the model.
        project: from the output of the trunk to the embedding.
        embed: runs the model and returns its embedding.
        pixels: a test image.
        whole: the last layer of the trunk is part of the way to the embedding, as it is not in a classifier.
    """
    if not hasattr(trunk, "forward_head"):
        return None

    def tail(pooled: Tensor) -> Tensor:
        return project(trunk.head(trunk.fc_norm(pooled)) if whole else trunk.fc_norm(pooled))

    if isinstance(trunk, VisionTransformer | Eva) and getattr(trunk, "fc_norm", None) is not None:
        return _vit(trunk, prefix, tail)
    stages = tuple(info["module"] for info in getattr(trunk, "feature_info", ()))
    own = generic.describe(trunk, prefix, embed, pixels, partial(_head_of_a_map, trunk, project, whole), stages)
    return own and replace(own, family=_family(trunk), stride=stride(trunk))


def resize(trunk: nn.Module, size: Size) -> None:
    """Fit a copy of a trunk to another input size, with positions as timm interpolates them; CNNs need nothing.

    Raises:
        BackboneError: the size is not a multiple of the patch.
    """
    own: Any = trunk
    if not hasattr(own, "set_input_size"):
        return
    check_multiple(size, (stride(own), stride(own)))
    if isinstance(getattr(own, "patch_embed", None), HybridEmbed):
        _resize_hybrid(own, size)
    else:
        with PROCESS, warnings.catch_warnings():
            # What torch has to say of how timm interpolates is of no use to anybody here.
            warnings.simplefilter("ignore", UserWarning)
            own.set_input_size(img_size=size)


def _resize_hybrid(trunk: Any, size: Size) -> None:
    """Resize a trunk with a stem before its patches: timm before 1.0.31 runs the stem on pixels of another precision."""
    embed, step, old = trunk.patch_embed, stride(trunk), trunk.patch_embed.grid_size
    grid = size[0] // step, size[1] // step
    embed.img_size, embed.grid_size, embed.num_patches = size, grid, grid[0] * grid[1]
    embed.feature_size = grid[0] * embed.patch_size[0], grid[1] * embed.patch_size[1]
    prefix = 0 if trunk.no_embed_class else trunk.num_prefix_tokens
    trunk.pos_embed = nn.Parameter(interpolate(trunk.pos_embed[0], prefix, old, grid)[None], requires_grad=False)


def preprocess(trunk: nn.Module) -> Preprocess | None:
    """The preprocessing of timm for a trunk, at the size it was built for; None of any other model."""
    if not hasattr(trunk, "pretrained_cfg"):
        return None
    config = timm.data.resolve_model_data_config(trunk)
    built_for = getattr(getattr(trunk, "patch_embed", None), "img_size", None)
    size: Size = tuple(built_for) if built_for else tuple(config["input_size"][1:])
    modes: dict[str, Fit] = {"squash": "squash", "border": "pad"}
    return Preprocess(
        size=size,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        fit=modes.get(config["crop_mode"], "crop"),
        interpolation=config["interpolation"],
        shortest=floor(min(size) / config["crop_pct"]),
        stride=stride(trunk),
    )


def names() -> Sequence[str]:
    """The names of all architectures."""
    found: Sequence[str] = timm.list_models()
    return found


def is_known(name: str) -> bool:
    """Whether a name is that of an architecture."""
    return bool(timm.is_model(name))


def tags(name: str) -> tuple[str, ...]:
    """The tags of the weights of an architecture: the part of their names after the dot."""
    return tuple(found.partition(".")[2] for found in timm.list_pretrained(f"{name}.*"))


def create(name: str, weights: str | None) -> nn.Module:
    """Create a model by its name with timm's weights, which are downloaded on first use, or with those of a file.

    It has as many classes as the classifier layer in the file has rows.
    """
    model: nn.Module
    if weights is None or weights.endswith((".npz", ".npy")):
        model = timm.create_model(name, pretrained=weights is None, checkpoint_path=weights or "")
        return model
    state = timm.models.load_state_dict(weights, weights_only=True)
    config = None if ":" in name else timm.get_pretrained_cfg(name)
    first = config and ([config.classifier] if isinstance(config.classifier, str) else [*(config.classifier or ())])[:1]
    rows = [len(state[key]) for layer in first or () if (key := f"{layer}.weight") in state]
    options = {"num_classes": rows[0]} if rows else {}
    model = timm.create_model(name, pretrained=False, **options)
    model.load_state_dict(state)
    return model


def classes(model: nn.Module) -> tuple[str, ...]:
    """The class names of a model if timm knows them (ImageNet and its subsets), else an empty tuple."""
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    own, count = config.get("label_names"), getattr(model, "num_classes", None)
    if own and len(own) == count:
        described = config.get("label_descriptions") or {}
        return told_apart([str(described.get(name, name)) for name in own])
    subset = infer_imagenet_subset(model)
    if not subset:
        return ()
    info = ImageNetInfo(subset)
    found = [info.index_to_description(i).split(",")[0] for i in range(info.num_classes())]
    if info.num_classes() != count:
        return ()
    # Two kinds of crane: WordNet's number tells them apart.
    counts = Counter(found)
    return tuple(f"{n} ({info.index_to_label_name(i)})" if counts[n] > 1 else n for i, n in enumerate(found))


def stride(trunk: nn.Module) -> int:
    """The side of a patch, or of a cell of the last map, in pixels; 1 if it is not known."""
    patch: Any = getattr(getattr(trunk, "patch_embed", None), "patch_size", None)
    info: Any = getattr(trunk, "feature_info", None)
    if isinstance(trunk, VisionTransformer | Eva) and patch is not None:
        # A stem before the patches has a stride of its own.
        height = trunk.patch_embed.img_size[0] if trunk.patch_embed.img_size else 0
        return int(height // trunk.patch_embed.grid_size[0]) if height else int(max(patch))
    return int(info[-1]["reduction"]) if info else 1


# ---- transformers -----------------------------------------------------------------------------------------------------


def _vit(trunk: Any, prefix: str, tail: Callable[[Tensor], Tensor]) -> Tower:
    layout = TokenLayout(trunk.num_prefix_tokens, *trunk.patch_embed.grid_size)
    modules = list(trunk.blocks)
    if hasattr(modules[-1], "norm1") and not isinstance(modules[-1], ResPostBlock | EvaBlockPostNorm):
        norms = [Site(f"{prefix}blocks.{i}.norm1", block.norm1, layout) for i, block in enumerate(modules)][::-1]
    else:
        # Norms come after the attention: what enters a block is what left the one before.
        norms = [Site(f"{prefix}blocks.{i}", block, layout) for i, block in enumerate(modules[:-1])][::-1]
    offer = partial(
        Tower,
        _family(trunk),
        stride=stride(trunk),
        blocks=tuple(_block(trunk, module) for module in modules),
        regular=is_of("timm", trunk, *modules),
    )
    # Every trunk runs its last norm, be it the identity: that is where all patches are read.
    last = Site(f"{prefix}norm", trunk.norm, layout)
    if trunk.attn_pool is not None:
        return offer((last, *norms), pooling=_latent_pooling(trunk, last, tail))
    if trunk.global_pool == "avg":
        averaged = not getattr(trunk, "pool_include_prefix", False)
        return offer((norms[0], last, *norms[1:]), pooling=PatchMean(last, tail, trunk.norm) if averaged else None)
    if trunk.global_pool == "token":
        return offer(tuple(norms), pooling=ClassToken(trunk.norm, tail))
    return offer(tuple(norms))


def _family(trunk: nn.Module) -> str:
    pooling = _NAMES.get(str(getattr(trunk, "global_pool", "")), "other pooling")
    return f"timm {type(trunk).__name__}" + (f", {pooling}" if isinstance(trunk, VisionTransformer | Eva) else "")


def _block(trunk: Any, block: Any) -> Block | None:
    """The block in the form of the formulas; None if it is built otherwise."""
    attention: Any = getattr(block, "attn", None)
    known = (type(block) is TimmBlock and type(attention) is Attention) or (
        type(block) is EvaBlock and type(attention) in (EvaAttention, AttentionRope)
    )
    normed = any(not isinstance(getattr(attention, n, None) or nn.Identity(), nn.Identity) for n in ("q_norm", "k_norm"))
    mixed = getattr(trunk, "rope_mixed", False)
    shared = getattr(attention, "num_kv_groups", 1) > 1
    if not known or normed or mixed or shared or getattr(attention, "gate", None) is not None:
        return None

    inner = getattr(attention, "norm", None)

    def outward(output: Tensor) -> Tensor:
        return _scaled(block, 1, attention.proj(output))

    def mlp(x: Tensor) -> Tensor:
        return x + _scaled(block, 2, block.mlp(block.norm2(x)))

    return Block(
        module=block,
        norm=block.norm1,
        second_norm=block.norm2,
        projections=partial(_projections, attention),
        outward=outward,
        inner=None if isinstance(inner, nn.Identity) else inner,
        mlp=mlp,
        rotate=_rotation(trunk, attention),
    )


def _scaled(block: Any, part: int, x: Tensor) -> Tensor:
    """Apply the layer scale of a block, which is a module, a parameter or absent."""
    gamma: Tensor | None = getattr(block, f"gamma_{part}", None)
    if gamma is not None:
        return gamma * x
    out: Tensor = getattr(block, f"ls{part}", nn.Identity())(x)
    return out


def _projections(attention: Any) -> Projections:
    if attention.qkv is None:
        return Projections.of_linears(attention.q_proj, attention.k_proj, attention.v_proj, attention.num_heads)
    biases = attention.qkv.bias
    if getattr(attention, "q_bias", None) is not None:
        biases = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
    return Projections.packed(attention.qkv.weight.chunk(3), biases, attention.num_heads)


def _rotation(trunk: Any, attention: Any) -> Rotation | None:
    """Rotary positions: the vectors of patches are rotated, those of the prefix are not."""
    if getattr(trunk, "rope", None) is None:
        return None
    prefix, layout = trunk.num_prefix_tokens, {"half": True} if getattr(attention, "rotate_half", False) else {}

    def rotate(vectors: Float[Tensor, "B M H d"], sign: int) -> Float[Tensor, "B M H d"]:
        fixed = getattr(trunk.rope, "feat_shape", None) is not None
        angles = trunk.rope.get_embed() if fixed else trunk.rope.get_embed(shape=trunk.patch_embed.grid_size)
        sine, cosine = angles.to(vectors).chunk(2, -1)
        patches = vectors[:, prefix:].transpose(1, 2)
        turned = apply_rot_embed_cat(patches, torch.cat([sign * sine, cosine], -1), **layout).transpose(1, 2)
        return torch.cat([vectors[:, :prefix], turned], 1)

    return rotate


def _latent_pooling(trunk: Any, site: Site, tail: Callable[[Tensor], Tensor]) -> LatentPooling | None:
    """Attention pooling with one latent, or with the first of several."""
    pool = trunk.attn_pool
    plain = (
        type(pool) is AttentionPoolLatent
        and pool.pos_embed is None
        and isinstance(pool.q_norm, nn.Identity)
        and isinstance(pool.k_norm, nn.Identity)
        and isinstance(pool.q, nn.Linear)
        and (pool.pool == "token" or pool.latent_len == 1)
    )
    if not plain:
        return None

    def projections() -> Projections:
        key, value = pool.kv.weight.detach().chunk(2)
        zeros = key.new_zeros(len(key))
        key_bias, value_bias = (zeros, zeros) if pool.kv.bias is None else pool.kv.bias.detach().chunk(2)
        query_bias = zeros if pool.q.bias is None else pool.q.bias.detach()
        return Projections((pool.q.weight.detach(), query_bias), (key, key_bias), (value, value_bias), pool.num_heads)

    def rest(output: Tensor) -> Tensor:
        x = pool.proj(output)
        return tail(x if pool.mlp is None else x + pool.mlp(pool.norm(x)))

    prefix_too = isinstance(trunk, Eva) or getattr(trunk, "pool_include_prefix", False)
    return LatentPooling(site, projections, lambda: pool.latent[0, 0], rest, prefix_too)


# ---- maps -------------------------------------------------------------------------------------------------------------


def _head_of_a_map(
    trunk: Any, project: Callable[[Tensor], Tensor], whole: bool, pooled: Float[Tensor, "*batch D"]
) -> Float[Tensor, "*batch E"]:
    """Apply the head of the trunk to the mean of a map, given as a map of one cell."""
    cells = pooled.flatten(0, -2)[..., None, None]
    out = project(trunk.forward_head(cells, pre_logits=not whole))
    embedded: Tensor = out.unflatten(0, pooled.shape[:-1])
    return embedded
