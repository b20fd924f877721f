"""torchvision's VisionTransformer. Its CNNs and Swin are handled by ``generic``, as any module is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torchvision.models.vision_transformer import EncoderBlock, VisionTransformer

from concept_cam.backbones.block import Block, Projections, is_of
from concept_cam.backbones.pooling import ClassToken
from concept_cam.backbones.site import Site, TokenLayout
from concept_cam.backbones.tower import Tower
from concept_cam.backbones.towers.positions import check_multiple, interpolate
from concept_cam.images import Size


def describe(trunk: nn.Module, prefix: str, project: Callable[[Tensor], Tensor]) -> Tower | None:
    """The tower of torchvision's VisionTransformer; None of any other model.

    Args:
        trunk: the model.
        prefix: of the names of its layers within the whole model.
        project: from the class token after the last norm to the embedding.
    """
    if not isinstance(trunk, VisionTransformer):
        return None
    model: Any = trunk
    height, width = _size(model)
    layout = TokenLayout(1, height // model.patch_size, width // model.patch_size)
    layers = list(model.encoder.layers.named_children())
    sites = tuple(Site(f"{prefix}encoder.layers.{name}.ln_1", layer.ln_1, layout) for name, layer in reversed(layers))
    blocks = tuple(_block(layer) for _, layer in layers)
    regular = is_of("torchvision", trunk, model.encoder, *(layer for _, layer in layers))
    return Tower("ViT, class token", sites, model.patch_size, blocks, ClassToken(model.encoder.ln, project), regular=regular)


def is_vit(module: nn.Module) -> bool:
    """Whether a module is torchvision's VisionTransformer."""
    return isinstance(module, VisionTransformer)


def _block(block: Any) -> Block | None:
    """The block in the form of the formulas; None if it is built otherwise."""
    attention = block.self_attention
    if type(block) is not EncoderBlock:
        return None
    return Block(
        module=block,
        norm=block.ln_1,
        second_norm=block.ln_2,
        projections=lambda: Projections.of(attention),
        outward=attention.out_proj,
        mlp=lambda x: x + block.mlp(block.ln_2(x)),
    )


def resize(trunk: nn.Module, size: Size) -> None:
    """Fit a copy to another input size, with positions as torchvision interpolates them at loading; CNNs need nothing.

    Raises:
        BackboneError: the size is not a multiple of the patch.
    """
    if not isinstance(trunk, VisionTransformer):
        return
    model: Any = trunk
    patch = model.patch_size
    check_multiple(size, (patch, patch))
    old_height, old_width = _size(model)
    grid = (old_height // patch, old_width // patch), (size[0] // patch, size[1] // patch)
    fitted = interpolate(model.encoder.pos_embedding[0], 1, *grid, antialias=False, align_corners=True)
    model.encoder.pos_embedding = nn.Parameter(fitted[None], requires_grad=False)
    # Its own method insists on a square.
    model._process_input = partial(_patch_tokens, model)
    model.image_size = size


def _size(model: Any) -> Size:
    size: Any = model.image_size
    return (size, size) if isinstance(size, int) else size


def _patch_tokens(model: Any, pixels: Tensor) -> Tensor:
    tokens: Tensor = model.conv_proj(pixels).flatten(2).transpose(1, 2)
    return tokens
