"""open_clip's dual encoders. This file alone knows open_clip."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from concept_cam.backbones.compiler import loaded_when_used

with loaded_when_used():  # before timm, which the imports below name
    import open_clip
    from open_clip.pretrained import download_pretrained_from_hf
    from open_clip.tokenizer import basic_clean, canonicalize_text

from concept_cam.backbones.archives import check_weights
from concept_cam.backbones.backbone import PROBE, Backbone, noise
from concept_cam.backbones.confined import built_within, check_input, check_named, confined
from concept_cam.backbones.guard import guarded
from concept_cam.backbones.names import spelt
from concept_cam.backbones.scale import learnt_scale
from concept_cam.backbones.settings import OPEN_CLIP, TRANSFORMERS, check_folder, check_open_clip, check_settings
from concept_cam.backbones.sizes import share
from concept_cam.backbones.tower import Tower
from concept_cam.backbones.towers import openclip as own_towers, timm as timm_towers
from concept_cam.backbones.transforms import read_transform
from concept_cam.backbones.weights import ADVICE, check_device, first_run
from concept_cam.backbones.words import Reader
from concept_cam.backbones.wrappers import called, has_own, hold, named_within, only_one
from concept_cam.errors import BackboneError, did_you_mean
from concept_cam.images import Fit, Preprocess, Size

_FIT: dict[str, Fit] = {"shortest": "crop", "longest": "pad", "squash": "squash"}
"""open_clip's names of the ways to fit an image to the aspect ratio of the input, and ours."""

_WEIGHTS = frozenset({".safetensors", ".bin", ".pth"})
"""Suffixes of the weight files that open_clip looks for in a folder."""


def names() -> Sequence[str]:
    """The names of all architectures."""
    found: Sequence[str] = open_clip.list_models()
    return found


def load(name: str, pretrained: str | None = None, device: str | torch.device = "cpu", title: str | None = None) -> OpenClip:
    """Load a model by open_clip's own names: an architecture with a tag or a weights file, ``hf-hub:``, ``local-dir:``.

    Args:
        name: the model.
        pretrained: a tag or a file of weights.
        device: of the model.
        title: how to call it in results; by default by its name and tag.

    Raises:
        BackboneError: no such model, tag or file, weights that have to be downloaded and cannot be, or a checkpoint that
            brings code or chooses how it is loaded.
    """
    schema, _, rest = name.partition(":")
    check_device(device)
    if not rest:
        name = spelt(name, names()) or name
        _check_tag(name, pretrained)
        if pretrained is not None and not Path(pretrained).exists():
            pretrained = spelt(pretrained, open_clip.list_pretrained_tags_by_model(name))
    elif pretrained is not None:
        raise BackboneError(f"{name} brings its own weights; leave out pretrained={pretrained!r}.")
    with confined(f"{name} ({pretrained})" if pretrained else name, local=schema == "local-dir"):
        with _explained(name, schema, rest, pretrained):
            model = open_clip.create_model(name, pretrained=pretrained, device=device)
        tokenizer = open_clip.get_tokenizer(name)
        check_input(name, preprocess_of(model.visual).size)
        title = title or (f"{name}/{pretrained}" if pretrained else name)
        # Ours alone until handed out: parameters of a model that nobody trains need no gradient.
        return OpenClip(model.eval().requires_grad_(False), tokenizer, name=title)


def _explained(name: str, schema: str, rest: str, pretrained: str | None) -> AbstractContextManager[None]:
    """Check a checkpoint with a configuration; within the context, a model may not need much more than its weights explain."""
    if not rest:
        # open_clip takes a tag rather than a file of that name.
        tagged = pretrained in open_clip.list_pretrained_tags_by_model(name)
        return nullcontext() if tagged else built_within(name, check_weights([Path(str(pretrained))]))
    if schema == "local-dir":
        _check_folder(Path(rest))
        file, weights = Path(rest) / OPEN_CLIP, [one for one in Path(rest).iterdir() if one.suffix in _WEIGHTS]
    else:
        # open_clip itself only logs that it found no weights, and hands out random ones.
        file, weights = Path(_downloaded(rest, OPEN_CLIP)), [Path(_downloaded(rest))]
    settings = check_settings(file)
    tower = check_open_clip(file, settings, timm_towers.is_known)
    words = settings["model_cfg"]["text_cfg"].get("hf_tokenizer_name")
    for named in filter(None, {tower, None if schema == "local-dir" else words}):
        check_named(named, TRANSFORMERS)
    return built_within(name, check_weights(weights))


def _downloaded(repository: str, file: str | None = None) -> str:
    path: str = download_pretrained_from_hf(repository, filename=file)
    return path


def _check_folder(folder: Path) -> None:
    if not (folder / OPEN_CLIP).is_file():
        raise BackboneError(f"{folder}: no open_clip_config.json in that folder; expected open_clip's checkpoint layout.")
    check_folder(folder)
    # open_clip itself only logs that it found none, and hands out random ones.
    if not any(file.suffix in _WEIGHTS for file in folder.iterdir()):
        raise BackboneError(f"{folder}: no weights in that folder; expected open_clip_model.safetensors.")


def _check_tag(name: str, pretrained: str | None) -> None:
    if name not in open_clip.list_models():
        hint = did_you_mean(name, open_clip.list_models())
        raise BackboneError(f"open_clip has no model {name!r}.{hint} open_clip.list_models() lists all.")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained is None:
        listed = f" one of {', '.join(tags)} or" if tags else ""
        raise BackboneError(f"{name} without weights would explain noise; name{listed} a weights file as pretrained.")
    if spelt(pretrained, tags) is None and not Path(pretrained).exists():
        known = f"the tags of {name} are {', '.join(tags)}" if tags else f"{name} has no tags"
        raise BackboneError(f"{pretrained!r} is neither a tag nor a file; {known}.")


@final
class OpenClip(Backbone):
    """An open_clip model, of its own classes or on a trunk of timm.

    The instance is used as it is: device, precision, training flags and parameters stay the caller's.

    Args:
        model: what ``open_clip.create_model`` gives, also within ``DataParallel``, a compiled or an adapted model.
        tokenizer: what ``open_clip.get_tokenizer`` gives.
        name: how to call it in results.
        preprocess: how its images are prepared: open_clip's transform for evaluation, or a Preprocess; as the model itself
            says, by default.

    Raises:
        BackboneError: the vision tower is of no family that this adapter knows.
    """

    _prefix: str = guarded()
    _model: Any = guarded()

    def __init__(self, model: nn.Module, tokenizer: Any, name: str = "open_clip model", preprocess: Any = None) -> None:
        self.name, self.module, self.tokenizer = name, model, tokenizer
        self._prefix, self._model = self._inner()
        self.preprocess = read_transform(preprocess) if preprocess is not None else preprocess_of(self._model.visual)
        with first_run(name, self.preprocess.size, ADVICE):
            self.refresh()
        self.versions = {"open_clip_torch": version("open_clip_torch"), "torch": torch.__version__}

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the first layer: with open_clip's half precision, norms and positions stay in float32."""
        weights = (parameter for parameter in self._model.visual.parameters() if parameter.ndim == 4)
        dtype: torch.dtype = next(weights).dtype
        return dtype

    @property
    def scale(self) -> float:
        """The learned inverse temperature."""
        return learnt_scale(self._model)

    def resized(self, size: Size) -> OpenClip:
        """This model for another input size; positions are interpolated as the library of its tower does it."""
        model: Any = share(self._model)
        own_towers.resize(called(model.visual)[1], size)
        if hasattr(model.visual, "trunk"):
            timm_towers.resize(called(model.visual.trunk)[1], size)
        return OpenClip(hold(self._prefix, model), self.tokenizer, self.name, self.preprocess.resized(size))

    def averaged(self) -> Backbone:
        """This model with the mean of its patches instead of its class token, as in the Finer-CAM paper; it shares weights."""
        visual = self._model.visual
        if getattr(visual, "pool_type", None) != "tok" or getattr(visual, "attn_pool", None) is not None:
            return super().averaged()
        model: Any = share(self._model)
        model.visual.pool_type = "avg"
        return OpenClip(hold(self._prefix, model), self.tokenizer, f"{self.name}, average", self.preprocess)

    def embed_pixels(self, pixels: Float[Tensor, "B 3 height width"]) -> Float[Tensor, "_ E"]:
        """``model.encode_image``."""
        embedding: Tensor = self._model.encode_image(pixels, normalize=False)
        return embedding

    def embed_texts(self, sentences: Sequence[str]) -> Float[Tensor, "K E"]:
        """``model.encode_text`` of the tokenized sentences."""
        # Not on the caller's default device: a tokenizer makes tensors of its own.
        with torch.device("cpu"):
            tokens = self.tokenizer(list(sentences))
        if (reader := self.reader()) is not None:
            reader.check(sentences, tokens, self.name)
        tokens = tokens.to(self.device)
        embedding: Tensor = self._model.encode_text(tokens, normalize=False)
        return embedding

    def reader(self) -> Reader | None:
        """How texts are tokenized, by open_clip's tokenizers; None for any other."""
        given = self.tokenizer
        length = getattr(given, "context_length", None)
        inner = getattr(given, "tokenizer", None)
        if inner is not None and hasattr(inner, "unk_token_id"):
            # SigLipTokenizer has no setting of its own: what it does is fixed.
            clean = getattr(given, "clean_fn", None) or _siglip_clean if length else str
            added = 3 if getattr(given, "tokenizer_mode", "") == "clips" else inner.num_special_tokens_to_add()
            return Reader.of(inner, length and length - added, clean)
        if isinstance(given, open_clip.SimpleTokenizer):
            # Bytes: everything is known. Where it leaves out tokens at random, nothing is cut off.
            return Reader(given.encode, length - 2 if length and given.reduction_fn is None else None)
        return None

    def _inner(self) -> tuple[str, Any]:
        """The prefix of its layers' names, and the dual encoder within the module."""
        return only_one(self.module, is_dual_encoder, self.name) or ("", self.module)

    def describe(self) -> Tower:
        """The vision tower, of open_clip's own classes or of timm's."""
        self._prefix, self._model = self._inner()
        visual: Any = called(self._model.visual)[1]
        if hasattr(visual, "trunk"):
            _, trunk = called(visual.trunk)
            found = timm_towers.describe(trunk, "visual.trunk.", visual.head, self.embed_pixels, noise(self), whole=True)
        else:
            found = own_towers.describe(visual)
        tower = named_within(self.module, found)
        if tower is None:
            raise BackboneError(
                f"{self.name}: a vision tower of type {type(visual).__name__} is of no family that is known; "
                "`concept-cam models` lists them."
            )
        return tower

    def image_parts(self) -> tuple[nn.Module, ...]:
        """The vision tower."""
        return (self._model.visual,)

    def text_parts(self) -> tuple[nn.Module, ...]:
        """All submodules except the vision tower."""
        return tuple(child for child in self._model.children() if child is not self._model.visual)

    def probe_tokens(self) -> tuple[Any, ...]:
        """The tokens of a fixed sentence, and the tokenizer itself."""
        with torch.device("cpu"):
            return self.tokenizer, *self.tokenizer([PROBE]).flatten().tolist()


def _siglip_clean(text: str) -> str:
    cleaned: str = canonicalize_text(basic_clean(text))
    return cleaned


def is_dual_encoder(module: nn.Module) -> bool:
    """Whether a module is a dual encoder with the methods of open_clip."""
    return has_own(module, "encode_image") and has_own(module, "visual")


def preprocess_of(visual: Any) -> Preprocess:
    """The preprocessing that an open_clip vision tower states."""
    config = open_clip.get_model_preprocess_cfg(visual)
    size = config["size"]
    height, width = (size, size) if isinstance(size, int) else size[-2:]
    return Preprocess(
        size=(height, width),
        mean=tuple(config.get("mean") or open_clip.OPENAI_DATASET_MEAN),
        std=tuple(config.get("std") or open_clip.OPENAI_DATASET_STD),
        fit=_FIT[config.get("resize_mode") or "shortest"],
        interpolation=config.get("interpolation") or "bicubic",
        fill=config.get("fill_color") or 0,
    )
