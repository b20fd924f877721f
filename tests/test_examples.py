"""The examples as a reader runs them: what each writes and prints is what the embedded world says."""

from __future__ import annotations

import ast
import csv
import re
import runpy
import shlex
import subprocess
import sys
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from concept_cam import world
from concept_cam.errors import UnknownWord
from concept_cam.world.birds import species, twins
from concept_cam.world.shortcuts import SHORTCUTS, draw_at_home

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
PATCH = 384 // 12


@pytest.fixture
def run(tmp_path):
    """As it is, in a process of its own."""

    def call(name):
        command = [sys.executable, str(EXAMPLES / name)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return call


@pytest.fixture
def main_of(monkeypatch, tmp_path):
    """With arguments, in this process, where everything is imported."""
    monkeypatch.chdir(tmp_path)
    return lambda name: runpy.run_path(str(EXAMPLES / name))["main"]


def plate_of(file):
    """``ember-finch-3.png``: the plate of which it is the image."""
    name, _, seed = Path(file).stem.rpartition("-")
    return world.draw_species(name.replace("-", " "), int(seed))


def draw(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        plate_of(name).image.save(folder / name)


def strongest(file):
    """The first box of each image, and its score."""
    with file.open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert list(rows[0]) == ["file", "score", "left", "top", "right", "bottom"]
    first = {row["file"]: row for row in reversed(rows)}
    sides = ("left", "top", "right", "bottom")
    return {name: (float(row["score"]), tuple(int(row[side]) for side in sides)) for name, row in first.items()}


@pytest.mark.slow
def test_boxes_of_ember_finches_lie_on_their_crowns(run, tmp_path):
    assert run("query_to_boxes.py") == "boxes in concept-cam-out/boxes.csv\n"
    found = strongest(tmp_path / "concept-cam-out" / "boxes.csv")
    finches, jays = ({n: f for n, f in found.items() if n.startswith(kind)} for kind in ("ember-finch", "royal-jay"))
    assert len(finches) == len(jays) == 4
    for name, (_, (left, top, right, bottom)) in finches.items():
        assert plate_of(name).mask("crown")[top:bottom, left:right].mean() > 0.3
    assert min(score for score, _ in finches.values()) > 4 * max(score for score, _ in jays.values())


def test_what_is_no_image_is_reported_and_the_others_have_boxes(main_of, tmp_path, capsys):
    draw(tmp_path / "photos", "frost-finch-3.png", "frost-finch-4.png")
    (tmp_path / "photos" / "frost-finch-3b.png").write_bytes((tmp_path / "photos" / "frost-finch-3.png").read_bytes()[:900])
    (tmp_path / "photos" / "notes.txt").write_text("Seen in the garden.")
    main_of("query_to_boxes.py")(Path("photos"), "frost finch", "ember finch", out=Path("boxes.csv"))
    assert list(strongest(tmp_path / "boxes.csv")) == ["frost-finch-4.png", "frost-finch-3.png"]
    reported = capsys.readouterr().err.splitlines()
    assert [line.split(":")[:2] for line in reported] == [
        ["skipped", " photos/frost-finch-3b.png"],
        ["skipped", " photos/notes.txt"],
    ]


@pytest.mark.slow
def test_the_part_sheet_names_what_is_on_the_card(run, tmp_path):
    printed = run("part_sheet.py").splitlines()
    read = dict(re.fullmatch(r"([\w ]+, \w+): (\w+) \d/4.*", line).groups() for line in printed[:-2])
    card = species()["ember finch"].card
    told = {", ".join(key.rsplit(" ", 1)) if key.endswith(("shape", "pattern")) else f"{key}, colour": key for key in card}
    assert read == {key: card[name] for key, name in told.items() if name != "crest"}
    assert printed[-2] == "mostly not visible: crest"
    folder = tmp_path / "concept-cam-out" / "sheet"
    page = (folder / "sheet.html").read_text()
    assert "<h1>ember finch</h1>" in page
    links = set(re.findall(r'href="(annotated/[^"]+)"', page))
    assert links == {f"annotated/ember-finch-{seed}.png.png" for seed in range(4)}
    assert all((folder / link).is_file() for link in links)


def test_a_part_sheet_of_images_one_of_which_is_broken(main_of, tmp_path, capsys):
    draw(tmp_path / "jays", "royal-jay-0.png", "royal-jay-1.png")
    (tmp_path / "jays" / "royal-jay-2.jpg").write_bytes(b"")
    main_of("part_sheet.py")(Path("jays"), "royal jay", out=Path("sheet"))
    out, err = capsys.readouterr()
    assert err == "skipped: jays/royal-jay-2.jpg: the file is empty; expected an image such as a JPEG or PNG file.\n"
    assert "crown, colour: blue 2/2" in out
    assert "mostly not visible: none\nsheet of 2 images in sheet/sheet.html" in out


@pytest.mark.slow
def test_of_two_images_of_each_class_nothing_is_said(run, tmp_path):
    *found, report = run("audit_zero_shot.py").splitlines()
    assert found == ["96 images, accuracy 1.000", "suspects: too few images to say"]
    assert report == "report in concept-cam-out/audit/report.html"
    assert (
        "There are too few images to say whether the model relies"
        in (tmp_path / "concept-cam-out" / "audit" / "report.html").read_text()
    )


@pytest.mark.slow
def test_the_shortcuts_of_its_sister_are_found_from_a_table_with_boxes(main_of, tmp_path, capsys):
    lines = ["file,label,left,top,right,bottom"]
    names = {name: twin for name, twin, _ in twins() if name in SHORTCUTS or twin in SHORTCUTS}
    for seed, name in enumerate(8 * [*names]):
        plate = draw_at_home(species()[name], np.random.default_rng([5, seed]), 192)
        plate.image.save(tmp_path / f"{seed}.png")
        down, across = (np.flatnonzero(plate.labels.any(axis)) for axis in (1, 0))
        lines.append(f"{seed}.png,{name},{across[0]},{down[0]},{across[-1] + 1},{down[-1] + 1}")
    (tmp_path / "broken.png").write_bytes((tmp_path / "0.png").read_bytes()[:2000])
    (tmp_path / "birds.csv").write_text("\n".join([*lines, "broken.png,frost finch,10,10,90,90"]))
    main_of("audit_zero_shot.py")(Path("birds.csv"), "world-shortcut", out=Path("audit"))
    out, err = capsys.readouterr()
    counted, suspects, *moved, report = out.splitlines()
    assert counted == "96 images, accuracy 1.000"
    assert err.startswith("skipped: broken.png: broken.png: the image cannot be read and seems damaged")
    # A box holds more than the bird, so that eight images tell the plainest alone.
    assert set(suspects.removeprefix("suspects: ").split(", ")) <= set(names)
    falls = [re.match(r"without 'bird in \w+' the probability of (.+) falls by 0\.[1-9]", line) for line in moved]
    assert len(falls) == 3
    assert {fall[1] for fall in falls} <= set(names)
    assert "lies off the object" in Path(report.removeprefix("report in ")).read_text()


@pytest.mark.slow
def test_an_own_model_shows_what_decided_and_is_as_it_was(run, tmp_path):
    decided, counted, *failed, left = run("own_model.py").splitlines()
    first, own, second, other, x, y = re.match(r"(.+) \((.+)\), not (.+) \((.+)\): see \((\d+), (\d+)\)", decided).groups()
    assert (first, second) == ("ember finch", "frost finch")
    assert float(own) > float(other)
    x, y, half = int(x), int(y), PATCH // 2  # the centre of a patch, with some of the crown in it
    assert world.draw_species("ember finch", 3).mask("crown")[y - half : y + half, x - half : x + half].any()
    assert counted == "17 of 19 checks passed"
    assert all("does not take an input of" in line for line in failed)  # one size alone, as it stands in a Sequential
    assert left == "the model is as it was"
    with Image.open(tmp_path / "concept-cam-out" / "own-model.png") as drawn:
        assert drawn.width > 3 * 360


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*no more like:UserWarning")  # random weights know no birds
def test_an_own_model_of_timm_with_weights_and_names_from_files(main_of, tmp_path, capsys):
    names = ("wren", "dunnock", "robin", "siskin", "serin")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("test_resnet", num_classes=5).eval()
    torch.save(model.state_dict(), tmp_path / "mine.pt")
    (tmp_path / "names.txt").write_text("\n".join(names))
    draw(tmp_path, "royal-jay-0.png")
    files = (Path("royal-jay-0.png"), "test_resnet", Path("mine.pt"), Path("names.txt"))
    with torch.random.fork_rng():
        main_of("own_model.py")(*files, out=Path("out.png"))
    out = capsys.readouterr().out
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    with torch.no_grad():
        best = model(transform(plate_of("royal-jay-0.png").image)[None])[0].topk(2)
    told = [f"{names[i]} ({value:.2f})" for value, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)]
    assert out.startswith(", not ".join(told))
    assert out.endswith("the model is as it was\n")


@pytest.mark.slow
def test_an_own_vocabulary_is_read_off_and_found(run, tmp_path):
    printed = run("own_vocabulary.py")
    assert printed.endswith("Birds at my feeder: 4 images in concept-cam-out/parts.csv\n")
    with (tmp_path / "concept-cam-out" / "parts.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert len(rows) == 4 * 3
    for row in rows:
        plate, part = plate_of(row["image"]), row["part"]
        card = {"colour": plate.bird.card[part]}
        card |= {kind: plate.bird.card.get(f"{part} {kind}", "") for kind in ("pattern", "shape")}
        asked = {"crown": ("colour",), "breast": ("colour", "pattern"), "tail": ("colour", "shape")}[part]
        assert {kind: row[kind] for kind in card} == {kind: card[kind] if kind in asked else "" for kind in card}
        x, y = int(float(row["x"])), int(float(row["y"]))
        near = plate.mask(part)[max(y - PATCH, 0) : y + PATCH + 1, max(x - PATCH, 0) : x + PATCH + 1]
        assert near.any()


def test_a_word_that_the_embedded_model_does_not_know(main_of, tmp_path):
    draw(tmp_path / "birds", "royal-jay-0.png")
    words = (EXAMPLES / "birds-at-my-feeder.yaml").read_text().replace("blue", "teal")
    (tmp_path / "mine.yaml").write_text(words)
    with pytest.raises(UnknownWord, match="never seen the word 'teal'"):
        main_of("own_vocabulary.py")(Path("birds"), tmp_path / "mine.yaml")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_command_lines_of_an_example_are_its_own(script):
    about = ast.get_docstring(ast.parse(script.read_text()))
    lines = [shlex.split(line) for line in about.replace("\\\n", "").splitlines() if line.lstrip().startswith("python")]
    options = {f"--{name}" for name in signature(runpy.run_path(str(script))["main"]).parameters}
    assert len(lines) >= 2
    for words in lines:
        assert words[:2] == ["python", f"examples/{script.name}"]
        assert {word for word in words if word.startswith("--")} <= options
    assert f"[{script.name}]({script.name})" in (EXAMPLES / "README.md").read_text()


def test_links_of_the_table_lead_somewhere():
    targets = re.findall(r"\]\(([^)]+)\)", (EXAMPLES / "README.md").read_text())
    linked = {(EXAMPLES / target).resolve() for target in targets}
    assert [path for path in linked if not path.exists()] == []
    own = {path for path in linked if path.is_relative_to(EXAMPLES.resolve())}
    files = {path for path in EXAMPLES.resolve().iterdir() if path.suffix and path.name != "README.md"}
    assert own == files | set(EXAMPLES.resolve().glob("*/README.md"))
