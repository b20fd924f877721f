"""``--model package.module:function``: a model of one's own, imported because the user names it, and at no other time."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from PIL import Image

MODULE = """
import torch
from torch import nn
from concept_cam import wrap
from concept_cam.images import Preprocess

def classifier():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 8, stride=8), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))

def wrapped():
    preprocess = Preprocess((64, 64), (0.5,) * 3, (0.5,) * 3)
    return wrap(classifier().eval(), preprocess=preprocess, classes=["ant", "bee", "wasp"])

def broken():
    raise KeyError("weights")

def nothing():
    return 3

loaded = "a text"
"""


@pytest.fixture
def run(command_line, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("")
    (tmp_path / "mine" / "models.py").write_text(MODULE)
    (tmp_path / "mine" / "needy.py").write_text("import min\n")
    restless = "import sys\n\ndef classifier():\n    del sys.path[0]\n    raise RuntimeError('the real error')\n"
    (tmp_path / "mine" / "restless.py").write_text(restless)
    (tmp_path / "names.txt").write_text("ant\nbee\nwasp\n")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 160, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    before = list(sys.path)
    yield command_line
    assert sys.path == before
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


ASKED = ("localize", "photo.png", "--target", "bee", "--out", "out")


@pytest.mark.filterwarnings("default:.*does not say how its images are prepared")
def test_a_function_gives_a_classifier_and_the_command_line_its_names(run, tmp_path):
    code, _, err = run(*ASKED, "--model", "mine.models:classifier", "--classes", "names.txt")
    assert code == 0, err
    assert "mine.models:classifier does not say how its images are prepared; assumed: 224 x 224" in err
    found = json.loads((tmp_path / "out" / "photo.json").read_text())
    assert found["provenance"]["model"] == "mine.models:classifier"
    assert sorted(found["comparison"]["references"]) == ["ant", "wasp"]
    assert found["provenance"]["input"]["size"] == [224, 224]


def test_a_function_gives_what_wrap_makes(run, tmp_path):
    code, _, err = run(*ASKED, "--model", "mine.models:wrapped", "--device", "cpu")
    assert code == 0, err
    assert "assumed" not in err
    assert json.loads((tmp_path / "out" / "photo.json").read_text())["provenance"]["input"]["size"] == [64, 64]
    code, out, err = run("check", "mine.models:wrapped")
    assert code == 0, out + err


WRONG = {
    "no module": ("mine.modles:classifier", (), "there is no module mine.modles in"),
    "no package": ("nobody.models:classifier", (), "there is no module nobody.models in"),
    "no function": ("mine.models:classifer", (), "has no function classifer. Did you mean 'classifier'?"),
    "no function, but a text": ("mine.models:loaded", (), "has no function loaded"),
    "it fails": ("mine.models:broken", (), "it fails (KeyError: 'weights')"),
    "it imports what is not there": ("mine.needy:classifier", (), "it fails (ModuleNotFoundError: No module named 'min')"),
    "it changes the path and fails": ("mine.restless:classifier", (), "it fails (RuntimeError: the real error)"),
    "it gives no model": ("mine.models:nothing", (), "gives a int; expected a model, or what concept_cam.wrap makes"),
    "no names": ("mine.models:classifier", (), "if it is a classifier, name its classes"),
    "names twice": ("mine.models:wrapped", ("--classes", "names.txt"), "classes of its own; leave out --classes names.txt"),
    "weights": ("mine.models:wrapped", ("--pretrained", "w.pt"), "makes its own weights; leave out --pretrained w.pt"),
    "no device": ("mine.models:wrapped", ("--device", "nonsense"), "There is no device 'nonsense'"),
    "a schema is none": ("timm:no_such_model", (), "no_such_model"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_a_function_is_one_line(run, case):
    model, options, message = WRONG[case]
    code, _, err = run(*ASKED, "--model", model, *options)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_nothing_is_imported_unless_the_user_names_it(run, tmp_path):
    """``load`` takes names of models alone."""
    from concept_cam import load
    from concept_cam.errors import BackboneError

    with pytest.raises(BackboneError, match=r"No model 'mine\.models:classifier'"):
        load("mine.models:classifier")
    assert "mine.models" not in sys.modules
