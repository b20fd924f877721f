"""What a checkpoint says of itself in JSON, read before any library acts on it: what a model is, never how it is loaded."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from concept_cam.errors import BackboneError, one_line
from concept_cam.outside import parse_json, read_bytes

MOST_BYTES = 8 * 2**20
"""Of a file of settings; the names of 21,000 classes with their descriptions are 3 MB."""

MOST_TOKENIZER_BYTES = 96 * 2**20
"""Of a vocabulary; that of 256,000 pieces is 35 MB."""

TRANSFORMERS = (
    "config.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "adapter_config.json",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)
"""What transformers reads of a checkpoint."""

WEIGHTS = "model.safetensors"
"""Where transformers and timm look for weights first."""

OPEN_CLIP, TIMM = "open_clip_config.json", "config.json"

_VOCABULARIES = ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt", "added_tokens.json", "special_tokens_map.json")

_SETTINGS = ("config.json", ".index.json")
"""Endings of all other files of JSON that open_clip, timm and transformers look for."""

_LOADER = {
    "auto_map": "names code of its own",
    "custom_pipelines": "names code of its own",
    "trust_remote_code": "is the user's choice",
    "code_revision": "is the user's choice",
    "base_model_name_or_path": "names another model; merge the adapter, or load both yourself and wrap() them",
    "quantization_config": "names another way to load; quantized weights have no gradient",
    "use_pretrained_backbone": "names another model to download",
    "kernel_config": "names code of its own",
}
"""Keys that say how to load, and why they are refused, wherever they stand and unless they say nothing."""

_TOKENIZER_OPTIONS = frozenset(
    {
        "add_bos_token",
        "add_eos_token",
        "add_prefix_space",
        "additional_special_tokens",
        "clean",
        "do_lower_case",
        "language",
        "legacy",
        "padding_side",
        "strip_sep_token",
        "truncation_side",
        "use_fast",
    }
)
"""What open_clip's ``tokenizer_kwargs`` may hold."""

_TIMM_OPTIONS = frozenset(
    {
        "cache_dir",
        "checkpoint_path",
        "exportable",
        "feature_cfg",
        "features_only",
        "kwargs_filter",
        "model_cfg",
        "no_jit",
        "out_indices",
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "pretrained_filter_fn",
        "pretrained_model_args",
        "pretrained_strict",
        "scriptable",
    }
)
"""What timm's ``model_args`` may not hold: options of its loader."""

MOST: Mapping[str, int] = {
    "context_length": 8192,
    "depth": 1024,
    "image_size": 4096,
    "img_size": 4096,
    "layers": 1024,
    "num_classes": 2**20,
    "num_hidden_layers": 1024,
    "num_labels": 2**20,
    "num_layers": 1024,
    "size": 4096,
}
"""The largest number that a setting may name, alone or in a list; ``MOST_OF_ANY`` of others."""

MOST_OF_ANY = 2**24

_UNBOUNDED = frozenset({"model_max_length", "rope_theta"})
"""Settings of which real checkpoints have larger numbers, and for which no memory is asked."""

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def check_folder(folder: Path) -> None:
    """Read the settings in a checkpoint's folder; other JSON files, such as a log of its training, are read by nobody.

    Raises:
        BackboneError: one cannot be read, or holds what ``check_settings`` refuses.
    """
    for file in sorted(folder.iterdir()):
        if file.name in _VOCABULARIES or file.suffix == ".jinja":
            _check_size(file)
        elif file.name.endswith(_SETTINGS):
            check_settings(file)


def check_settings(file: Path) -> dict[str, Any]:
    """The settings in a file.

    Raises:
        BackboneError: it is no JSON object, is too large or too deep, chooses how the model is loaded, names a file elsewhere,
            or has a number that no model has.
    """
    try:
        found = parse_json(read_bytes(file, MOST_BYTES))
    except (OSError, ValueError) as error:
        raise BackboneError(f"{file}: these settings cannot be read ({one_line(error, 200)}).") from error
    if file.name.endswith(".index.json"):
        _check_shards(found, file)
        return {}
    if not isinstance(found, dict):
        raise BackboneError(f"{file}: expected a JSON object with the settings of a checkpoint.")
    for key, value in _entries(found):
        if reason := _refused(key, value):
            raise BackboneError(f"{file}: {key} {reason}; a checkpoint does not choose how it is loaded, take that out.")
        _check_number(key, value, file)
        if key.endswith(("_file", "_files")) and key != "special_tokens_map_file":
            _check_paths(key, value, file)
    return found


def _check_size(file: Path) -> None:
    if not file.is_file():
        raise BackboneError(f"{file}: it is no regular file; expected a part of a tokenizer.")
    if (size := file.stat().st_size) > MOST_TOKENIZER_BYTES:
        raise BackboneError(f"{file}: it has {size:,} bytes; at most {MOST_TOKENIZER_BYTES:,} are read.")


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """All keys with their values, at every level."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield key, one
            yield from _entries(one)
    elif isinstance(value, list):
        for one in value:
            yield from _entries(one)


def _refused(key: str, value: Any) -> str | None:
    """Why an option is none of a checkpoint's."""
    if key in _LOADER and value not in (None, False, {}, []):
        return _LOADER[key]
    if "attn_implementation" in key and "/" in str(value):
        return "names code to download"
    return None


def _check_number(key: str, value: Any, file: Path) -> None:
    most = MOST.get(key, MOST_OF_ANY)
    numbers = value if isinstance(value, list) else value.values() if key == "size" and isinstance(value, dict) else [value]
    kinds = (int, float) if key in MOST else (int,)
    largest = max((abs(one) for one in numbers if isinstance(one, kinds)), default=0)
    if largest > most and key not in _UNBOUNDED:
        raise BackboneError(f"{file}: {key} is {one_line(value, 60)}; a model may have at most {most:,} there.")


def _check_paths(key: str, value: Any, file: Path) -> None:
    for one in value if isinstance(value, list) else [value]:
        # Where a checkpoint was made there may have been such a file; what is not here is read by nobody.
        if isinstance(one, str) and leads_out(one) and Path(one).expanduser().exists():
            raise BackboneError(f"{file}: {key} names {one!r}, which is not in the checkpoint's folder; take that out.")


def leads_out(name: str) -> bool:
    """Whether a file's name leads out of the folder that it should lie in."""
    spelt = PurePosixPath(name), PureWindowsPath(name)
    return name.startswith("~") or any(path.is_absolute() or ".." in path.parts for path in spelt)


def _check_shards(found: Any, file: Path) -> None:
    shards = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise BackboneError(f"{file}: expected a weight_map with the file of each tensor.")
    for name in shards.values():
        if leads_out(name):
            raise BackboneError(f"{file}: weight_map names {name!r}, which is not in the checkpoint's folder.")


# ---- what each library reads ------------------------------------------------------------------------------------------


def check_open_clip(file: Path, settings: Mapping[str, Any], known: Callable[[str], bool]) -> str | None:
    """Look at ``open_clip_config.json``.

    Args:
        file: for messages.
        settings: what it says.
        known: whether a name is that of an architecture of timm.

    Returns:
        The model of transformers that it names as text tower, if it names any.

    Raises:
        BackboneError: it is not in open_clip's layout, or leads elsewhere.
    """
    model = _mapping(settings, "model_cfg", file)
    text, vision = _mapping(model, "text_cfg", file), _mapping(model, "vision_cfg", file)
    _mapping(settings, "preprocess_cfg", file, optional=True)
    options = _mapping(text, "tokenizer_kwargs", file, optional=True)
    if unknown := sorted(options.keys() - _TOKENIZER_OPTIONS):
        raise BackboneError(
            f"{file}: tokenizer_kwargs holds {unknown[0]!r}; a checkpoint does not choose how it is loaded. It may hold "
            f"{', '.join(sorted(_TOKENIZER_OPTIONS))}."
        )
    for one in (text, _mapping(model, "multimodal_cfg", file, optional=True)):
        check_hub_name(one.get("hf_tokenizer_name"), "hf_tokenizer_name", file)
        check_hub_name(one.get("hf_model_name"), "hf_model_name", file)
    check_architecture(vision.get("timm_model_name"), "timm_model_name", file, known)
    tower = text.get("hf_model_name")
    return tower if isinstance(tower, str) else None


def check_timm(file: Path, settings: Mapping[str, Any], known: Callable[[str], bool]) -> None:
    """Look at a ``config.json`` of timm.

    Args:
        file: its path, for the message.
        settings: its content.
        known: whether timm has an architecture of that name.

    Raises:
        BackboneError: it is not in timm's layout, or leads elsewhere.
    """
    check_architecture(settings.get("architecture"), "architecture", file, known)
    options = _mapping(settings, "model_args", file, optional=True)
    if refused := sorted(options.keys() & _TIMM_OPTIONS):
        raise BackboneError(f"{file}: model_args holds {refused[0]!r}; a checkpoint does not choose how it is loaded.")


def check_hub_name(name: Any, key: str, file: Path) -> None:
    """Raise BackboneError unless nothing is named, or a repository of the hub: no path, no address.

    Args:
        name: the value in the settings.
        key: the key of that value, for the message.
        file: the file of the settings, for the message.
    """
    if name not in (None, "") and not (isinstance(name, str) and _HUB_NAME.fullmatch(name) and ".." not in name):
        raise BackboneError(f"{file}: {key} is {one_line(name, 100)!r}; expected a repository's name, such as 'roberta-base'.")


def check_architecture(name: Any, key: str, file: Path, known: Callable[[str], bool]) -> None:
    """Raise BackboneError unless nothing is named, or an architecture of timm: no repository, no folder.

    Args:
        name: the value in the settings; a tag after a dot is not looked at.
        key: the key of that value, for the message.
        file: the file of the settings, for the message.
        known: whether timm has an architecture of that name.
    """
    if name is not None and not (isinstance(name, str) and known(name.partition(".")[0])):
        raise BackboneError(f"{file}: {key} is {one_line(name, 100)!r}; expected an architecture of timm, such as 'resnet50'.")


def _mapping(settings: Mapping[str, Any], key: str, file: Path, *, optional: bool = False) -> dict[str, Any]:
    found = settings.get(key)
    if found is None and optional:
        return {}
    if not isinstance(found, dict):
        raise BackboneError(f"{file}: {key} is {one_line(found, 60)!r}; expected a JSON object.")
    return found
