"""``concept-cam fields`` and ``concept-cam search`` from end to end: what they write, and one line for every mistake."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from clis import Run, embedded, names, run
from PIL import Image

from concept_cam import Backbone, Localizer, world
from concept_cam.store import Store, store_fields
from concept_cam.tables import read_table

SPECIES = ("ember finch", "frost finch", "royal jay", "misty heron")


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("birds")
    for name in SPECIES:
        world.draw_species(name, 3, 96).image.save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def made(embedded: Backbone, birds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store that the command makes, without the time that it takes to start."""
    folder = tmp_path_factory.mktemp("made") / "store"
    store_fields(Localizer(embedded, templates="world"), sorted(birds.iterdir()), folder, about={"pretrained": None})
    return folder


@pytest.fixture
def stored(run: Run, made: Path) -> Path:
    return Path(shutil.copytree(made, "store"))


def test_from_images_to_a_page(run: Run, birds: Path) -> None:
    made = run("fields", birds, "--out", "store")
    assert (made.code, made.err) == (0, "")
    assert made.out == "4 fields in store\nnext: concept-cam search store 'red crown'\n"
    stored = Path("store")
    assert names(stored) == {"batches", "how.json", "index.safetensors", "rows.csv", "run.json"}
    done = run("search", stored, "red crown", "long beak", "--against", "bird", "--top", 3, "--out", "found")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "red crown: the highest 3 of 4 images; the first is ember finch.png"
    assert lines[1] == "1 of the first 3 of 4 images scores higher for red crown than for bird: ember finch."
    assert lines[2].startswith("long beak: the highest 3 of 4 images; the first is misty heron.png")
    assert lines[4] == "page in found/search.html"
    assert names(Path("found")) == {"explore.html", "matches.csv", "matches.json", "how.json", "overlays", "search.html"}
    assert names(Path("found", "overlays")) == {f"{k:02d}-{rank:04d}.png" for k in (1, 2) for rank in (1, 2, 3)}
    with Image.open("found/overlays/01-0001.png") as overlay:
        assert overlay.crop((0, 0, 96, 96)).size < overlay.size  # a legend beneath
    rows = read_table(Path("found", "matches.csv").read_bytes())
    assert [(row["target"], row["rank"]) for row in rows] == [
        (t, str(k)) for t in ("red crown", "long beak") for k in (1, 2, 3)
    ]
    assert rows[0]["image"] == str(birds / "ember finch.png")
    assert {row["references"] for row in rows} == {"bird"}
    told = json.loads(Path("found", "matches.json").read_text())
    assert told["images"] == 4
    page = Path("found", "search.html").read_text()
    assert "<h1>Search: red crown, long beak</h1>" in page
    assert "red crown against bird, strength 0.6" in page
    assert json.loads(Path("found", "how.json").read_text())["command"].startswith("concept-cam search store 'red crown'")


def test_the_same_command_resumes_and_other_options_are_refused(run: Run, stored: Path, birds: Path) -> None:
    before = {file.name: file.read_bytes() for file in stored.iterdir() if file.is_file()}
    (stored / "index.safetensors").unlink()
    assert run("fields", birds, "--out", "store").code == 0
    assert {file.name: file.read_bytes() for file in stored.iterdir() if file.is_file()} == before
    assert "holds a run with another keep" in run("fields", birds, "--keep", "compact", "--out", "store").line()
    assert "keep is 'all'; expected exact or compact" in run("fields", birds, "--keep", "all").line()


@pytest.mark.filterwarnings("ignore:.*no more like:UserWarning")
def test_references_and_strength(run: Run, stored: Path) -> None:
    for options, references, strength in (
        (("--nearest", 2), "frost finch", "0.6"),
        (("--against", "frost finch", "--strength", 1), "frost finch", "1"),
        ((), None, "0"),
    ):
        assert run("search", stored, "ember finch", *options, "--out", "found").code == 0
        row = read_table(Path("found", "matches.csv").read_bytes())[0]
        assert row.get("references", "").split("; ")[0] == (references or "")
        assert row["strength"] == strength
    Path("own.txt").write_text("royal jay\nmisty heron\n")
    assert run("search", stored, "ember finch", "--nearest", 1, "--vocabulary", "own.txt", "--out", "found").code == 0
    assert read_table(Path("found", "matches.csv").read_bytes())[0]["references"] in ("royal jay", "misty heron")


def test_the_input_of_the_store_need_not_be_said_again(run: Run, birds: Path) -> None:
    options = ("--size", "128x96", "--fit", "squash", "--templates", "plain", "--method", "hires_cam")
    assert run("fields", birds, *options, "--out", "store").code == 0
    done = run("search", "store", "red crown", "--against", "bird", "--out", "found")
    assert (done.code, done.err) == (0, "")
    assert Store.open("store").field(0).vectors.shape[:2] == (16, 12)


def test_images_that_are_gone_are_listed(run: Run, stored: Path, birds: Path, tmp_path: Path) -> None:
    shutil.copytree(birds, "moved")
    Path("moved", "ember finch.png").unlink()
    done = run("search", stored, "red crown", "--root", "moved", "--out", "found")
    assert (done.code, done.err) == (0, "")
    rows = read_table(Path("found", "matches.csv").read_bytes())
    assert {Path(row["image"]).name: "problem" in row for row in rows} == {
        f"{name}.png": name == SPECIES[0] for name in SPECIES
    }
    assert all("x" in row for row in rows)


def test_a_name_that_is_mistyped_begins_no_store(run: Run, birds: Path) -> None:
    for given in (("brids",), ("gone.png", "brids")):
        failed = run("fields", *given, "--out", "new")
        assert failed.code == 2
        assert failed.line().startswith(f"concept-cam: {given[0]}: the file does not exist; expected an image")
        assert not Path("new").exists()
    assert run("fields", birds, "gone.png", "--out", "new").code == 2  # of several, what is missing is a row
    assert "gone.png" in Path("new/rows.csv").read_text()


def test_mistakes_are_one_line(run: Run, stored: Path, birds: Path) -> None:
    assert "never seen the word 'crwn'. Did you mean 'crown'?" in run("search", stored, "red crwn").line()
    assert "made with another model" in run("search", stored, "red crown", "--model", "world-shortcut").line()
    assert "store holds a run of several images" in run("search", stored, "red crown", "--out", stored).line()
    assert "nowhere/run.json: not the settings of a run" in run("search", "nowhere", "red crown").line()
    assert "its own references" in run("search", stored, "bird", "--against", "bird").line()
    assert "give one of them" in run("search", stored, "a", "--against", "bird", "--nearest", 1).line()
    assert "Missing argument" in run("search", stored).line()
    assert "Missing argument" in run("fields").line()
    assert "No method 'gradcam'" in run("fields", birds, "--method", "gradcam").line()
    assert "is not linear in the direction" in run("fields", birds, "--method", "layer_cam", "--out", "other").line()
    batch = stored / "batches" / "00000.safetensors"
    batch.write_bytes(batch.read_bytes()[:-100])
    assert "not fields" in run("search", stored, "red crown", "--out", "found").line()
    shutil.copy(birds / "royal jay.png", "jay.png")
    Path("rows.csv").write_text("file,label\njay.png,jay\n")
    assert "rows.csv is one of the images, or their list" in run("fields", "rows.csv", "--out", ".").line()
    Path("bad.png").write_bytes(b"no image")
    done = run("fields", "bad.png", birds / "ember finch.png", "--out", "some")
    assert done.code == 2
    assert done.err.splitlines()[-1] == "concept-cam: 1 of 2 images failed; the others are in some."
    assert len(Store.open("some")) == 1
