"""``concept-cam models`` and ``check``, and the options of ``localize`` that are about models."""

from __future__ import annotations

import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from concept_cam import world
from concept_cam.families import FAMILIES
from concept_cam.world.checkpoint import FOLDER


@pytest.fixture
def run(monkeypatch, command_line):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("COLUMNS", "200")
    return command_line


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 160, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("resnet10t", num_classes=1000)
    path = tmp_path_factory.mktemp("weights") / "resnet.safetensors"
    save_file(model.state_dict(), path)
    return path


def test_models_lists_every_family(run):
    code, out, err = run("models")
    assert (code, err) == (0, "")
    for family in FAMILIES:
        assert family.name in out
        assert family.through in out
    assert "ViT-B-16-SigLIP2/webli" in out


def test_check_of_the_embedded_model_passes(run):
    code, out, _ = run("check", FOLDER)
    lines = out.splitlines()
    assert code == 0
    assert "6 sites, visual.transformer.resblocks.5.ln_1 by default" in lines[0]
    assert len(lines) > 15
    assert all(line.startswith("pass  ") for line in lines[1:-1])
    assert lines[-1].startswith("next: ")


@pytest.mark.slow
def test_check_says_what_fails_and_ends_in_one(run, monkeypatch):
    """A model that is random each time it runs."""
    real = world.localizer().backbone

    def restless(name, *_, **__):
        real.module.visual.ln_post.register_forward_hook(lambda m, i, out: out + torch.randn_like(out))
        return real

    monkeypatch.setattr("concept_cam.loading.load", restless)
    code, out, err = run("check", "whatever")
    assert code == 1
    (line,) = [line for line in out.splitlines() if line.startswith("FAIL  embedding")]
    assert "the model is random" in line
    assert "fails" in err.splitlines()[-1]
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_classifier_of_timm_from_a_file(run, photo, weights, tmp_path):
    """timm knows the names of ImageNet; the three nearest rows are compared with."""
    options = ("--model", "resnet10t", "--pretrained", weights, "--target", "goldfinch", "--out", tmp_path / "out")
    code, _, err = run("localize", photo, *options)
    assert code == 0, err
    found = json.loads((tmp_path / "out" / "photo.json").read_text())
    assert len(found["comparison"]["references"]) == 3
    assert found["provenance"]["model"] == "resnet10t"
    assert found["provenance"]["gradient"] == "factored"
    assert (tmp_path / "out" / "photo-overlay.png").is_file()
    code, out, _ = run("check", "resnet10t", "--pretrained", weights)
    assert code == 0, out


def test_size_and_fit(run, photo, tmp_path):
    for size, fit, input_size in (("144", "crop", [144, 144]), ("96x144", "squash", [96, 144]), ("144", "native", [104, 192])):
        code, _, err = run(
            *("localize", photo, "--target", "red crown", "--strength", 0, "--model", FOLDER, "--templates", "world"),
            *("--size", size, "--fit", fit, "--out", tmp_path / "out"),
        )
        assert code == 0, err
        found = json.loads((tmp_path / "out" / "photo.json").read_text())
        assert found["provenance"]["input"] == {"fit": fit, "size": input_size}


MISTAKES = {
    "a size that is none": (("--size", "large"), "--size large: expected a side in pixels"),
    "a size of nothing": (("--size", "0x96"), "such as 336x504, from 1 to 16384 each"),
    "a size of parts of patches": (("--size", "100"), "not made of whole patches; its sides must be multiples of 8 and 8"),
    "a fit": (("--fit", "nativ"), "No fit 'nativ'. Did you mean 'native'?"),
    "a site": (("--site", "ln_1"), "has no site 'ln_1'; its sites are visual.transformer.resblocks.5.ln_1, "),
    "classes": (("--classes", "names.txt"), "is a dual encoder: its concepts are texts; leave out classes"),
    "no such model": (("--model", "resnet5000"), "No model 'resnet5000' in open_clip or timm"),
    "no such file": (("--model", "resnet10t", "--pretrained", "none.pt"), "'none.pt' is no file"),
    "no such names": (("--model", "timm:resnet10t", "--classes", "none.txt"), "none.txt: cannot be read"),
    "no network": (("--model", "timm:resnet10t"), "the weights have to be downloaded and cannot be reached"),
    "no network for transformers": (("--model", "nobody/nothing"), "have to be downloaded and cannot be reached"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_about_models_is_one_line(run, photo, case):
    options, message = MISTAKES[case]
    given = ("--model", FOLDER) if "--model" not in options else ()
    code, _, err = run("localize", photo, "--target", "red crown", "--against", "blue crown", *given, *options)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err


def test_a_folder_that_is_no_checkpoint(run, photo, tmp_path):
    (tmp_path / "empty").mkdir()
    code, _, err = run("localize", photo, "--target", "x", "--against", "y", "--model", tmp_path / "empty")
    assert code == 2
    assert "expected a checkpoint of open_clip, transformers or timm" in err
