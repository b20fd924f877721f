"""``concept-cam audit`` from end to end."""

from __future__ import annotations

import csv
import json
from functools import partial

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from concept_cam import world
from concept_cam.world.birds import species
from concept_cam.world.shortcuts import draw_at_home


@pytest.fixture
def run(command_line):
    return partial(command_line, "audit")


@pytest.fixture
def folder(tmp_path):
    """A folder of classes, with a file that is no image."""
    for name in ("ember finch", "frost finch"):
        where = tmp_path / "set" / name.replace(" ", "_")
        where.mkdir(parents=True)
        for seed in range(3):
            world.draw_species(name, seed, 96).image.save(where / f"{seed}.png")
    (tmp_path / "set" / "frost_finch" / "broken.png").write_bytes(b"nothing")
    return tmp_path / "set"


def columns(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_field_guide_is_audited(run, tmp_path):
    code, out, err = run("--limit", 6)
    assert code == 0, err
    said = out.splitlines()
    assert said[0] == "6 images, 0 skipped, accuracy 1.000"
    assert said[1] == "evidence off the object: too few images to say; a class needs 5"
    assert said[2] == "report in concept-cam-audit/report.html"
    made = {path.relative_to(tmp_path / "concept-cam-audit").as_posix() for path in (tmp_path / "concept-cam-audit").glob("*")}
    tables = {"rows.csv", "classes.csv", "pairs.csv", "words.csv", "backgrounds.csv"}
    assert made == tables | {
        "audit.json",
        "batches",
        "explore.html",
        "how.json",
        "images",
        "pairs",
        "report.html",
        "run.json",
        "summary.json",
    }
    classes = columns(tmp_path / "concept-cam-audit" / "classes.csv")
    assert len(classes) == 6
    assert all(float(row["off_object"]) < 0.3 < float(row["energy"]) for row in classes)
    words = columns(tmp_path / "concept-cam-audit" / "words.csv")
    assert ("red crown", "white crown") in {(row["ours"], row["theirs"]) for row in words}
    summary = json.loads((tmp_path / "concept-cam-audit" / "summary.json").read_text())
    assert (summary["model"], summary["images"], summary["suspects"], summary["too_few"]) == ("world", 6, None, 6)


@pytest.mark.slow
def test_an_audit_that_was_done_is_told_again(run, tmp_path, monkeypatch):
    arguments = ("--limit", 4, "--out", "out")
    code, out, err = run(*arguments)
    assert code == 0, err
    before = (tmp_path / "out" / "report.html").read_bytes()
    monkeypatch.setattr("concept_cam.audit.examine.Examiner.examine", None)  # nothing is looked at again
    assert run(*arguments) == (0, out, err)
    assert (tmp_path / "out" / "report.html").read_bytes() == before


@pytest.mark.slow
def test_another_audit_in_the_same_folder_is_refused(run):
    assert run("--limit", 2, "--out", "out")[0] == 0
    for other in (("--seed", 1), ("--model", "world-shortcut"), ("--method", "grad_cam")):
        code, _, err = run("--limit", 2, "--out", "out", *other)
        assert code == 2
        assert "out holds a run with another" in err
        assert len(err.splitlines()) == 1


@pytest.mark.slow
def test_a_folder_whose_name_is_not_utf_8(run, folder, tmp_path):
    """Its maps are read again for the report; safetensors knows no such paths."""
    out = tmp_path / "caf\udce9"
    code, said, err = run(folder, "--out", out)
    assert code == 0, err
    assert "caf\\xe9" in said
    assert (out / "report.html").exists()
    assert list((out / "batches").glob("*.safetensors"))
    assert run(folder, "--out", out)[0] == 0  # and as it is resumed


@pytest.fixture
def at_home(tmp_path):
    """Eight plates each of two planted species and their twins, where they live, with masks, as a table."""
    rng, rows = np.random.default_rng(0), ["file,label,mask"]
    for name in ("frost finch", "ember finch", "misty heron", "coral heron"):
        for k in range(8):
            plate, file = draw_at_home(species()[name], rng, 96), f"{name}-{k}"
            plate.image.save(tmp_path / f"{file}.png")
            Image.fromarray(plate.labels > 0).save(tmp_path / f"{file}-mask.png")
            rows.append(f"{file}.png,{name},{file}-mask.png")
    (tmp_path / "home.csv").write_text("\n".join(rows))
    return tmp_path / "home.csv"


@pytest.mark.slow
def test_a_planted_shortcut_fails(run, at_home, tmp_path):
    conditions = ("--fail-on", "off_object > 0.3", "--fail-on", "accuracy < 0.5", "--fail-on", "sensitivity > 0.2")
    code, out, err = run(at_home, "--model", "world-shortcut", *conditions, "--fail-on", "suspects > 0", "--out", "out")
    assert code == 1
    (suspects,) = (line for line in out.splitlines() if line.startswith("evidence off the object: "))
    assert set(suspects.removeprefix("evidence off the object: ").split(", ")) == {"misty heron", "frost finch", "ember finch"}
    assert len(err.splitlines()) == 1
    assert err.startswith("concept-cam: off_object is 0.")
    assert "; sensitivity is 0." in err
    assert "; suspects is 3, which is > 0" in err
    assert "accuracy" not in err
    assert err.endswith("out/report.html shows why.\n")
    assert (tmp_path / "out" / "report.html").exists()
    # The embedded model passes the same.
    code, out, err = run(at_home, *conditions, "--fail-on", "suspects > 0", "--out", "clean")
    assert (code, err) == (0, "")
    assert "evidence off the object: none\n" in out


@pytest.mark.slow
def test_of_one_image_of_each_class_nothing_is_said(run):
    """Neither that the evidence lies off the object, nor that it does not."""
    planted = ("world-shortcuts", "--model", "world-shortcut", "--limit", 12)
    code, out, err = run(*planted, "--out", "out")
    assert (code, err) == (0, "")
    assert "evidence off the object: too few images to say; a class needs " in out
    for condition in ("off_object > 0.3", "suspects > 0"):
        code, _, err = run(*planted, "--out", "out", "--fail-on", condition)
        assert code == 1
        assert f"{condition.split()[0]} is not known (too few images: a class needs " in err


def test_a_folder_of_classes_with_a_broken_file(run, folder, tmp_path):
    code, out, err = run(folder, "--out", "out")
    assert code == 0, err
    assert out.splitlines()[:2] == [
        "6 images, 1 skipped, accuracy 1.000",
        "evidence off the object: not known, without masks or boxes",
    ]
    assert [line.split(":")[:3] for line in err.splitlines()] == [["concept-cam", " skipped", " frost_finch/broken.png"]]
    assert "frost_finch/broken.png" in (tmp_path / "out" / "report.html").read_text()
    code, _, err = run(folder, "--out", "out", "--fail-on", "off_object > 0.3")
    assert code == 1
    assert err.splitlines()[1].startswith("concept-cam: off_object is not known: out/report.html")


def test_when_nothing_can_be_read(run, folder):
    for file in folder.rglob("*.png"):
        file.write_bytes(b"nothing")
    code, out, err = run(folder, "--out", "out")
    assert code == 0
    assert out.splitlines()[0] == "0 images, 7 skipped, accuracy not known"
    assert len(err.splitlines()) == 7


@pytest.mark.slow
def test_two_models_on_the_same_images(run, tmp_path):
    images = ("world-shortcuts", "--limit", 4, "--out", "out")
    code, out, err = run(*images, "--other-model", "world-shortcut")
    assert code == 0, err
    assert "evidence off the object: too few images to say; a class needs 5" in out
    moved = columns(tmp_path / "out" / "moved.csv")
    assert [row["label"] for row in moved] == ["ember finch", "frost finch", "willow finch", "copper finch"]
    grown = {row["label"]: float(row["off_object_after"]) - float(row["off_object"]) for row in moved}
    assert grown["frost finch"] > 0.3 > 0.1 > grown["copper finch"]
    html = (tmp_path / "out" / "report.html").read_text()
    assert "Compared with world-shortcut" in html
    assert any(path.name.startswith("other-") for path in (tmp_path / "out" / "images").iterdir())
    assert not (tmp_path / "out" / "other" / "images").exists()


@pytest.mark.slow
def test_a_classifier_is_asked_no_texts(run, folder, tmp_path):
    """Neither words nor backgrounds, unless it is told to: then it says that it has no such class."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(timm.create_model("resnet10t", num_classes=1000).state_dict(), tmp_path / "weights.safetensors")
    (folder / "ember_finch").rename(folder / "brambling")
    (folder / "frost_finch").rename(folder / "goldfinch")
    options = (folder, "--model", "timm:resnet10t", "--pretrained", tmp_path / "weights.safetensors", "--out", "out")
    code, out, err = run(*options)
    assert code == 0, err
    assert "6 images, 1 skipped" in out
    assert columns(tmp_path / "out" / "backgrounds.csv") == columns(tmp_path / "out" / "words.csv") == []
    assert {row["label"] for row in columns(tmp_path / "out" / "rows.csv")} == {"brambling", "goldfinch"}
    code, _, err = run(*options[:-1], "other", "--backgrounds", "backgrounds")
    assert code == 2
    assert "resnet10t has no class" in err
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--fail-on", "off_objekt > 0.3"), "no figure 'off_objekt'. Did you mean 'off_object'"),
        (("--fail-on", "accuracy < 0.9", "--fail-on", "off_object is bad"), "expected a condition such as"),
        (("nowhere",), "nowhere: there is no such file or folder"),
        (("world-bird",), "Did you mean 'world-birds'"),
        (("--method", "rollout"), "rollout does not look at the score"),
        (("--method", "grad_kam"), "No method 'grad_kam'"),
        (("--parts", "brids"), "Did you mean 'birds'"),
        (("--parts", "world-species"), "a vocabulary of parts says of what"),
        (("--backgrounds", "one.txt"), "one background, 'bird in snow'; expected two or more"),
        (("--backgrounds", "volcanoes.txt"), "volcano"),
        (("--pretrained", "openai"), "--pretrained openai needs a --model"),
        (("--other-pretrained", "openai"), "--other-pretrained openai needs an --other-model"),
        (("--other-model", "no such model"), "no such model"),
        (("--site", "elsewhere"), "has no site 'elsewhere'"),
    ],
)
def test_a_mistake_is_one_line_and_costs_nothing(run, tmp_path, arguments, message, monkeypatch):
    (tmp_path / "one.txt").write_text("bird in snow\n")
    (tmp_path / "volcanoes.txt").write_text("bird in snow\nbird in volcano\n")
    monkeypatch.setattr("concept_cam.audit.examine.Examiner.examine", None)
    code, _, err = run(*arguments)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "concept-cam-audit").exists()


def test_help_says_what_there_is(run):
    code, out, _ = run("--help")
    assert code == 0
    assert all(option in out for option in ("--fail-on", "--other-model", "--backgrounds", "--parts", "--out"))
