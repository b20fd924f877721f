"""open_clip's dual encoders. This file alone knows open_clip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, final

import open_clip
import torch
from jaxtyping import Float
from open_clip.transformer import LayerNorm, LayerNormFp32, ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from concept_cam.backbones.backbone import Backbone, Site, TokenLayout
from concept_cam.backbones.heads import ClassAttention, Head, MeanPooling
from concept_cam.errors import BackboneError, UnknownWord, did_you_mean
from concept_cam.images import Preprocess

_POOLING = ("tok", "avg")


def load(name: str, pretrained: str | None = None, device: str | torch.device = "cpu") -> OpenClip:
    """Load a model by open_clip's own names: an architecture with a tag or a weights file, ``hf-hub:``, ``local-dir:``.

    Raises:
        BackboneError: no such model, tag or file, or weights that have to be downloaded and cannot be.
    """
    schema, _, rest = name.partition(":")
    if schema == "local-dir":
        _check_folder(Path(rest))
    _check_device(device)
    if not rest:
        _check_tag(name, pretrained)
    elif pretrained is not None:
        raise BackboneError(f"{name} brings its own weights; leave out pretrained={pretrained!r}.")
    try:
        with torch.inference_mode(False):
            model = open_clip.create_model(name, pretrained=pretrained, device=device)
            tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:
        raise BackboneError(_load_failure(name, pretrained, error)) from error
    # Ours alone until handed out: parameters of a model that nobody trains need no gradient.
    return OpenClip(model.eval().requires_grad_(False), tokenizer, name=f"{name}/{pretrained}" if pretrained else name)


def _check_folder(folder: Path) -> None:
    if not (folder / "open_clip_config.json").is_file():
        raise BackboneError(f"{folder}: no open_clip_config.json in that folder; expected open_clip's checkpoint layout.")
    # open_clip itself only logs that it found none, and hands out random ones.
    if not any(file.suffix in {".safetensors", ".bin", ".pth"} for file in folder.iterdir()):
        raise BackboneError(f"{folder}: no weights in that folder; expected open_clip_model.safetensors.")


def _check_device(device: str | torch.device) -> None:
    try:
        torch.empty(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n")[0].split(". ")[0]
        raise BackboneError(f"There is no device {str(device)!r} here ({reason}); cpu is always there.") from error


def _check_tag(name: str, pretrained: str | None) -> None:
    if name not in open_clip.list_models():
        hint = did_you_mean(name, open_clip.list_models())
        raise BackboneError(f"open_clip has no model {name!r}.{hint} open_clip.list_models() lists all.")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained is None:
        listed = f" one of {', '.join(tags)} or" if tags else ""
        raise BackboneError(f"{name} without weights would explain noise; name{listed} a weights file as pretrained.")
    if pretrained.lower() not in (tag.lower() for tag in tags) and not Path(pretrained).exists():
        known = f"the tags of {name} are {', '.join(tags)}" if tags else f"{name} has no tags"
        raise BackboneError(f"{pretrained!r} is neither a tag nor a file; {known}.")


def _load_failure(name: str, pretrained: str | None, error: Exception) -> str:
    what = f"{name} ({pretrained})" if pretrained else name
    text = " ".join(str(error).split())
    if not name.startswith("local-dir:") and any(_is_of_the_network(cause) for cause in _causes(error)):
        return f"{what}: the weights have to be downloaded and cannot be reached; check the network, or give a local file."
    return f"{what} could not be loaded: {type(error).__name__}: {text[:300]}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_of_the_network(error: BaseException) -> bool:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectError", "ConnectionError", "URLError"})


@final
class OpenClip(Backbone):
    """An open_clip model with a VisionTransformer, pooled at the class token or by the mean of the patches.

    The instance is used as it is: device, precision, training flags and parameters stay the caller's.

    Args:
        model: what ``open_clip.create_model`` gives.
        tokenizer: what ``open_clip.get_tokenizer`` gives.
        name: how to call it in results.

    Raises:
        BackboneError: the vision tower is of no family that this adapter knows.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, name: str = "open_clip model") -> None:
        visual = getattr(model, "visual", None)
        if not isinstance(visual, VisionTransformer) or visual.attn_pool is not None or visual.pool_type not in _POOLING:
            kind = type(visual or model).__name__
            raise BackboneError(
                f"{name}: a vision tower of type {kind} is not supported yet; expected open_clip's VisionTransformer "
                "with class-token or average pooling, such as ViT-B-16."
            )
        if any(parameter.is_inference() for parameter in model.parameters()):
            raise BackboneError(f"{name} was built inside torch.inference_mode(), so it has no gradients; build it outside.")
        self.name, self.module, self.tokenizer = name, model, tokenizer
        self._model: Any = model
        self.sites = _sites(visual)
        self.preprocess = _preprocess(model)
        self.versions = {"open_clip_torch": version("open_clip_torch"), "torch": torch.__version__}

    @property
    def dtype(self) -> torch.dtype:
        """That of the patch embedding: with open_clip's half precision, norms and positions stay in float32."""
        dtype: torch.dtype = self._model.visual.conv1.weight.dtype
        return dtype

    def embed_pixels(self, pixels: Float[Tensor, "B 3 height width"]) -> Float[Tensor, "B E"]:
        """``model.encode_image``."""
        embedding: Tensor = self._model.encode_image(pixels)
        return embedding

    def embed_texts(self, sentences: Sequence[str]) -> Float[Tensor, "K E"]:
        """``model.encode_text`` of the tokenized sentences."""
        self._check_words(sentences)
        embedding: Tensor = self._model.encode_text(self.tokenizer(list(sentences)).to(self.device))
        return embedding

    def _check_words(self, sentences: Sequence[str]) -> None:
        """Refuse a word for which the tokenizer has no token: the text would mean something else."""
        inner = getattr(self.tokenizer, "tokenizer", None)
        unknown = getattr(inner, "unk_token", None)
        # Byte-level vocabularies have a token for everything; their "unknown" is the end or the padding.
        if inner is None or unknown is None or unknown in (inner.pad_token, inner.bos_token, inner.eos_token):
            return
        for word in dict.fromkeys(word for sentence in sentences for word in sentence.split()):
            pieces = inner.tokenize(word)
            if pieces and unknown not in pieces:
                continue
            known = sorted(word for word in inner.get_vocab() if word not in inner.all_special_tokens)
            listed = f" It knows: {', '.join(known)}." if len(known) < 500 else ""
            bare = word.strip(".,;:!?").lower()
            raise UnknownWord(f"{self.name} has never seen the word {bare or word!r}.{did_you_mean(bare, known)}{listed}")


def _preprocess(model: nn.Module) -> Preprocess:
    config = open_clip.get_model_preprocess_cfg(model)
    size = config["size"]
    height, width = (size, size) if isinstance(size, int) else size[-2:]
    return Preprocess(
        size=(height, width),
        mean=tuple(config.get("mean") or open_clip.OPENAI_DATASET_MEAN),
        std=tuple(config.get("std") or open_clip.OPENAI_DATASET_STD),
        resize_mode=config.get("resize_mode") or "shortest",
        interpolation=config.get("interpolation") or "bicubic",
        fill=config.get("fill_color") or 0,
    )


def _sites(visual: VisionTransformer) -> tuple[Site, ...]:
    """The first norm of every block, the last block's first; with mean pooling also the tokens that are averaged."""
    layout = TokenLayout(1, *visual.grid_size)
    blocks = list(visual.transformer.resblocks)
    norms = [Site(f"visual.transformer.resblocks.{index}.ln_1", block.ln_1, layout) for index, block in enumerate(blocks)]
    last = norms.pop()
    if visual.pool_type == "tok":
        return (Site(last.name, last.module, layout, _class_attention(visual)), *reversed(norms))
    if visual.final_ln_after_pool:
        pooled = Site(f"visual.transformer.resblocks.{len(norms)}", blocks[-1], layout, MeanPooling(_after_pooling(visual)))
    else:
        pooled = Site("visual.ln_post", visual.ln_post, layout, MeanPooling(_project(visual)))
    return (last, pooled, *reversed(norms))


def _class_attention(visual: VisionTransformer) -> Head | None:
    """The closed form of the last block's class row, if the block is built as the formula says."""
    block: Any = visual.transformer.resblocks[-1]
    plain = (
        type(block) is ResidualAttentionBlock
        and type(block.attn) is nn.MultiheadAttention
        and type(block.ln_1) in (LayerNorm, LayerNormFp32, nn.LayerNorm)
        and block.attn.in_proj_weight is not None
        and block.attn.bias_k is None
        and not block.attn.add_zero_attn
    )
    if not plain:
        return None
    finish = _after_pooling(visual)

    def rest(output: Tensor, residual: Tensor) -> Tensor:
        x = residual + block.ls_1(block.attn.out_proj(output))
        x = x + block.ls_2(block.mlp(block.ln_2(x)))
        embedding: Tensor = finish(x)
        return embedding

    return ClassAttention(block.attn, rest)


def _after_pooling(visual: VisionTransformer) -> Any:
    project = _project(visual)
    return lambda pooled: project(visual.ln_post(pooled))


def _project(visual: VisionTransformer) -> Any:
    return lambda pooled: pooled if visual.proj is None else pooled @ visual.proj
