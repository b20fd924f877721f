"""Models by name, by folder, by file and by instance; and those that are refused."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import open_clip
import pytest
import torch
import zoo
from safetensors.torch import save_file

from concept_cam import Localizer, load, world, wrap
from concept_cam.errors import BackboneError
from concept_cam.gradients import trace
from concept_cam.world.checkpoint import FOLDER


@pytest.fixture(scope="module")
def image():
    return world.draw_species("ember finch").image


@pytest.fixture
def narrow(monkeypatch):
    """open_clip's ViT-B-16 with towers that are narrow and short: its weights are a file of 6 MB."""
    config = open_clip.get_model_config("ViT-B-16")
    config["vision_cfg"] |= {"width": 64, "layers": 2, "head_width": 16}
    config["text_cfg"] |= {"width": 16, "heads": 2, "layers": 1}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-B-16", config)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return open_clip.create_model("ViT-B-16", pretrained=None).eval()


def test_a_users_own_weights_file(narrow, image, tmp_path):
    save_file(narrow.state_dict(), tmp_path / "mine.safetensors")
    backbone = load("ViT-B-16", pretrained=str(tmp_path / "mine.safetensors"))
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(backbone.embed_pixels(pixels), narrow.encode_image(pixels))
    result = Localizer(backbone)(image, "a cat on a sofa", "a dog on a sofa")
    assert result.map.shape == (14, 14)
    assert result.map.abs().max() > 0
    assert result.provenance["gradient"] == "factored"
    assert result.provenance["model"] == f"ViT-B-16/{tmp_path / 'mine.safetensors'}"


def test_a_users_own_checkpoint_folder(narrow, tmp_path, monkeypatch, capsys):
    """Through the command line: ``--model FOLDER``, in open_clip's layout, without a tokenizer of its own."""
    config = {"model_cfg": open_clip.get_model_config("ViT-B-16"), "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file(narrow.state_dict(), folder / "open_clip_model.safetensors")
    world.draw_species("ember finch").image.save(tmp_path / "bird.png")
    from concept_cam.cli import main

    options = ["--target", "a cat", "--against", "a dog", "--model", str(folder), "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["concept-cam", "localize", str(tmp_path / "bird.png"), *options])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    found = json.loads((tmp_path / "out" / "bird.json").read_text())
    assert found["provenance"]["model"] == f"local-dir:{folder}"
    assert found["comparison"]["references"] == ["a dog"]
    assert (tmp_path / "out" / "bird-overlay.png").is_file()


@pytest.mark.parametrize(
    ("name", "pretrained", "message"),
    [
        ("ViT-B-61", "openai", r"No model 'ViT-B-61' in open_clip or timm.* Did you mean 'ViT-B-16'\?"),
        ("ViT-B-16", None, "without weights would explain noise; name one of .*laion400m_e32"),
        ("ViT-B-16", "laion5b", "'laion5b' is neither a tag nor a file; the tags of ViT-B-16 are .*laion400m_e32"),
        ("ViT-B-16", "laion400m_e32", "the weights have to be downloaded and cannot be reached"),
        ("hf-hub:nobody/nothing", None, "have to be downloaded and cannot be reached"),
        ("local-dir:/nowhere", None, "no open_clip_config.json in that folder"),
        (f"local-dir:{FOLDER}", "openai", "brings its own weights; leave out pretrained='openai'"),
    ],
)
def test_what_cannot_be_loaded_ends_in_one_clear_line(name, pretrained, message, monkeypatch):
    # As without a network: nothing is to be downloaded by a test, where there is one.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BackboneError, match=message) as error:
        load(name, pretrained)
    assert "\n" not in str(error.value)


def test_a_damaged_checkpoint_is_named(tmp_path):
    for name in ("open_clip_config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((FOLDER / name).read_bytes())
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"not weights")
    with pytest.raises(BackboneError, match=r"open_clip_model\.safetensors: these weights cannot be read"):
        load(f"local-dir:{tmp_path}")


def test_a_checkpoint_without_weights_is_refused(tmp_path):
    """open_clip only logs that it found none, and hands out random ones."""
    for name in ("open_clip_config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((FOLDER / name).read_bytes())
    with pytest.raises(BackboneError, match="no weights"):
        load(f"local-dir:{tmp_path}")


def test_weights_that_open_clip_would_not_find_are_not_taken_for_weights(tmp_path):
    for name in ("open_clip_config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((FOLDER / name).read_bytes())
    (tmp_path / "epoch_1.pt").write_bytes(b"")
    with pytest.raises(BackboneError, match="no weights"):
        load(f"local-dir:{tmp_path}")


def test_a_device_that_is_not_there_is_named():
    for device in ("nonsense", "meta"):
        with pytest.raises(BackboneError, match=f"device '{device}'"):
            load(f"local-dir:{FOLDER}", device=device)


def test_a_tower_of_no_known_family_is_refused():
    with pytest.raises(BackboneError, match="type VisionTransformer is of no family"):
        wrap(zoo.tiny_clip(pool_type="none"), zoo.TOKENIZER)


@pytest.mark.parametrize("case", zoo.CASES)
def test_the_embedding_is_the_models_own(case):
    backbone = zoo.backbone(case)
    pixels = zoo.pixels(backbone)
    with torch.no_grad():
        own = backbone.module.encode_image(pixels, normalize=True)
    for form in ("auto", "dense"):
        seen = trace(backbone, pixels, form=form)
        # Not to the bit: without a graph torch takes another kernel for attention.
        torch.testing.assert_close(seen.embedding, own, rtol=1e-12, atol=1e-12)


def test_a_model_built_in_inference_mode_is_refused():
    with torch.inference_mode():
        model = zoo.tiny_clip()
    with pytest.raises(BackboneError, match="has no gradients; build it outside"):
        wrap(model, zoo.TOKENIZER)


def test_what_cannot_be_wrapped_is_named():
    model = zoo.tiny_clip()
    for given in ("ViT-B-16", lambda pixels: pixels):
        with pytest.raises(BackboneError, match=r"Expected a torch module, given a (str|function); load\(name\)"):
            wrap(given, zoo.TOKENIZER)
    with pytest.raises(BackboneError, match="reads texts: wrap\\(model, tokenizer\\)"):
        wrap(model)
    with pytest.raises(BackboneError, match="no weights yet"):
        wrap(zoo.tiny_clip().to("meta"), zoo.TOKENIZER)
    model.encode_image = lambda image: image
    with pytest.raises(BackboneError, match="encode_image takes no normalize"):
        wrap(model, zoo.TOKENIZER)


def test_sites_are_named_as_the_model_names_them():
    for case in zoo.CASES:
        backbone = zoo.backbone(case)
        modules = dict(backbone.module.named_modules())
        assert all(modules[site.name] is site.module for site in backbone.sites)
        assert backbone.sites[0].name == "visual.transformer.resblocks.1.ln_1"


@pytest.mark.weights
@pytest.mark.parametrize("method", ["grad_cam", "hires_cam", "layer_cam"])
def test_the_readmes_line_with_a_real_checkpoint(method, image, tmp_path, monkeypatch):
    """Needs a network on its first run: open_clip downloads the weights."""
    from concept_cam.cli import main

    readme = (Path(__file__).parents[1] / "README.md").read_text()
    (line,) = re.findall(r"^concept-cam localize photo\.jpg .*$", readme, re.M)
    image.save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [*shlex.split(line), "--method", method, "--out", "out"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    found = json.loads((tmp_path / "out" / "photo.json").read_text())
    assert found["provenance"]["gradient"] == "factored"
    assert all(0 < score < 0.6 for score in found["scores"].values())
    assert (tmp_path / "out" / "photo-overlay.png").is_file()
