"""FAMILIES: the supported families of models and what each supports. Plain data; tests compare each line with a model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """A kind of model.

    Attributes:
        name: of the family.
        through: the library that provides it.
        example: a name that ``load`` takes, or how ``wrap`` is called.
        pooling: how patches become the embedding.
        default: the default site, with ``*`` for the last of its kind.
        others: what other sites there are.
        closed_form: the sites whose gradient has a closed form; at all others it comes from autograd.
        sizes: which input sizes it takes, besides its own.
    """

    name: str
    through: str
    example: str
    pooling: str
    default: str
    others: str
    closed_form: str
    sizes: str


_PATCHES = "whole patches"
_ANY = "any"
_EARLIER = "first norms of earlier blocks"
_NORMS = "first norms of blocks"
_STAGES = "earlier stages"

FAMILIES = (
    Family(
        "ViT, class token", "open_clip", "ViT-B-16/laion400m_e32", "class token", "visual.transformer.resblocks.*.ln_1",
        _EARLIER, "default", _PATCHES,
    ),
    Family(
        "ViT, average", "open_clip", "wrap(model, tokenizer)", "mean", "visual.transformer.resblocks.*.ln_1",
        f"visual.ln_post, {_EARLIER}", "visual.ln_post", _PATCHES,
    ),
    Family(
        "CoCa", "open_clip", "coca_ViT-B-32/laion2b_s13b_b90k", "first of many latents", "visual.attn_pool.ln_k",
        _NORMS, "default", _PATCHES,
    ),
    Family(
        "ResNet, attention pooling", "open_clip", "RN50/openai", "attention of the mean", "visual.layer4",
        _STAGES, "default", "multiples of 32",
    ),
    Family(
        "SigLIP, SigLIP 2", "open_clip", "ViT-B-16-SigLIP2/webli", "latent", "visual.trunk.norm",
        _NORMS, "default", _PATCHES,
    ),
    Family(
        "EVA-02", "open_clip", "EVA02-B-16/merged2b_s8b_b131k", "class token", "visual.trunk.blocks.*.norm1",
        _EARLIER, "default", _PATCHES,
    ),
    Family(
        "EVA-02 E", "open_clip", "EVA02-E-14/laion2b_s4b_b115k", "class token", "visual.trunk.blocks.*",
        "earlier blocks", "none", _PATCHES,
    ),
    Family("PE-Core", "open_clip", "PE-Core-B-16/meta", "latent", "visual.trunk.norm", _NORMS, "default", _PATCHES),
    Family(
        "MobileCLIP-B, MobileCLIP2-L", "open_clip", "MobileCLIP-B/datacompdr", "class token", "visual.trunk.blocks.*.norm1",
        _EARLIER, "default", _PATCHES,
    ),
    Family(
        "MobileCLIP S", "open_clip", "MobileCLIP2-S0/dfndr2b", "mean", "visual.trunk.final_conv", _STAGES, "default", _ANY
    ),
    Family(
        "ViTamin", "open_clip", "ViTamin-S/datacomp1b", "mean", "visual.trunk.blocks.*.norm1",
        f"visual.trunk.norm, {_EARLIER}", "visual.trunk.norm", _PATCHES,
    ),
    Family(
        "ConvNeXt", "open_clip", "convnext_base_w/laion2b_s13b_b82k", "mean", "visual.trunk.stages.*",
        _STAGES, "default", _ANY,
    ),
    Family(
        "CLIP", "transformers", "openai/clip-vit-base-patch16", "class token", "vision_model.encoder.layers.*.layer_norm1",
        _EARLIER, "default", _PATCHES,
    ),
    Family(
        "MetaCLIP 2", "transformers", "facebook/metaclip-2-worldwide-huge-quickgelu", "class token",
        "vision_model.encoder.layers.*.layer_norm1", _EARLIER, "default", _PATCHES,
    ),
    Family(
        "SigLIP, SigLIP 2", "transformers", "google/siglip2-base-patch16-224", "latent", "vision_model.post_layernorm",
        _NORMS, "default", _PATCHES,
    ),
    Family(
        "SigLIP 2, NaFlex", "transformers", "google/siglip2-base-patch16-naflex", "latent", "vision_model.post_layernorm",
        _NORMS, "default", f"{_PATCHES}; native aspect by default",
    ),
    Family(
        "AltCLIP", "transformers", "BAAI/AltCLIP", "class token", "vision_model.encoder.layers.*.layer_norm1",
        _EARLIER, "default", _PATCHES,
    ),
    Family(
        "Chinese-CLIP", "transformers", "OFA-Sys/chinese-clip-vit-base-patch16", "class token",
        "vision_model.encoder.layers.*.layer_norm1", _EARLIER, "default", _PATCHES,
    ),
    Family(
        "ALIGN", "transformers", "kakaobrain/align-base", "mean", "vision_model.encoder.blocks.*", _STAGES, "default", _ANY
    ),
    Family(
        "any dual encoder", "transformers", "AutoModel with get_image_features and get_text_features", "any",
        "first norm of the last block, or last map", f"{_EARLIER}, or {_STAGES}", "where the last map is averaged",
        "what the model takes",
    ),
    Family(
        "ViT, class token", "timm", "vit_base_patch14_dinov2 and a linear probe", "class token", "blocks.*.norm1",
        _EARLIER, "default", _PATCHES,
    ),
    Family(
        "ViT, average", "timm", "vit_base_patch16_dinov3 and a linear probe", "mean", "blocks.*.norm1", f"norm, {_EARLIER}",
        "norm", _PATCHES,
    ),
    Family("CNN", "timm", "resnet50.a1_in1k", "mean", "last map", _STAGES, "default", _ANY),
    Family(
        "ViT, class token", "torchvision", "wrap(model, classes=names)", "class token", "encoder.layers.*.ln_1",
        _EARLIER, "default", _PATCHES,
    ),
    Family("CNN", "torchvision", "wrap(model, classes=names)", "mean", "last map", _STAGES, "where f is the mean", _ANY),
    Family(
        "any classifier", "your own", "wrap(model, classes=names)", "any", "first norm of the last block, or last map",
        f"{_EARLIER}, or {_STAGES}", "where f is the mean of the last map", "what the model takes",
    ),
)  # fmt: skip
