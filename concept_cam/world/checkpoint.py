"""The embedded encoder on disk: where it lies, its architecture and its words, in open_clip's ``local-dir:`` layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concept_cam.errors import BackboneError
from concept_cam.world.captions import words
from concept_cam.world.renderer import SIZE

if TYPE_CHECKING:
    from torch import Tensor, nn

FOLDER = Path(__file__).parent / "checkpoint"
WEIGHTS = "open_clip_model.safetensors"
SHORTCUT = Path(__file__).parent / "shortcut.safetensors"
"""The weights of an encoder that has learnt shortcuts; see ``shortcut_training``."""
LAST_BLOCK = Path(__file__).parent / "last-block.safetensors"
"""The weights of an encoder that was trained to collect its evidence in the last block; ``training --last-block``."""
PATCH = 8
WIDTH = 192
CONTEXT = 40
MEAN, STD = 0.5, 0.25


def write_configuration(folder: Path) -> None:
    """Write architecture, preprocessing and tokenizer, all that is needed to build the model with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = _write_tokenizer(folder)
    config: dict[str, Any] = {
        "model_cfg": {
            "embed_dim": WIDTH,
            "vision_cfg": {"image_size": SIZE, "layers": 6, "width": WIDTH, "head_width": 32, "patch_size": PATCH},
            "text_cfg": {
                "context_length": CONTEXT,
                "vocab_size": ids,
                "width": 128,
                "heads": 4,
                "layers": 3,
                # Any name will do: with local-dir: open_clip reads the tokenizer beside this file.
                "hf_tokenizer_name": "local",
                "pad_id": 0,
            },
        },
        "preprocess_cfg": {
            "mean": [MEAN] * 3,
            "std": [STD] * 3,
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")


def _write_tokenizer(folder: Path) -> int:
    """Write a tokenizer of whole words; returns how many ids it has."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    # The text tower pools at the largest id of a sentence: <end> comes last.
    ids = {word: i for i, word in enumerate(["<pad>", "<unk>", *words(), "<start>", "<end>"])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))  # noqa: S106  (not a password)
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation("removed")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", ids["<start>"]), ("<end>", ids["<end>"])]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "bos_token": "<start>",
        "eos_token": "<end>",
        "model_max_length": CONTEXT,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    return len(ids)


def write_weights(file: Path, state: Mapping[str, Tensor]) -> None:
    """Write a state dict as float16 safetensors."""
    from safetensors.torch import save_file

    save_file({name: tensor.half().contiguous() for name, tensor in state.items()}, file)
    file.chmod(0o644)


def apply_weights(file: Path, module: nn.Module) -> None:
    """Give an encoder of the embedded world the weights of another, on its device and in its precision.

    Raises:
        BackboneError: the file cannot be read, or holds something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        module.load_state_dict(load_file(file))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise BackboneError(f"{file}: no weights of the embedded encoder ({' '.join(str(error).split())[:200]}).") from error
