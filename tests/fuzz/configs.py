"""Checkpoint folders whose settings are damaged or hostile; they are loaded."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

from zoo import checkpoints

import concept_cam
from fuzz.results import HOSTILE, damaged

_NUMBERS = (-1, 0, 1, 3, 7, 10**6, 10**9, 2**31, 2**63, 10**400, 0.5, 1e9, float("nan"))

_KEYS: dict[str, tuple[Any, ...]] = {
    "auto_map": ({"AutoModel": "evil.Evil", "AutoTokenizer": ["evil.Evil", None]}, ["evil.Evil", None], None),
    "trust_remote_code": (True, "yes", False),
    "tokenizer_kwargs": ({"trust_remote_code": True}, {"clean": "evil"}, []),
    "hf_model_name": ("../..", "/etc", "nobody/nothing", "https://example.org", ""),
    "hf_tokenizer_name": ("../..", "nobody/nothing"),
    "timm_model_name": ("local-dir:/etc", "hf-hub:nobody/nothing", "resnet10t", "test_vit"),
    "architecture": ("local-dir:/etc", "hf-hub:nobody/nothing", "resnet10t", "test_resnet", ""),
    "model_type": ("evil", "bert", "clip", "siglip", "timm_wrapper", "vit"),
    "tokenizer_class": ("Evil", "AutoModel", "pipeline", "CLIPTokenizer", "GPT2TokenizerFast"),
    "tokenizer_file": ("/etc/passwd", "../../x"),
    "image_processor_type": ("Evil", "SiglipImageProcessor"),
    "custom_text": (True,),
    "model_args": ({"depth": 10**6}, {"checkpoint_path": "/etc/passwd"}, {"img_size": 10**6}, {"features_only": True}),
    "attn_implementation": ("nobody/evil", "flash_attention_2"),
    "quantization_config": ({"quant_method": "bitsandbytes"},),
}


@cache
def _whole() -> tempfile.TemporaryDirectory[str]:
    """A folder of each layout, made once and removed at the end."""
    root = tempfile.TemporaryDirectory()
    for name, make in checkpoints.LAYOUTS.items():
        make(Path(root.name) / name)
    return root


def case(rng: random.Random, folder: Path) -> Callable[[], object]:
    """A damaged folder; it is loaded by its name."""
    layout = rng.choice(list(checkpoints.LAYOUTS))
    place = folder / "checkpoint"
    shutil.copytree(Path(_whole().name) / layout, place)
    if rng.random() < 0.1:
        (weights,) = place.glob("*.safetensors")
        weights.write_bytes(damaged(rng, weights.read_bytes()))
    settings = sorted(file for file in place.iterdir() if file.suffix == ".json")
    file = rng.choice([one for one in settings if one.name != "tokenizer.json"] * 3 + settings)
    rng.choice((_number, _number, _number, _value, _value, _named, _named, _text))(rng, file)
    return lambda: concept_cam.load(str(place))


def _places(value: Any, numbers: bool) -> list[tuple[Any, Any]]:
    """What holds a value, and its key, wherever there is one."""
    found: list[tuple[Any, Any]] = []
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        if not numbers or (isinstance(value[key], int | float) and not isinstance(value[key], bool)):
            found.append((value, key))
        found += _places(value[key], numbers)
    return found


def _number(rng: random.Random, file: Path) -> None:
    _put(rng, file, _NUMBERS, numbers=True)


def _value(rng: random.Random, file: Path) -> None:
    _put(rng, file, HOSTILE, numbers=False)


def _put(rng: random.Random, file: Path, values: tuple[Any, ...], *, numbers: bool) -> None:
    settings = json.loads(file.read_text())
    for _ in range(rng.choice((1, 1, 2, 4))):
        places = _places(settings, numbers)
        if places:
            held, key = rng.choice(places)
            if not numbers and isinstance(held, dict) and rng.random() < 0.2:
                del held[key]
            else:
                held[key] = deepcopy(rng.choice(values))
    file.write_text(json.dumps(settings))


def _named(rng: random.Random, file: Path) -> None:
    """A setting that libraries act on, somewhere."""
    settings = json.loads(file.read_text())
    holders = [settings, *(held[key] for held, key in _places(settings, numbers=False) if isinstance(held[key], dict))]
    key = rng.choice(list(_KEYS))
    rng.choice([one for one in holders if isinstance(one, dict)])[key] = deepcopy(rng.choice(_KEYS[key]))
    file.write_text(json.dumps(settings))


def _text(rng: random.Random, file: Path) -> None:
    """No JSON, or too much of it."""
    text = file.read_text()
    cut = rng.randrange(len(text))
    file.write_bytes(
        rng.choice(
            (
                text[:cut].encode(),
                b"",
                b"[" * 200_000,
                b'{"a":' * 50_000,
                b"null",
                b"[]",
                text.encode("utf-16"),
                b"\xff\xfe" + text.encode(),
                text.encode() * 2,
                b"{" + b'"a": 1, ' * 100_000 + text.encode()[1:],
                b" " * (9 * 2**20) + text.encode(),
            )
        )
    )
