"""Among which classes a model is judged: predictions, confidences, rivals, runners-up and calibration all follow."""

from __future__ import annotations

import copy
import csv
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from slow import by_default
from zoo import classifiers

from concept_cam import Localizer, world, wrap
from concept_cam.audit import audit
from concept_cam.audit.report import write_report
from concept_cam.audit.summary import summary
from concept_cam.backbones import TokenLayout
from concept_cam.datasets import Dataset, Example
from concept_cam.errors import OptionError, OutputError, UnknownConcept
from concept_cam.evaluation import classes_among, evaluate, told_among
from concept_cam.metrics import calibration_error, strongest
from concept_cam.runs import Skipped, identity_of
from concept_cam.world.dataset import twins_dataset

CLASSES, FEW = classifiers.CLASSES, ("owl", "jay", "wren")


# The rows of a classifier that has learnt nothing are not alike.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*no more like:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*does not say how its images are prepared:UserWarning"),
]


def noise(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (24, 40, 3), dtype=np.uint8))


def examples(*labels):
    return [Example(f"{i}", noise(i), label) for i, label in enumerate(labels)]


@pytest.fixture(scope="module")
def localizer():
    model = classifiers.timm_vit().double()
    with torch.no_grad():
        # So that images are not all of one class, and none is sure.
        model.head.weight *= 3
        model.head.bias.zero_()
    return Localizer(wrap(model, classes=CLASSES), method="grad_cam")


@pytest.fixture(scope="module")
def data():
    return Dataset("own", (*FEW, "dodo"), examples(*FEW, *FEW, "dodo", *FEW))


@pytest.fixture(scope="module")
def logits(localizer, data):
    pixels = torch.stack([localizer.frame(example.image).pixels for example in data.examples]).double()
    with torch.no_grad():
        return localizer.backbone.module(pixels)


def kept(among):
    return [CLASSES.index(name) for name in CLASSES if among == "model" or name in FEW]


def known(data):
    return [i for i, example in enumerate(data.examples) if example.label in CLASSES]


@pytest.mark.parametrize("among", ["model", "dataset"])
def test_an_evaluation_is_among_those_classes(localizer, data, logits, tmp_path, among):
    found = evaluate(
        localizer, data, tmp_path, methods="grad_cam", references=["rivals:1", "nearest:1"], strengths=1.0, among=among
    )
    columns = kept(among)
    assert found.problems == [f"6: No concept 'dodo' among the {len(columns)} of this bank."]
    assert found.used == 9
    rows = {(row.image, row.references): row for row in found.rows if not isinstance(row, Skipped)}
    weight = localizer.backbone.module.head.weight.detach()
    for i in known(data):
        label, scores = data.examples[i].label, logits[i]
        own = CLASSES.index(label)
        rivals = [c for c in columns if c != own]
        best = CLASSES[max(rivals, key=lambda c: float(scores[c]))]
        near = CLASSES[max(rivals, key=lambda c: float(F.cosine_similarity(weight[c], weight[own], dim=0)))]
        assert rows[str(i), "rivals:1"].against == best
        assert rows[str(i), "nearest:1"].against == near
        assert rows[str(i), "none"].correct == float(max(columns, key=lambda c: float(scores[c])) == own)
        # RD@5 %: the confidence among those classes, before and after.
        result = localizer(data.examples[i].image, label, best, strength=1.0)
        heat = TokenLayout(0, 3, 5).enlarged(result.map[None], (24, 40))
        pixels = localizer.frame(data.examples[i].image).pixels[None]
        covered = pixels.masked_fill(strongest(heat, 0.05)[:, None], 0.0).double()
        with torch.no_grad():
            before, after = (localizer.backbone.module(x.double())[0, columns].softmax(0) for x in (pixels, covered))
        lost = before - after
        place = {c: k for k, c in enumerate(columns)}
        drop = lost[place[own]] - lost[place[CLASSES.index(near)]]
        assert rows[str(i), "rivals:1"].rd5 == pytest.approx(float(drop), abs=2e-5)


@pytest.mark.parametrize(("among", "told"), [("model", "7 of the 7"), ("dataset", "3 of the 7")])
def test_every_report_says_among_how_many(localizer, data, tmp_path, among, told):
    told = f"{told} classes of the model"
    found = evaluate(localizer, data, tmp_path / "e", methods="grad_cam", references="nearest:1", strengths=1, among=among)
    assert found.among == told
    assert f"The model is judged among {told}." in (tmp_path / "e" / "tables.md").read_text()
    about = json.loads((tmp_path / "e" / "run.json").read_text())
    assert (about["among"], len(about["classes"])) == (among, int(told[0]))
    assert about["judged_among"] == {"classes": int(told[0]), "of": 7}
    seen = audit(localizer, data, tmp_path / "a", among=among)
    assert seen.setup.among == told
    assert summary(seen)["among"] == told
    assert told in write_report(seen).read_text()
    about = json.loads((tmp_path / "a" / "run.json").read_text())
    assert (about["among"], len(about["judged"])) == (among, int(told[0]))
    assert about["judged_among"] == {"classes": int(told[0]), "of": 7}


@pytest.mark.parametrize("among", ["model", "dataset"])
def test_an_audit_is_among_those_classes(localizer, data, logits, tmp_path, among):
    seen = audit(localizer, data, tmp_path, among=among)
    columns = kept(among)
    probabilities = logits[:, columns].softmax(1)
    names = [CLASSES[c] for c in columns]
    assert [row.image for row in seen.rows if isinstance(row, Skipped)] == ["6"]
    rights, confidences = [], []
    for row in seen.good:
        confidence, order = probabilities[int(row.image)].sort(descending=True)
        assert (row.predicted, row.runner_up) == (names[order[0]], names[order[1]])
        assert row.confidence == pytest.approx(float(confidence[0]), rel=1e-4)
        assert row.runner_up_probability == pytest.approx(float(confidence[1]), rel=1e-4)
        rights.append(row.predicted == row.label)
        confidences.append(float(confidence[0]))
    expected = calibration_error(torch.tensor(confidences, dtype=torch.float64), torch.tensor(rights))
    assert seen.calibration == pytest.approx(float(expected), abs=1e-4)
    assert seen.accuracy == sum(rights) / 9
    # A class that only the model has is listed where an image is predicted as it.
    predicted = {row.predicted for row in seen.good}
    assert {one.name for one in seen.classes} == predicted | set(FEW)
    assert sum(one.predicted for one in seen.classes) == 9


def test_all_classes_are_the_default_and_it_matters(localizer, data, logits, tmp_path):
    default = audit(localizer, data, tmp_path / "default")
    few = audit(localizer, data, tmp_path / "few", among="dataset")
    assert default.setup.competing == CLASSES
    assert few.setup.competing == FEW
    assert any(a.runner_up != b.runner_up for a, b in zip(default.good, few.good, strict=True))
    both = zip(default.good, few.good, strict=True)
    assert all(ours.confidence < theirs.confidence for ours, theirs in both if ours.predicted == theirs.predicted)


def test_images_of_one_class_can_be_audited_among_all(localizer, tmp_path):
    one = Dataset("owls", ("owl",), examples("owl", "owl"))
    assert len(audit(localizer, one, tmp_path / "all").good) == 2
    with pytest.raises(OptionError, match=r"has the classes \['owl'\]; expected two or more"):
        audit(localizer, one, tmp_path / "few", among="dataset")


def test_of_a_dual_encoder_they_are_those_of_the_data_set():
    backbone = world.localizer().backbone
    for among in ("model", "dataset"):
        assert classes_among(backbone, ("royal jay", "ember finch", "royal jay"), among) == ("royal jay", "ember finch")
    assert told_among(backbone, ("a", "b")) == "2 of the 2 classes of the data set"


def test_it_is_refused_where_it_has_no_effect(localizer, tmp_path):
    dual = world.localizer()
    for among in ("model", "dataset"):
        for run in (evaluate, audit):
            with pytest.raises(OptionError, match="has no classes but those of the data set; leave it out"):
                run(dual, twins_dataset(2), tmp_path / "out", among=among)
        trained = Dataset("own", FEW, examples(*FEW), training=examples(*FEW))
        with pytest.raises(OptionError, match="a probe knows the classes that it was trained on alone"):
            evaluate(localizer, trained, tmp_path / "out", probe=True, among=among)
    assert not (tmp_path / "out").exists()


def test_labels_that_are_all_unknown_are_a_mistake(localizer, tmp_path):
    wrong = Dataset("own", ("Finch", "dodo"), examples("Finch", "dodo"))
    for run in (evaluate, audit):
        with pytest.raises(
            UnknownConcept, match=r"has none of the 2 classes of the data set, such as 'Finch'. Did you mean 'finch'"
        ):
            run(localizer, wrong, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", ["models", "", 3, True])
def test_what_is_neither_is_refused(localizer, data, tmp_path, wrong):
    for run in (evaluate, audit):
        with pytest.raises(OptionError, match=r"among is .*; expected model .* or dataset"):
            run(localizer, data, tmp_path / "out", among=wrong)


# ---- the same from Python and from the command line -------------------------------------------------------------------


def rows_of(folder):
    with (folder / "rows.csv").open() as stream:
        return list(csv.DictReader(stream))


@pytest.mark.slow
def test_python_and_the_command_agree(command_line, tmp_path):
    code, out, err = command_line("evaluate", "world", "--limit", 2, "--out", "told")
    assert code == 0, err
    found = evaluate(world.localizer(), twins_dataset(2), str(tmp_path / "asked"))
    for file in ("rows.csv", "means.csv", "tables.md"):
        assert (tmp_path / "asked" / file).read_bytes() == (tmp_path / "told" / file).read_bytes()
    assert found.text.rstrip() in out
    assert "The model is judged among 48 of the 48 classes of the data set." in out


@pytest.mark.parametrize("command", by_default(["evaluate", "audit"], "evaluate"))
def test_the_command_takes_among(command_line, command):
    options = ("--methods", "grad_cam") if command == "evaluate" else ("--method", "grad_cam")
    code, out, err = command_line(command, "--limit", 2, *options, "--out", "out")
    assert code == 0, err
    assert "48 of the 48 classes of the data set" in out
    code, _, err = command_line(command, "--limit", 2, "--among", "dataset", *options, "--out", "dual")
    assert code == 2
    assert "among is 'dataset', but" in err
    assert "has no classes but those of the data set; leave it out" in err
    code, _, err = command_line(command, "--limit", 2, "--among", "all", "--out", "other")
    assert code == 2
    assert (
        err
        == "concept-cam: among is 'all'; expected model (all classes of a classifier) or dataset (those of the data set).\n"
    )


@pytest.mark.slow
def test_a_label_that_a_classifier_does_not_have_stops_no_command(command_line, tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(timm.create_model("resnet10t", num_classes=1000).state_dict(), tmp_path / "weights.safetensors")
    for name in ("brambling", "goldfinch", "dodo"):
        (tmp_path / "set" / name).mkdir(parents=True)
        noise(len(name)).resize((96, 96)).save(tmp_path / "set" / name / "one.png")
    options = ("set", "--model", "timm:resnet10t", "--pretrained", tmp_path / "weights.safetensors")
    for command, among, told in (("audit", "model", "1,000"), ("audit", "dataset", "2"), ("evaluate", "model", "1,000")):
        extra = ("--methods", "grad_cam", "--references", "nearest:1") if command == "evaluate" else ()
        code, out, err = command_line(command, *options, "--among", among, *extra, "--out", f"{command}-{among}")
        assert code == 0, err
        assert "2 images, 1 skipped" in out
        assert f"{told} of the 1,000 classes of the model" in out
        assert "dodo/one.png: No concept 'dodo'" in err


# ---- an evaluation in Python ------------------------------------------------------------------------------------------


def test_methods_of_ones_own_are_measured(localizer, data, tmp_path):
    def mine(gradient):
        return -gradient.dot_tokens().unflatten(2, (gradient.layout.rows, gradient.layout.cols))

    asked = {"references": "nearest:1", "strengths": 1.0}
    found = evaluate(localizer, data, tmp_path / "a", methods=("hires_cam", mine), **asked)
    assert {row["method"] for row in found.means} == {"hires_cam", "mine"}
    drops = {row["method"]: row["rd5"] for row in found.means if row["strength"] == 0}
    assert drops["hires_cam"] != drops["mine"]
    own = Localizer(localizer.backbone, method=mine)
    default = evaluate(own, data, tmp_path / "b", **asked)
    assert {row["method"] for row in default.means} == {"grad_cam", "hires_cam", "layer_cam", "mine"}
    assert {row["method"]: row["rd5"] for row in default.means if row["strength"] == 0}["mine"] == drops["mine"]

    def hires_cam(gradient):
        return mine(gradient)

    with pytest.raises(OptionError, match="two have one name"):
        evaluate(localizer, data, tmp_path / "c", methods=("hires_cam", hires_cam), **asked)
    with pytest.raises(OptionError, match="3 is not a method"):
        evaluate(localizer, data, tmp_path / "c", methods=("hires_cam", 3), **asked)
    with pytest.raises(OptionError, match="Did you mean 'hires_cam'"):
        evaluate(localizer, data, tmp_path / "c", methods="hirescam", **asked)
    assert not (tmp_path / "c").exists()


def test_a_run_that_is_there_is_told_again_and_another_refused(localizer, data, tmp_path, monkeypatch):
    asked = {"methods": "grad_cam", "references": "nearest:1", "strengths": 1.0}
    first = evaluate(localizer, data, tmp_path, **asked)
    monkeypatch.setattr("concept_cam.evaluation.grid.Grid.rows", None)  # nothing is run again
    assert evaluate(localizer, data, tmp_path, **asked).rows == first.rows
    for other in ({"among": "dataset"}, {"centred": True}, {"deletion": 2}, {"about": {"weights": "other"}}):
        with pytest.raises(Exception, match="holds a run with another"):
            evaluate(localizer, data, tmp_path, **{**asked, **other})


@pytest.mark.parametrize("run", [evaluate, audit])
def test_rows_of_another_model_or_of_other_images_are_not_given_back(localizer, tmp_path, run):
    """The names are the same each time: of the model, of the images and of the classes."""
    asked = {"methods": "grad_cam", "references": "nearest:1", "strengths": 1.0} if run is evaluate else {}
    first = Dataset("own", FEW, examples(*FEW))

    def again(change=lambda model: None, data=first, preprocess=None):
        model = copy.deepcopy(localizer.backbone.module)
        with torch.no_grad():
            change(model)
        given = wrap(model, classes=CLASSES, preprocess=preprocess or localizer.preprocess, name=localizer.backbone.name)
        return run(Localizer(given, method="grad_cam"), data, tmp_path, **asked)

    rows = again().rows
    assert again().rows == rows
    with pytest.raises(OutputError, match=r"another model \(its numbers or its layers are not the same\);"):
        again(lambda model: model.head.weight[0, 0].add_(1e-6))
    with pytest.raises(OutputError, match="another set of names, labels or twins;"):
        again(data=Dataset("own", FEW, examples(*FEW[::-1])))
    others = [replace(example, image=noise(100 + i)) for i, example in enumerate(first.examples)]
    with pytest.raises(OutputError, match="another set of images;"):
        again(data=Dataset("own", FEW, others))
    with pytest.raises(OutputError, match="another preprocessing;"):
        again(preprocess=replace(localizer.preprocess, mean=(0.4,) * 3))
    assert again().rows == rows


def test_an_image_that_was_exchanged_is_noticed(localizer, tmp_path):
    noise(1).save(tmp_path / "image.png")
    data = Dataset("own", FEW, [Example("image.png", tmp_path / "image.png", "owl")])
    before = identity_of(localizer, data)
    assert identity_of(localizer, data) == before
    noise(2).save(tmp_path / "image.png")
    after = identity_of(localizer, data)
    assert [key for key in after if after[key] != before[key]] == ["images_digest"]


@pytest.mark.slow
def test_digests_are_those_of_another_process(tmp_path):
    code = (
        "from concept_cam import world; from concept_cam.world.dataset import twins_dataset; "
        "from concept_cam.runs import identity_of; print(identity_of(world.localizer(), twins_dataset(2)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(identity_of(world.localizer(), twins_dataset(2)))


def test_a_probe_is_judged_among_the_classes_that_it_has_learnt(localizer, data, tmp_path):
    trained = Dataset("own", FEW, examples(*FEW), training=examples(*FEW, *FEW))
    found = evaluate(localizer, trained, tmp_path, methods="grad_cam", references="nearest:1", strengths=1.0, probe=True)
    assert found.among == "3 of the 3 classes of the data set, by a linear probe"
    assert all(row.against in FEW for row in found.rows if row.references == "nearest:1")
