"""A set that ``concept-cam world`` writes goes through every command as it lies, as a folder and as a table."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from slow import by_default

from concept_cam.datasets import read_dataset
from concept_cam.world.heldout import twin_plates, write_set


def table(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The first eight twins, as the command writes them."""
    folder = tmp_path_factory.mktemp("written") / "set"
    assert len(list(write_set(folder, 8, seed=3, size=96))) == 8
    return folder


@pytest.mark.parametrize("command", by_default(["evaluate", "audit"], "evaluate"))
@pytest.mark.parametrize("given", by_default(["", "labels.csv", "differences.csv"], "labels.csv"))
def test_a_written_set_is_a_data_set_as_it_lies(command_line, written, tmp_path, command, given):
    """As a folder of classes, and as a table; with masks, where it says more."""
    few = ("--methods", "grad_cam") if command == "evaluate" else ()
    code, out, err = command_line(command, written / given, *few, "--out", "out")
    assert code == 0, err
    assert "8 images, 0 skipped" in out
    rows = [row for row in table(tmp_path / "out" / "rows.csv") if not row["problem"]]
    assert {row["label"] for row in rows} == {row["label"] for row in table(written / "labels.csv")}
    assert len({row["image"] for row in rows}) == 8
    assert all(bool(row["energy"]) == bool(given) for row in rows)
    if command == "audit":
        assert all(row["predicted"] == row["label"] for row in rows)
        assert json.loads((tmp_path / "out" / "summary.json").read_text())["accuracy"] == 1.0


def test_masks_of_a_written_set_are_those_of_its_tables(written):
    birds, differences = (read_dataset(written / name) for name in ("labels.csv", "differences.csv"))
    for bird, difference, item in zip(birds.examples, differences.examples, twin_plates(8, 3, 96), strict=True):
        assert (bird.label, bird.twin) == (difference.label, difference.twin) == (item.target, item.twin)
        assert np.array_equal(bird.region().numpy(), item.plate.labels > 0)
        assert np.array_equal(difference.region().numpy(), item.mask)


@pytest.mark.slow
@pytest.mark.parametrize("given", ["", "labels.csv"])
def test_a_written_set_is_images_for_localize_and_parts(command_line, written, tmp_path, given):
    """As a folder of a folder for each species, and as a table of them."""
    twins = ("--target", "ember finch", "--against", "frost finch")
    code, _, err = command_line("localize", written / given, *twins, "--out", "maps")
    assert code == 0, err
    stems = {path.stem for path in written.glob("*/*.png")}
    assert {path.stem for path in (tmp_path / "maps").glob("*.json")} - {"how", "run"} == stems
    assert len(stems) == 8
    code, out, err = command_line("parts", written / given, "--out", "parts")
    assert code == 0, err
    assert "8 images, " in out
    sheets = {path.name for path in (tmp_path / "parts").glob("sheet-*.html")}
    assert sheets == {f"sheet-{row['label'].replace(' ', '-')}.html" for row in table(written / "labels.csv")}


@pytest.mark.slow
def test_a_table_says_what_its_images_show(command_line, written, tmp_path):
    """Whatever their folders are called; a row that cannot be used is told."""
    plates = tmp_path / "plates"
    plates.mkdir()
    rows = table(written / "labels.csv")[:2]
    for k, row in enumerate(rows):
        (plates / f"{k}.png").write_bytes((written / row["file"]).read_bytes())
    (tmp_path / "set.csv").write_text("file,label\nplates/0.png,first bird\nplates/1.png,second bird\nplates/2.png,none\n")
    code, out, err = command_line("parts", "set.csv", "--out", "parts")
    assert code == 0, err
    assert "2 images, " in out
    assert {path.name for path in (tmp_path / "parts").glob("sheet-*.html")} == {
        "sheet-first-bird.html",
        "sheet-second-bird.html",
    }
    assert "plates/2.png" in err
