"""Dual encoders of transformers. With ``towers/transformers.py`` the only code that knows it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any, final

import torch
import transformers
from jaxtyping import Float
from torch import Tensor, nn

from concept_cam.backbones.archives import ENDINGS, check_weights
from concept_cam.backbones.backbone import PROBE, Backbone, noise
from concept_cam.backbones.classifier import Classifier
from concept_cam.backbones.confined import built_within, check_input, check_named, confined, downloaded
from concept_cam.backbones.guard import guarded
from concept_cam.backbones.names import told_apart
from concept_cam.backbones.processors import near_square
from concept_cam.backbones.scale import learnt_scale
from concept_cam.backbones.settings import TIMM, TRANSFORMERS, WEIGHTS, check_folder, check_settings, check_timm
from concept_cam.backbones.tower import Tower
from concept_cam.backbones.towers import timm as timm_towers, transformers as towers
from concept_cam.backbones.towers.positions import check_multiple
from concept_cam.backbones.transforms import read_transform
from concept_cam.backbones.weights import ADVICE, check_device, first_run
from concept_cam.backbones.words import Reader
from concept_cam.backbones.wrappers import has_own, named_within, only_one, outermost
from concept_cam.errors import BackboneError
from concept_cam.images import Preprocess, Size

_NAFLEX = "siglip2"
_FEWEST_WORDS = 20
"""The fewest tokens of a vocabulary; a tokenizer without its file has only the special ones."""


def load(name: str, device: str | torch.device = "cpu", classes: Iterable[str] | None = None) -> HuggingFace | Classifier:
    """Load a dual encoder or an image classifier by its name on the hub, or by its folder.

    Args:
        name: the name of a repository of the hub, or a folder.
        device: where the model runs.
        classes: for an image classifier, the name of each row of the last layer, in order; by default those of its config.

    Raises:
        BackboneError: no such model, neither of the two, files that have to be downloaded and cannot be, or a checkpoint that
            brings code or chooses how it is loaded.
    """
    check_device(device)
    local = Path(name).is_dir()
    with confined(name, local=local):
        explained = _explained(name, local)
        config: Any = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
        classifies = _classifies(config)
        if classes is not None and not classifies:
            raise BackboneError(f"{name} is no image classifier, so that classes= is not for it; leave out classes.")
        kind = transformers.AutoModelForImageClassification if classifies else transformers.AutoModel
        if not classifies:
            _check_kind(config, name)
        with explained:
            model, about = kind.from_pretrained(name, output_loading_info=True, trust_remote_code=False)
        tokenizer: Any = None if classifies else transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        images = transformers.AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
        _check_complete(about["missing_keys"], name)
        check_input(name, read_transform(images).size)
        model = model.to(device).eval().requires_grad_(False)
        if classifies:
            return Classifier(model, labels(model) if classes is None else classes, images, name)
        if len(tokenizer) < _FEWEST_WORDS:
            raise BackboneError(
                f"{name}: its tokenizer has {len(tokenizer)} words; expected tokenizer.json beside the weights."
            )
        return HuggingFace(model, tokenizer, images, name)


def _explained(name: str, local: bool) -> AbstractContextManager[None]:
    """Check the configuration of a checkpoint; within the context, a model may not need much more than its weights explain."""
    if local:
        check_folder(Path(name))
        files = {file.name: check_settings(file) for file in Path(name).iterdir() if file.name in TRANSFORMERS}
    else:
        files = check_named(name, TRANSFORMERS)
    if "architecture" in files.get(TIMM, {}):
        check_timm(Path(name) / TIMM, files[TIMM], timm_towers.is_known)
    if not local:
        # Shards of one model, and pickles, are left to transformers.
        weights = downloaded(name, WEIGHTS)
        return nullcontext() if weights is None else built_within(name, check_weights([weights]))
    return built_within(name, check_weights(file for file in sorted(Path(name).iterdir()) if file.suffix in ENDINGS))


def _check_complete(missing: Iterable[str], name: str) -> None:
    """Refuse a model of which some tensors have no weights, of which transformers itself only warns."""
    if lacks := sorted(missing):
        raise BackboneError(f"{name} has no weights for {len(lacks)} of its tensors ({', '.join(lacks[:3])}, ...).")


def _check_kind(config: Any, name: str) -> None:
    """Refuse what is no dual encoder before it is built: its class says so."""
    found = transformers.MODEL_MAPPING.get(type(config), None)
    kinds = found if isinstance(found, list | tuple) else (found,)
    if not any(hasattr(kind, "get_image_features") and hasattr(kind, "get_text_features") for kind in kinds):
        kind = getattr(kinds[0], "__name__", type(config).__name__)
        raise BackboneError(f"{name} is a {kind}, no dual encoder of images and texts and no classifier.")


def _classifies(config: Any) -> bool:
    """Whether a checkpoint is an image classifier, not its trunk alone or anything else."""
    names = getattr(config, "architectures", None) or ()
    return config.model_type == "timm_wrapper" or any("ForImageClassification" in name for name in names)


def is_dual_encoder(module: nn.Module) -> bool:
    """Whether a module is a dual encoder with the methods of transformers."""
    return has_own(module, "get_image_features") and has_own(module, "get_text_features")


def labels(model: nn.Module) -> tuple[str, ...]:
    """The class names of an image classifier of transformers, also within another module; of any other model none."""
    for _, found in outermost(model, lambda module: "ForImageClassification" in type(module).__name__):
        config: Any = getattr(found, "config", None)
        if names := getattr(config, "id2label", None):
            return told_apart([str(names[row]) for row in sorted(names, key=int)])
    return ()


@final
class HuggingFace(Backbone):
    """A dual encoder of transformers: what has ``get_image_features`` and ``get_text_features``.

    The instance is used as it is. SigLIP 2's NaFlex models get images at their native aspect, as they were trained.

    Args:
        model: what ``AutoModel.from_pretrained`` gives, also within ``DataParallel``, a compiled or an adapted model.
        tokenizer: its tokenizer, or its processor.
        preprocess: its image processor, its processor, or a Preprocess; that of the processor by default, or else what its
            family is trained with. A processor whose pixels are not Pillow's is run on each image.
        name: how to call it in results.

    Raises:
        BackboneError: its vision tower keeps no grid, or has none.
    """

    _prefix: str = guarded()
    _model: Any = guarded()

    def __init__(self, model: nn.Module, tokenizer: Any, preprocess: Any = None, name: str = "transformers model") -> None:
        self.name, self.module = name, model
        self._prefix, self._model = self._inner()
        self.tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
        config: Any = self._model.config
        self._kind: str = config.model_type
        given = getattr(tokenizer, "image_processor", None) if preprocess is None else preprocess
        self.preprocess = read_transform(given) if given is not None else _of_family(config, name)
        with first_run(name, self.preprocess.size, ADVICE):
            self.refresh()
        self.versions = {"transformers": version("transformers"), "torch": torch.__version__}

    def _inner(self) -> tuple[str, Any]:
        """The prefix of its layers' names, and the dual encoder within the module."""
        return only_one(self.module, is_dual_encoder, self.name) or ("", self.module)

    def describe(self) -> Tower:
        """The vision tower."""
        self._prefix, self._model = self._inner()
        tower = named_within(self.module, towers.describe(self._model, self.embed_pixels, noise(self)))
        if tower is None:
            kind = type(self._model).__name__
            raise BackboneError(f"{self.name}: {kind} has no vision tower with a grid; see `concept-cam models`.")
        return tower

    def image_parts(self) -> tuple[nn.Module, ...]:
        """The vision tower and its projection."""
        return self._children("vision_model", "visual_projection")

    def text_parts(self) -> tuple[nn.Module, ...]:
        """The text tower and its projection."""
        return self._children("text_model", "text_projection")

    def _children(self, *names: str) -> tuple[nn.Module, ...]:
        return tuple(child for name, child in self._model.named_children() if name in names)

    def probe_tokens(self) -> tuple[Any, ...]:
        """The tokens of a fixed sentence, and the tokenizer itself."""
        return self.tokenizer, *self.tokenizer(PROBE)["input_ids"]

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the first layer of the vision tower."""
        dtype: torch.dtype = next(getattr(self._model, "vision_model", self._model).parameters()).dtype
        return dtype

    @property
    def scale(self) -> float:
        """The learned inverse temperature."""
        return learnt_scale(self._model)

    def embed_pixels(self, pixels: Float[Tensor, "B 3 height width"]) -> Float[Tensor, "_ E"]:
        """``model.get_image_features``."""
        if self._kind == _NAFLEX:
            return _tensor(self._model.get_image_features(**_patches(pixels, self._model.config.vision_config.patch_size)))
        own = _sides(self._model.config)
        # Positions for another size are interpolated by transformers itself, in the run.
        options = {} if own in (None, tuple(pixels.shape[2:])) else {"interpolate_pos_encoding": True}
        return _tensor(self._model.get_image_features(pixel_values=pixels, **options))

    def embed_texts(self, sentences: Sequence[str]) -> Float[Tensor, "K E"]:
        """``model.get_text_features`` of the tokenized sentences, padded as the family was trained."""
        options: dict[str, Any] = {"truncation": True, "max_length": self._context(), "return_tensors": "pt"}
        whole = self._is_siglip()
        options |= {"padding": "max_length", "padding_side": "right"} if whole else {"padding": True}
        # Not on the caller's default device: a tokenizer makes tensors of its own.
        with torch.device("cpu"):
            tokens = self.tokenizer([self._cleaned(sentence) for sentence in sentences], **options)
        self.reader().check(sentences, tokens["input_ids"], self.name)
        tokens = tokens.to(self.device)
        # SigLIP is trained without a mask: the last position is read, be it padding.
        mask = {} if whole else {"attention_mask": tokens["attention_mask"]}
        return _tensor(self._model.get_text_features(input_ids=tokens["input_ids"], **mask))

    def reader(self) -> Reader:
        """How texts are tokenized; for SigLIP in lower case, as it was trained."""
        limit = self._context() - self.tokenizer.num_special_tokens_to_add()
        return Reader.of(self.tokenizer, limit, self._cleaned)

    def _is_siglip(self) -> bool:
        return self._kind in ("siglip", _NAFLEX)

    def _cleaned(self, text: str) -> str:
        return text.lower() if self._is_siglip() else text

    def _context(self) -> int:
        """The largest number of tokens of a text."""
        text = getattr(self._model.config, "text_config", self._model.config)
        most = getattr(text, "max_position_embeddings", self.tokenizer.model_max_length)
        # RoBERTa's positions begin after that of the padding.
        beyond = text.pad_token_id + 1 if self._kind == "altclip" else 0
        return min(int(most) - beyond, int(self.tokenizer.model_max_length))

    def resized(self, size: Size) -> HuggingFace:
        """This model for another input size: the same module, which interpolates its positions as it runs."""
        check_multiple(size, (self.preprocess.stride, self.preprocess.stride))
        return HuggingFace(self.module, self.tokenizer, self.preprocess.resized(size), self.name)


def _tensor(features: Any) -> Tensor:
    """The embedding: version 5 of transformers wraps it in an output or a tuple; FLAVA returns one for each token."""
    if isinstance(features, tuple):
        features = features[1]
    out: Tensor = features if isinstance(features, Tensor) else features.pooler_output
    return out[:, 0] if out.ndim == 3 else out


def _patches(pixels: Float[Tensor, "B 3 height width"], side: int) -> dict[str, Tensor]:
    """The input of NaFlex: patches row by row, each in the order rows, columns, channels; without padding."""
    count, channels, height, width = pixels.shape
    rows, cols = height // side, width // side
    patches = pixels.reshape(count, channels, rows, side, cols, side).permute(0, 2, 4, 3, 5, 1)
    return {
        "pixel_values": patches.reshape(count, rows * cols, side * side * channels),
        "pixel_attention_mask": torch.ones(count, rows * cols, dtype=torch.int32, device=pixels.device),
        "spatial_shapes": torch.tensor([[rows, cols]] * count, device=pixels.device, dtype=torch.int64),
    }


def _sides(config: Any) -> Size | None:
    """The input size that a model was built for; None if it has none."""
    size = getattr(getattr(config, "vision_config", None), "image_size", None)
    if size is None or config.model_type == "align":
        return None
    return (size, size) if isinstance(size, int) else (size[0], size[1])


# ---- images ---------------------------------------------------------------------------------------------------------

_OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_AS_CLIP = ("clip", "metaclip_2", "altclip", "chinese_clip", "groupvit", "aimv2")
"""Families with the processor of CLIP."""


def _of_family(config: Any, name: str) -> Preprocess:
    """The preprocessing that a family is trained with.

    Raises:
        BackboneError: it is not known for this family.
    """
    kind = config.model_type
    if kind == _NAFLEX:
        vision = config.vision_config
        size = near_square(vision.num_patches, vision.patch_size)
        return Preprocess(size, (0.5,) * 3, (0.5,) * 3, "native", "bilinear", stride=vision.patch_size)
    sides = _sides(config) or (getattr(getattr(config, "vision_config", None), "image_size", 224),) * 2
    if kind in ("siglip", "align"):
        return Preprocess(sides, (0.5,) * 3, (0.5,) * 3, "squash")
    if kind in _AS_CLIP:
        return Preprocess(sides, *_OPENAI)
    if kind in ("blip", "flava"):
        return Preprocess(sides, *_OPENAI, "squash")
    if kind == "clipseg":
        return Preprocess(sides, *_IMAGENET, "squash", "bilinear")
    raise BackboneError(
        f"{name}: how images are prepared for a model of the family {kind} of transformers is in its processor; give that as "
        "preprocess=, such as AutoImageProcessor.from_pretrained(...)."
    )
