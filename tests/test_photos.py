"""The benchmark on photographs: which class a file shows, and tables that say what was measured."""

from __future__ import annotations

import sys

import pytest
from PIL import Image
from test_mosaics import COLOURS, Colours

from benchmarks import photos
from concept_cam import Preprocess, wrap
from concept_cam.errors import BackboneError, DatasetError


def write(folder, *names, colour=(0, 0, 0)):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (16, 16), colour).save(folder / name)


def test_names_of_files_are_classes_in_the_order_of_their_numbers(tmp_path):
    write(tmp_path, "n02000001_great_white_shark.jpg", "n01000001_tench.jpg", "n03000001_crane.png", "n02500001_crane.jpg")
    (tmp_path / "README.md").write_text("no photograph")
    data = photos.read_photos(tmp_path)
    assert data.classes == ("tench", "great white shark", "crane (n02500001)", "crane (n03000001)")
    assert [(example.name, example.label) for example in data.examples] == [
        ("n01000001_tench.jpg", "tench"),
        ("n02000001_great_white_shark.jpg", "great white shark"),
        ("n02500001_crane.jpg", "crane (n02500001)"),
        ("n03000001_crane.png", "crane (n03000001)"),
    ]


def test_several_files_of_one_number_are_one_class(tmp_path):
    write(tmp_path, "n01000001_tench.jpg", "n01000001_tench_2.jpg", "n02000001_shark.jpg")
    data = photos.read_photos(tmp_path)
    assert data.classes == ("tench", "shark")
    assert [example.label for example in data.examples] == ["tench", "tench", "shark"]


def test_folders_are_classes(tmp_path):
    write(tmp_path / "b_shark", "1.jpg", "2.jpg")
    write(tmp_path / "a_tench", "3.jpg")
    data = photos.read_photos(tmp_path)
    assert data.classes == ("a tench", "b shark")
    assert [example.label for example in data.examples] == ["a tench", "b shark", "b shark"]
    assert [example.label for example in photos.some(data, 2).examples] == ["a tench", "b shark"]
    assert photos.some(data, 2).classes == data.classes


def test_no_photographs(tmp_path):
    with pytest.raises(DatasetError):
        photos.read_photos(tmp_path)


def test_the_classifier_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(BackboneError, match="pip install efficientnet-lite-pytorch"):
        photos.lite0(["tench"])


@pytest.mark.slow
def test_tables_of_photographs(tmp_path, monkeypatch, capsys):
    for name, colour in COLOURS.items():
        write(tmp_path / name, "1.png", colour=colour)
    model = Colours(sorted(COLOURS)).eval().requires_grad_(False)
    prepared = Preprocess((16, 16), (0.0,) * 3, (1.0,) * 3)
    monkeypatch.setattr(photos, "lite0", lambda classes: wrap(model, classes=classes, preprocess=prepared, name="Colours"))
    photos.main(tmp_path, None, "hires_cam", 5, 2, None)
    out = capsys.readouterr().out
    assert out.startswith("Colours, site patches, 5 photographs of 5 classes.")
    lines = out.splitlines()
    assert [line for line in lines if line.startswith("#")] == [
        "### Mosaics, nearest classes",
        "### Mosaics, random classes",
        "### Relative drop",
    ]
    assert sum("5 of 5 photographs are classified correctly" in line for line in lines) == 2
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| hires_cam")]
    mosaic = [["none", "0", "5"], *(["mosaic", strength, "5"] for strength in ("0.6", "1", "1.5"))]
    assert [row[1:4] for row in rows[:8]] == mosaic * 2
    assert [row[1:4] for row in rows[8:]] == [
        ["none", "0", "2"],
        ["rivals:3", "0.6", "2"],
        ["rivals:3", "1", "2"],
    ]
    assert all(len(row) == 10 for row in rows)
