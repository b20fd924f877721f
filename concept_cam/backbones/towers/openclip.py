"""open_clip's own vision towers: VisionTransformer with its five kinds of pooling, and CLIP's ResNets."""

from __future__ import annotations

from functools import partial
from typing import Any

from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import LayerNorm, LayerNormFp32, ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from concept_cam.backbones.block import Block, Projections, is_of
from concept_cam.backbones.pooling import ClassToken, LatentPooling, MeanQuery, PatchMean
from concept_cam.backbones.site import FeatureMap, Site, TokenLayout
from concept_cam.backbones.tower import Tower
from concept_cam.backbones.towers.positions import check_multiple, interpolate
from concept_cam.images import Size


def describe(visual: nn.Module) -> Tower | None:
    """The tower of an open_clip vision model; None of any other model."""
    if isinstance(visual, VisionTransformer):
        return _vit(visual)
    if isinstance(visual, ModifiedResNet):
        return _resnet(visual)
    return None


def resize(visual: nn.Module, size: Size) -> None:
    """Fit a copy of a tower to another input size, with positions as open_clip interpolates them at loading.

    Raises:
        BackboneError: the size is not a multiple of the patch.
    """
    if isinstance(visual, VisionTransformer):
        patch, old = visual.patch_size, visual.grid_size
        check_multiple(size, patch)
        visual.image_size = size
        visual.grid_size = size[0] // patch[0], size[1] // patch[1]
        visual.positional_embedding = interpolate(visual.positional_embedding, 1, old, visual.grid_size)
    elif isinstance(visual, ModifiedResNet):
        check_multiple(size, (32, 32))
        pool, side = visual.attnpool, visual.image_size // 32
        visual.image_size = size
        pool.positional_embedding = interpolate(pool.positional_embedding, 1, (side, side), (size[0] // 32, size[1] // 32))


# ---- VisionTransformer ------------------------------------------------------------------------------------------------


def _vit(visual: VisionTransformer) -> Tower | None:
    layout = TokenLayout(1, *visual.grid_size)
    modules = list(visual.transformer.resblocks)
    norms = [Site(f"visual.transformer.resblocks.{index}.ln_1", block.ln_1, layout) for index, block in enumerate(modules)]
    last = norms.pop()
    earlier = tuple(reversed(norms))
    offer = partial(
        Tower,
        stride=max(visual.patch_size),
        blocks=tuple(_block(module) for module in modules),
        regular=is_of("open_clip", visual, *modules),
    )
    if visual.attn_pool is not None:
        if visual.attn_pool_contrastive is not None:
            # Unfinished in open_clip: its embedding has a dimension too many.
            return None
        pooled = Site("visual.attn_pool.ln_k", visual.attn_pool.ln_k, layout)
        return offer("CoCa", (pooled, last, *earlier), pooling=_latent_pooling(visual, pooled))
    rest, project = partial(_after_pooling, visual), partial(_project, visual)
    if visual.pool_type == "tok":
        return offer(
            "ViT, class token", (last, *earlier), pooling=ClassToken(visual.ln_post, project, partial(_matrix, visual))
        )
    if visual.pool_type == "avg":
        if visual.final_ln_after_pool:
            averaged = Site(f"visual.transformer.resblocks.{len(norms)}", modules[-1], layout)
            pooling = PatchMean(averaged, rest)
        else:
            averaged = Site("visual.ln_post", visual.ln_post, layout)
            pooling = PatchMean(averaged, project, visual.ln_post)
        return offer("ViT, average", (last, averaged, *earlier), pooling=pooling)
    return None


def _block(block: Any) -> Block | None:
    """The block in the form of the formulas; None if it is built otherwise."""
    plain = (
        type(block) is ResidualAttentionBlock
        and type(block.attn) is nn.MultiheadAttention
        and type(block.ln_1) in (LayerNorm, LayerNormFp32, nn.LayerNorm)
        and block.attn.bias_k is None
        and not block.attn.add_zero_attn
    )
    if not plain:
        return None

    def layers() -> tuple[Any, ...] | None:
        unscaled = type(block.ls_1) is type(block.ls_2) is nn.Identity
        if not (unscaled and type(block.mlp) is nn.Sequential and len(block.mlp) == 3):
            return None
        return block.attn.out_proj, block.ln_2, *block.mlp

    return Block(
        module=block,
        norm=block.ln_1,
        second_norm=block.ln_2,
        projections=lambda: Projections.of(block.attn),
        outward=lambda output: block.ls_1(block.attn.out_proj(output)),
        mlp=lambda x: x + block.ls_2(block.mlp(block.ln_2(x))),
        layers=layers,
    )


def _latent_pooling(visual: VisionTransformer, site: Site) -> LatentPooling | None:
    """CoCa's pooling: the output of its first query becomes the embedding."""
    pool: Any = visual.attn_pool
    if visual.pool_type != "tok":
        return None

    def rest(output: Tensor) -> Tensor:
        return _after_pooling(visual, pool.attn.out_proj(output))

    return LatentPooling(site, lambda: Projections.of(pool.attn), lambda: pool.ln_q(pool.query)[0], rest)


def _matrix(visual: VisionTransformer) -> Tensor | None:
    return None if visual.proj is None else visual.proj.T


def _after_pooling(visual: VisionTransformer, pooled: Tensor) -> Tensor:
    return _project(visual, visual.ln_post(pooled))


def _project(visual: VisionTransformer, pooled: Tensor) -> Tensor:
    return pooled if visual.proj is None else pooled @ visual.proj


# ---- CLIP's ResNets ---------------------------------------------------------------------------------------------------


def _resnet(visual: ModifiedResNet) -> Tower:
    pool = visual.attnpool

    def projections() -> Projections:
        return Projections.of_linears(pool.q_proj, pool.k_proj, pool.v_proj, pool.num_heads)

    sites = tuple(Site(f"visual.layer{i}", getattr(visual, f"layer{i}"), FeatureMap()) for i in (4, 3, 2, 1))
    pooling = MeanQuery(sites[0], projections, lambda: pool.positional_embedding, pool.c_proj)
    return Tower("ResNet, attention pooling", sites, 32, pooling=pooling)
