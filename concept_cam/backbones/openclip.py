"""open_clip's dual encoders. This file alone knows open_clip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, final

import open_clip
import torch
from jaxtyping import Float
from torch import Tensor, nn

from concept_cam.backbones.backbone import Backbone, Tower, share
from concept_cam.backbones.towers import openclip as own_towers
from concept_cam.backbones.towers import timm as timm_towers
from concept_cam.errors import BackboneError, UnknownWord, did_you_mean
from concept_cam.images import Fit, Preprocess, Size

_FIT: dict[str, Fit] = {"shortest": "crop", "longest": "pad", "squash": "squash"}
"""open_clip's words for how a picture is brought to the input's aspect, and ours."""


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
    """An open_clip model, of its own classes or on a trunk of timm.

    The instance is used as it is: device, precision, training flags and parameters stay the caller's.

    Args:
        model: what ``open_clip.create_model`` gives.
        tokenizer: what ``open_clip.get_tokenizer`` gives.
        name: how to call it in results.
        preprocess: how its pictures are prepared; as the model itself says, by default.

    Raises:
        BackboneError: the vision tower is of no family that this adapter knows.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Any, name: str = "open_clip model", preprocess: Preprocess | None = None
    ) -> None:
        tower = _describe(model)
        if tower is None:
            kind = type(getattr(model, "visual", model)).__name__
            raise BackboneError(
                f"{name}: a vision tower of type {kind} is of no family that is known; `concept-cam models` lists them."
            )
        if any(parameter.is_inference() for parameter in model.parameters()):
            raise BackboneError(f"{name} was built inside torch.inference_mode(), so it has no gradients; build it outside.")
        self.name, self.module, self.tokenizer = name, model, tokenizer
        self._model: Any = model
        self.family, self.sites = tower.family, tower.sites
        self.preprocess = preprocess or _preprocess(model, tower.stride)
        self.versions = {"open_clip_torch": version("open_clip_torch"), "torch": torch.__version__}

    @property
    def dtype(self) -> torch.dtype:
        """That of the first layer: with open_clip's half precision, norms and positions stay in float32."""
        weights = (parameter for parameter in self._model.visual.parameters() if parameter.ndim == 4)
        dtype: torch.dtype = next(weights).dtype
        return dtype

    def _resized(self, size: Size) -> OpenClip:
        model: Any = share(self.module)
        own_towers.resize(model.visual, size)
        if hasattr(model.visual, "trunk"):
            timm_towers.resize(model.visual.trunk, size)
        return OpenClip(model, self.tokenizer, self.name, self.preprocess.resized(size))

    def embed_pixels(self, pixels: Float[Tensor, "B 3 height width"]) -> Float[Tensor, "B E"]:
        """``model.encode_image``."""
        embedding: Tensor = self._model.encode_image(pixels, normalize=False)
        return embedding

    def embed_texts(self, sentences: Sequence[str]) -> Float[Tensor, "K E"]:
        """``model.encode_text`` of the tokenized sentences."""
        self._check_words(sentences)
        tokens = self.tokenizer(list(sentences)).to(self.device)
        embedding: Tensor = self._model.encode_text(tokens, normalize=False)
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


def _describe(model: nn.Module) -> Tower | None:
    visual = getattr(model, "visual", None)
    if visual is None:
        return None
    if hasattr(visual, "trunk"):
        return timm_towers.describe(visual.trunk, "visual.trunk", visual.head)
    return own_towers.describe(visual)


def _preprocess(model: nn.Module, stride: int) -> Preprocess:
    config = open_clip.get_model_preprocess_cfg(model)
    size = config["size"]
    height, width = (size, size) if isinstance(size, int) else size[-2:]
    return Preprocess(
        size=(height, width),
        mean=tuple(config.get("mean") or open_clip.OPENAI_DATASET_MEAN),
        std=tuple(config.get("std") or open_clip.OPENAI_DATASET_STD),
        fit=_FIT[config.get("resize_mode") or "shortest"],
        interpolation=config.get("interpolation") or "bicubic",
        fill=config.get("fill_color") or 0,
        stride=stride,
    )
