"""Checkpoint folders as each library lays them out, tiny and whole; tests damage copies of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import timm
import torch
import transformers
from safetensors.torch import save_file

from concept_cam.world.checkpoint import FOLDER
from zoo import transformers_models
from zoo.shake import shaken


def openclip(folder: Path) -> Path:
    """open_clip's layout: the embedded world's own encoder."""
    shutil.copytree(FOLDER, folder)
    return folder


def dual_encoder(folder: Path) -> Path:
    """transformers' layout: a CLIP."""
    transformers_models.clip().float().save_pretrained(folder)
    transformers_models.tokenizer().save_pretrained(folder)
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor.save_pretrained(folder)
    return folder


def classifier(folder: Path) -> Path:
    """transformers' layout: a ViT with three classes."""
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = transformers.ViTConfig(image_size=32, patch_size=8, **size, id2label={0: "finch", 1: "jay", 2: "owl"})
    shaken(lambda: transformers.ViTForImageClassification(config)).float().save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def of_timm(folder: Path) -> Path:
    """timm's layout: three classes."""
    folder.mkdir()
    own = {"input_size": [3, 160, 160], "num_classes": 3, "label_names": ["finch", "jay", "owl"]}
    settings = {"architecture": "test_vit", "num_classes": 3, "num_features": 64, "pretrained_cfg": own, "model_args": {}}
    (folder / "config.json").write_text(json.dumps(settings))
    with torch.random.fork_rng():
        save_file(timm.create_model("test_vit", num_classes=3).state_dict(), folder / "model.safetensors")
    return folder


LAYOUTS = {"open_clip": openclip, "dual encoder": dual_encoder, "classifier": classifier, "timm": of_timm}


def changed(file: Path, **changes: object) -> None:
    """Write other values into a JSON file; a name with dots leads into what it holds."""
    settings = json.loads(file.read_text()) if file.exists() else {}
    for name, value in changes.items():
        *way, last = name.split(".")
        held = settings
        for key in way:
            held = held.setdefault(key, {})
        held[last] = value
    file.write_text(json.dumps(settings))


def in_cache(hub: Path, name: str, folder: Path) -> str:
    """Put a folder where the client of the hub keeps what it has downloaded, as a repository of that name."""
    place, commit = hub / "hub" / f"models--{name.replace('/', '--')}", "0" * 40
    shutil.copytree(folder, place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    lacks = place / ".no_exist" / commit
    lacks.mkdir(parents=True)
    for file in ("config.json", "added_tokens.json", "special_tokens_map.json", "chat_template.jinja"):
        if not (folder / file).exists():
            (lacks / file).touch()
    return name
