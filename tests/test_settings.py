"""Settings of checkpoints: what is refused, in one line that names file and key, before any memory is asked for."""

from __future__ import annotations

import json
import os
import resource
import struct
import time
import zipfile

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import dynamic_module_utils
from zoo import checkpoints
from zoo.checkpoints import changed

from concept_cam import load
from concept_cam.backbones.archives import check_weights
from concept_cam.backbones.confined import built_within, check_named, confined
from concept_cam.backbones.settings import MOST_BYTES, leads_out
from concept_cam.errors import BackboneError

_TEXT, _VISION = "model_cfg.text_cfg", "model_cfg.vision_cfg"

TOO_LARGE = {
    "wide": ("open_clip", "open_clip_config.json", {f"{_VISION}.width": 10**6, f"{_VISION}.head_width": 10**6}, "much larger"),
    "wider than any": ("open_clip", "open_clip_config.json", {f"{_VISION}.width": 10**9}, "width is 1000000000; a model may"),
    "deep": (
        "open_clip",
        "open_clip_config.json",
        {f"{_VISION}.layers": 10**6},
        "layers is 1000000; a model may have at most 1,024",
    ),
    "many words": ("open_clip", "open_clip_config.json", {f"{_TEXT}.vocab_size": 10**7}, "much larger than its weights"),
    "a long text": ("open_clip", "open_clip_config.json", {f"{_TEXT}.context_length": 10**6}, "context_length is 1000000"),
    "a large image": ("open_clip", "open_clip_config.json", {f"{_VISION}.image_size": 10**5}, "image_size is 100000"),
    "fine patches": (
        "open_clip",
        "open_clip_config.json",
        {f"{_VISION}.image_size": 4096, f"{_VISION}.patch_size": 1},
        "much larger than its weights",
    ),
    "blocks of a ResNet": ("open_clip", "open_clip_config.json", {f"{_VISION}.layers": [10**9] * 4}, "layers is"),
    "negative": ("open_clip", "open_clip_config.json", {f"{_VISION}.width": -192}, "could not be loaded"),
    "no text": ("open_clip", "open_clip_config.json", {_TEXT: None}, "text_cfg is 'None'; expected a JSON object"),
    "a wide dual encoder": (
        "dual encoder",
        "config.json",
        {"text_config.hidden_size": 2**20},
        "much larger|could not be loaded",
    ),
    "a deep dual encoder": ("dual encoder", "config.json", {"vision_config.num_hidden_layers": 10**6}, "num_hidden_layers is"),
    "many labels": ("classifier", "config.json", {"num_labels": 10**9, "id2label": None}, "num_labels is 1000000000"),
    "large images": ("classifier", "preprocessor_config.json", {"size": {"height": 10**6, "width": 10**6}}, "size is"),
    "deep, of timm": ("timm", "config.json", {"model_args": {"depth": 10**6}}, "depth is 1000000"),
    "wide, of timm": (
        "timm",
        "config.json",
        {"model_args": {"embed_dim": 2**16, "num_heads": 1}},
        "much larger than its weights",
    ),
    "a large image, of timm": ("timm", "config.json", {"model_args": {"img_size": 10**6}}, "img_size is 1000000"),
}


@pytest.mark.parametrize("case", TOO_LARGE)
def test_what_asks_for_more_than_its_weights_explain_is_not_built(case, tmp_path):
    layout, file, changes, message = TOO_LARGE[case]
    folder = checkpoints.LAYOUTS[layout](tmp_path / "folder")
    changed(folder / file, **changes)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(BackboneError, match=message) as refused:
        load(str(folder))
    assert "\n" not in str(refused.value)
    assert time.monotonic() - start < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1024 * 1024


NO_SETTINGS = {
    "empty": (b"", "these settings cannot be read"),
    "a list": (b"[]", "expected a JSON object with the settings"),
    "no JSON": (b"\x1b[31m{", "these settings cannot be read"),
    "deep": (b'{"a":' * 100_000, "more than 64 levels deep"),
    "no number": (b'{"a": NaN}', "NaN is no number of JSON"),
    "infinite": (b'{"a": 1e999}', "1e999 is too large a number"),
    "long": (b" " * (MOST_BYTES + 1), "at most 8,388,608 are read"),
}


@pytest.mark.parametrize("case", NO_SETTINGS)
def test_what_is_no_settings_file_is_named(case, tmp_path):
    content, message = NO_SETTINGS[case]
    folder = checkpoints.openclip(tmp_path / "folder")
    (folder / "open_clip_config.json").write_bytes(content)
    with pytest.raises(BackboneError, match=rf"open_clip_config\.json: .*{message}") as refused:
        load(f"local-dir:{folder}")
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("name", ["open_clip_config.json", "tokenizer.json", "config.json", "open_clip_model.safetensors"])
def test_a_pipe_is_not_waited_for(name, tmp_path):
    folder = checkpoints.openclip(tmp_path / "folder")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(BackboneError, match=r"no regular file|no open_clip_config\.json in that folder"):
        load(f"local-dir:{folder}")


def test_a_pipe_as_a_file_of_weights_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "weights.pth")
    for model in ("test_vit", "ViT-B-32"):
        with pytest.raises(BackboneError, match=r"no regular file|no file and no tag"):
            load(model, str(tmp_path / "weights.pth"))


def test_paths_that_lead_out():
    assert not any(map(leads_out, ("model.safetensors", "a/b.json", "..a", "c")))
    assert all(map(leads_out, ("/etc/passwd", "../x", "a/../../x", "~/x", "C:\\x", "..\\x", "\\\\host\\x")))


def test_settings_of_real_checkpoints_are_allowed(tmp_path):
    """What checkpoints of the hub say that does not choose how they are loaded."""
    folder = checkpoints.openclip(tmp_path / "open_clip")
    real = {f"{_TEXT}.tokenizer_kwargs": {"clean": "canonicalize"}, f"{_TEXT}.hf_tokenizer_name": "timm/ViT-B-16-SigLIP"}
    changed(folder / "open_clip_config.json", **real)
    changed(
        folder / "tokenizer_config.json",
        special_tokens_map_file="/somewhere/else/special_tokens_map.json",
        name_or_path="/somewhere/else",
        model_max_length=1000000000000000019884624838656,
    )
    assert load(f"local-dir:{folder}").sites
    folder = checkpoints.dual_encoder(tmp_path / "transformers")
    changed(folder / "config.json", _name_or_path="/somewhere/else", attn_implementation="sdpa")
    assert load(str(folder)).sites
    folder = checkpoints.of_timm(tmp_path / "timm")
    changed(folder / "config.json", **{"pretrained_cfg.custom_load": True, "pretrained_cfg.url": "https://example.org/x.pth"})
    assert load(str(folder)).sites


@pytest.mark.parametrize("layout", checkpoints.LAYOUTS)
def test_what_nobody_reads_of_a_folder_refuses_nothing(layout, tmp_path):
    """What training leaves beside the weights."""
    folder = checkpoints.LAYOUTS[layout](tmp_path / "folder")
    (folder / "labels.json").write_text(json.dumps(["ant", "bee"]))
    (folder / "trainer_state.json").write_text(json.dumps({"num_input_tokens_seen": 10**12, "log": ["x" * 100] * 10**5}))
    (folder / "notes.json").write_bytes(b"\x1b[31m{")
    assert load(str(folder)).sites


def test_a_repository_is_read_as_a_folder_is(tmp_path, monkeypatch):
    """Its settings are in the cache of the hub, where they were downloaded."""
    folder = checkpoints.dual_encoder(tmp_path / "folder")
    changed(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]})
    monkeypatch.setattr("concept_cam.backbones.confined.cached_file", lambda name, file, **_: str(folder / file))
    with pytest.raises(BackboneError, match=r"tokenizer_config\.json: auto_map names code"):
        check_named("somebody/something", ["config.json", "tokenizer_config.json"])


# ---- weights ----------------------------------------------------------------------------------------------------------


def _header(path, text, length=None):
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text)


def test_weights_that_declare_what_they_have_not(tmp_path):
    file = tmp_path / "a.safetensors"
    for length in (0, 2**40, 2**63, 2**64 - 1):
        _header(file, b"{}" + b" " * 64, length)
        with pytest.raises(BackboneError, match="its header would have"):
            check_weights([file])
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(2**26))
    with pytest.raises(BackboneError, match="it would unpack"):
        check_weights([tmp_path / "bomb.pth"])


@pytest.mark.parametrize("damage", ["terabytes", "other shapes", "cut"])
def test_weights_that_do_not_fit_are_one_line(damage, tmp_path):
    folder = checkpoints.openclip(tmp_path / "folder")
    file = folder / "open_clip_model.safetensors"
    if damage == "terabytes":
        _header(file, json.dumps({"logit_scale": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode())
    elif damage == "other shapes":
        state = load_file(file)
        save_file({name: torch.zeros(3, 1) for name in state}, file)
    else:
        file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(BackboneError, match=r"could not be loaded|cannot be read") as refused:
        load(f"local-dir:{folder}")
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize("layout", ["open_clip", "timm"])
def test_a_number_that_is_repeated_into_a_huge_tensor_costs_nothing(layout, tmp_path):
    """Four bytes in a pickle can have any shape, and libraries interpolate positions before they look at shapes."""
    folder = checkpoints.LAYOUTS[layout](tmp_path / "folder")
    (file,) = folder.glob("*.safetensors")
    state = load_file(file)
    for name in ("visual.positional_embedding", "positional_embedding", "pos_embed"):
        if name in state:
            shape = (*state[name].shape[:-2], 50_000**2 + 1, state[name].shape[-1])
            state[name] = torch.zeros(1).expand(shape)
    file.unlink()
    torch.save(state, folder / ("open_clip_pytorch_model.bin" if layout == "open_clip" else "pytorch_model.bin"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BackboneError, match=r"much larger than its weights|could not be loaded"):
        load(str(folder))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1024 * 1024


def test_entries_of_an_archive_stay_in_it(tmp_path):
    folder = checkpoints.openclip(tmp_path / "a" / "b" / "folder")
    (folder / "open_clip_model.safetensors").unlink()
    with zipfile.ZipFile(folder / "open_clip_pytorch_model.bin", "w") as archive:
        for name in ("../../evil", "archive/data.pkl", "archive/version"):
            archive.writestr(name, b"3")
    with pytest.raises(BackboneError, match="could not be loaded"):
        load(f"local-dir:{folder}")
    assert [path.name for path in tmp_path.rglob("evil")] == []


@pytest.mark.parametrize(
    ("name", "pretrained"), [("a" * 5000, None), ("local-dir:" + "a" * 5000, None), ("ViT-B-32", "a" * 5000), ("a\0b", None)]
)
def test_a_name_that_no_file_can_have_is_one_line(name, pretrained):
    with pytest.raises(BackboneError) as refused:
        load(name, pretrained)
    assert str(refused.value).isprintable()


# ---- switches ---------------------------------------------------------------------------------------------------------


def test_everything_is_as_it_was_after_loading():
    seen = lambda: (  # noqa: E731
        dynamic_module_utils.TIME_OUT_REMOTE_CODE,
        dynamic_module_utils.get_cached_module_file,
        torch.jit.load,
        constants.HF_HUB_OFFLINE,
        os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD"),
        torch.get_rng_state().tolist(),
    )
    before = seen()
    for fails in (False, True):
        try:
            with confined("a model", local=True):
                torch.rand(3)
                assert seen()[0] == 0
                assert seen()[3:5] == (True, "1")
                assert fails is False
        except BackboneError:
            assert fails
        assert seen() == before


@pytest.mark.slow
def test_memory_is_counted_before_it_is_given(tmp_path):
    file = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(10)}, file)
    stored = check_weights([file])
    with built_within("a model", stored):
        torch.zeros(2**20)
        torch.nn.Linear(64, 64)
    for ask in (
        lambda: torch.empty(2**40),
        lambda: torch.nn.Linear(2**20, 2**20),
        lambda: torch.arange(2**40),
        lambda: torch.linspace(0, 1, 2**40),
        lambda: torch.eye(2**20),
        lambda: torch.zeros(1024).repeat(2**30),
        lambda: torch.empty(2**40, device="meta"),
        lambda: torch.zeros(1).expand(2**40).clone(),
        lambda: torch.cat([torch.zeros(1).expand(2**30)] * 64),
        lambda: [torch.empty(0) for _ in range(10**6)],
    ):
        with pytest.raises(BackboneError, match="much larger than its weights"), built_within("a model", stored):
            ask()
