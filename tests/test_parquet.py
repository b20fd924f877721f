"""A run as a Parquet data set: five readers see what the results are; what is resumed or shared has the same bytes."""

from __future__ import annotations

import hashlib
import json
import shutil
from functools import partial
from pathlib import Path

import crews
import numpy as np
import pytest
import torch

from concept_cam import Localizer, world
from concept_cam.errors import DatasetError, OptionError, OutputError
from concept_cam.evidence import EvidenceMap
from concept_cam.images import Placement
from concept_cam.parts import read_parts
from concept_cam.runlengths import run_lengths
from concept_cam.runs import run_together
from concept_cam.writers import dataset, find_parts_of_images, localize_images, read_results

TWINS = ("ember finch", "frost finch")
BROKEN = 2
PARQUET = {"output": "parquet"}


@pytest.fixture(autouse=True)
def dated(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


@pytest.fixture(scope="module")
def localizer():
    return world.localizer()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Five files, of which one is no image, in two formats."""
    paths = [tmp_path_factory.mktemp("images") / f"{seed}.png" for seed in range(5)]
    for seed, path in enumerate(paths):
        drawn = world.draw_species("ember finch", seed, 96).image
        (drawn if seed % 2 else drawn.crop((0, 0, 96, 70))).save(path)
    paths[BROKEN].write_bytes(b"no image")
    return paths


@pytest.fixture(scope="module")
def made(localizer, images, tmp_path_factory):
    """Three batches, of two, two and one image; and the results in memory."""
    folder, results = tmp_path_factory.mktemp("written"), {}
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SOURCE_DATE_EPOCH", "1700000000")
        patched.setattr("concept_cam.writers.localized.ROWS", 2)
        failed = localize_images(localizer, images, folder, *TWINS, batch_size=2, told=results.__setitem__, **PARQUET)
    assert failed == 1
    assert set(results) == {path for path in images if path != images[BROKEN]}
    return folder, results


@pytest.fixture
def written(made):
    return made[0]


@pytest.fixture
def results(made):
    return made[1]


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


# ---- five readers -----------------------------------------------------------------------------------------------------


def by_pyarrow(data):
    import pyarrow.dataset

    table = pyarrow.dataset.dataset(data).to_table()
    assert json.loads(table.schema.metadata[b"concept_cam"])["model"]
    assert str(table.schema.field("map").type) == "fixed_size_list<element: halffloat>[144]"
    return table.to_pylist()


def by_pandas(data):
    import pandas

    return pandas.read_parquet(data).to_dict("records")


def by_polars(data):
    import polars

    frame = polars.scan_parquet(data / "*.parquet").collect()
    assert frame.schema["map"] == polars.Array(polars.Float16, 144)
    return frame.to_dicts()


def by_duckdb(data):
    import duckdb

    with duckdb.connect() as connection:
        found = connection.execute(f"select * from read_parquet('{data}/*.parquet')")
        names = [column[0] for column in found.description]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def by_datasets(data):
    from datasets import Dataset

    files = [str(file) for file in sorted(data.iterdir())]
    rows = Dataset.from_parquet(files, keep_in_memory=True, cache_dir=str(data.parent / "cache"))
    assert rows.features["map"].length == 144
    return list(rows)


READERS = {"pyarrow": by_pyarrow, "pandas": by_pandas, "polars": by_polars, "duckdb": by_duckdb, "datasets": by_datasets}


@pytest.mark.parametrize("reader", READERS)
def test_five_readers_see_the_results(reader, written, images, results, tmp_path):
    shutil.copytree(written / "data", tmp_path / "data")
    rows = READERS[reader](tmp_path / "data")
    assert [row["image"] for row in rows] == [str(path) for path in images]
    for row, path in zip(rows, images, strict=True):
        assert row["id"] == hashlib.sha256(path.read_bytes()).hexdigest()
        if path == images[BROKEN]:
            assert "not an image" in row["problem"]
            assert row["map"] is None
            continue
        result = results[path]
        assert row["problem"] is None or row["problem"] != row["problem"]
        assert (row["height"], row["width"]) == result.placement.image_size
        assert (row["target"], *row["references"]) == TWINS
        assert (row["peak_x"], row["peak_y"]) == pytest.approx(result.peak())
        scores = result.scores
        assert (row["score"], *row["reference_scores"]) == pytest.approx([scores[name] for name in TWINS], abs=1e-6)
        assert tuple(tuple(map(int, box)) for box in row["boxes"]) == result.boxes()
        size = [int(side) for side in row["mask"]["size"]]
        assert torch.equal(
            torch.from_numpy(run_lengths({**row["mask"], "size": size}, (size[0], size[1])).copy()), result.mask()
        )
        assert row["scale"] == 1
        for name, own in (("map", result.map), ("base_map", result.base_map)):
            cells = np.asarray(row[name], np.float64).reshape(int(row["rows"]), int(row["cols"]))
            assert np.array_equal(cells, own.numpy().astype(np.float16).astype(np.float64))


def test_rows_one_by_one_have_maps_in_their_shape(written, images, results):
    rows = list(read_results(written))
    assert [row["problem"] is None for row in rows] == [path in results for path in images]
    assert [row["map"].shape for row in rows if row["map"] is not None] == [(12, 12)] * 4
    assert rows[0]["map"].dtype == np.float32
    assert np.array_equal(rows[0]["map"], results[images[0]].map.half().float().numpy())


def test_a_folder_without_a_data_set_and_a_damaged_one_are_one_line(written, tmp_path):
    with pytest.raises(OutputError, match=r"no data set; expected data/00000\.parquet"):
        next(read_results(tmp_path))
    shutil.copytree(written, tmp_path / "out")
    (tmp_path / "out" / "data" / "00001.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(OutputError, match=r"00001\.parquet: not a saved file of results"):
        list(read_results(tmp_path / "out"))


@pytest.mark.parametrize("most", [1e-9, 1e9, 1.0, 0.0])
def test_maps_beyond_the_range_of_half_precision_have_a_scale(most):
    grid = most * torch.linspace(-0.3, 1, 12, dtype=torch.float64).reshape(3, 4)
    row = dataset._of_maps(map=grid, base_map=grid / 2)
    assert (row["scale"] == 1) == (most in (1.0, 0.0))
    assert np.log2(row["scale"]).is_integer()
    for name, own in (("map", grid), ("base_map", grid / 2)):
        assert row[name].dtype == np.float16
        assert np.abs(row[name].astype(np.float64) * row["scale"] - own.numpy().ravel()).max() <= 2.0**-11 * most


def test_the_regions_of_a_map_are_its_mask_and_its_boxes():
    grid = torch.rand(7, 9, generator=torch.Generator().manual_seed(0)) - 0.5
    evidence = EvidenceMap(grid, Placement((-3.0, 5.0, 90.0, 70.0), (80, 75)))
    mask, boxes = evidence.regions(0.6)
    assert torch.equal(mask, evidence.mask(0.6))
    assert boxes == evidence.boxes(0.6)
    assert len(boxes) > 1


# ---- a run ------------------------------------------------------------------------------------------------------------


def again(localizer, images, folder, monkeypatch, **named):
    monkeypatch.setattr("concept_cam.writers.localized.ROWS", 2)
    return localize_images(localizer, images, folder, *TWINS, batch_size=2, **PARQUET, **named)


def test_nothing_is_written_for_each_image(written):
    files = tree(written)
    assert {name for name in files if "/" not in name} == {"run.json", "how.json", "rows.csv"}
    assert sorted(name for name in files if name.startswith("data/")) == [f"data/0000{n}.parquet" for n in range(3)]
    assert len(files) == 3 + 3 * 4


@pytest.mark.parametrize("damage", ["gone", "changed", "the seal"])
def test_a_batch_that_is_made_again_has_the_same_bytes(localizer, written, images, tmp_path, monkeypatch, damage):
    shutil.copytree(written, tmp_path / "out")
    file = tmp_path / "out" / "data" / "00001.parquet"
    if damage == "gone":
        file.unlink()
    elif damage == "changed":
        file.write_bytes(b"x" + file.read_bytes()[1:])
    else:
        (tmp_path / "out" / "batches" / "00001.json").unlink()
    told, failed = [], []
    hear = {"told": lambda path, _: told.append(path), "failed": lambda path, _: failed.append(path)}
    assert again(localizer, images, tmp_path / "out", monkeypatch, **hear) == 1
    assert (told, failed) == ([images[3]], [images[BROKEN]])
    assert tree(tmp_path / "out") == tree(written)


def test_what_is_kept_is_not_made_again_and_its_failures_are_told(written, localizer, images, tmp_path, monkeypatch):
    shutil.copytree(written, tmp_path / "out")
    monkeypatch.setattr("concept_cam.question.Question.answers", None)
    failed = []
    assert again(localizer, images, tmp_path / "out", monkeypatch, failed=lambda *given: failed.append(given)) == 1
    assert [path for path, _ in failed] == [images[BROKEN]]


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(images, tmp_path):
    many = [path.with_name(f"{n:03d}.png") for n in range(260) for path in images[:1]]
    for n, path in enumerate(many):
        shutil.copy(images[n % len(images)], path)
    for processes in (1, 2):
        job = partial(localize_images, crews.localizer(), many, tmp_path / str(processes), *TWINS, **PARQUET)
        assert run_together(processes, job) == 52
    assert tree(tmp_path / "1") == tree(tmp_path / "2")
    assert len(list(read_results(tmp_path / "2"))) == 260


def test_of_one_image_there_is_a_data_set_too_and_its_failure_is_a_row(localizer, images, tmp_path):
    assert localize_images(localizer, images[BROKEN : BROKEN + 1], tmp_path / "out", *TWINS, **PARQUET) == 1
    (row,) = read_results(tmp_path / "out")
    assert "not an image" in row["problem"]


def test_overlays_are_drawn_on_request(localizer, images, tmp_path):
    localize_images(localizer, images[:2], tmp_path / "drawn", *TWINS, overlays=True, **PARQUET)
    localize_images(localizer, images[:2], tmp_path / "files", *TWINS, overlays=False)
    drawn, files = tree(tmp_path / "drawn"), tree(tmp_path / "files")
    overlays = {f"{n}-{kind}.png" for n in range(2) for kind in ("overlay", "compared")}
    assert {name for name in drawn if name.endswith(".png")} == overlays
    assert not any(name.endswith((".safetensors", "0.json")) and "/" not in name for name in drawn)
    assert not any(name.endswith(".png") for name in files)
    assert {"0.safetensors", "0.json", "1.safetensors"} <= set(files)
    with pytest.raises(OutputError, match="holds a run with another overlays"):
        localize_images(localizer, images[:2], tmp_path / "drawn", *TWINS, **PARQUET)
    with pytest.raises(OutputError, match="holds a run with another output"):
        localize_images(localizer, images[:2], tmp_path / "files", *TWINS, overlays=False, **PARQUET)


def test_where_grids_vary_all_files_have_one_schema(images, tmp_path, monkeypatch):
    import pyarrow.dataset
    import pyarrow.parquet

    localizer = Localizer(world.localizer().backbone, fit="native")
    again(localizer, images[:2] + images[3:], tmp_path, monkeypatch)
    schemas = [pyarrow.parquet.read_schema(file) for file in sorted((tmp_path / "data").iterdir())]
    assert schemas[0].equals(schemas[1], check_metadata=True)
    assert str(schemas[0].field("map").type) == "list<element: halffloat>"
    shapes = [row["map"].shape for row in read_results(tmp_path)]
    assert shapes == [tuple(localizer(path, *TWINS).map.shape) for path in images[:2] + images[3:]]
    assert len(set(shapes)) == 2
    assert pyarrow.dataset.dataset(tmp_path / "data").count_rows() == 4


def test_what_does_not_go_together_is_refused(localizer, images, tmp_path, monkeypatch):
    with pytest.raises(OptionError, match="No output 'csv'; expected files or parquet"):
        localize_images(localizer, images, tmp_path, *TWINS, output="csv")
    with pytest.raises(OptionError, match="has no effect with parquet: the data set is the table"):
        localize_images(localizer, images, tmp_path, *TWINS, table="all.csv", **PARQUET)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(DatasetError, match=r"install 'concept-cam\[parquet\]'"):
        localize_images(localizer, images, tmp_path, *TWINS, **PARQUET)


# ---- parts ------------------------------------------------------------------------------------------------------------


def test_parts_have_a_row_each(localizer, images, tmp_path):
    vocabulary = read_parts("world-parts")
    species = dict.fromkeys(images[:3], "ember finch")
    findings = {}
    work = partial(find_parts_of_images, localizer, species, tmp_path, vocabulary, told=findings.__setitem__, **PARQUET)
    made, again = work(), work()
    assert (made.failed, made.asked, made.visible) == (again.failed, again.asked, again.visible)
    assert (made.failed, made.asked, made.sheets) == (1, 24, 0)
    assert {name.split("/")[0] for name in tree(tmp_path)} == {"run.json", "how.json", "parts.csv", "batches", "data"}
    rows = list(read_results(tmp_path))
    assert len(rows) == 25
    assert "not an image" in rows[24]["problem"]
    assert rows[24]["part"] is None
    assert made.visible == sum(bool(row["visible"]) for row in rows)
    parts = [part for path in images[:2] for part in findings[path].parts]
    for row, part in zip(rows[:24], parts, strict=True):
        assert (row["part"], row["visible"]) == (part.name, part.visible)
        assert row["confidence"] == pytest.approx(part.confidence)
        assert np.array_equal(row["map"], part.map.half().float().numpy())
        read = {one["name"]: (one["value"], pytest.approx(one["confidence"])) for one in row["attributes"]}
        assert read == {name: (one.value, one.confidence) for name, one in part.attributes.items()}
        if part.visible:
            assert (row["x"], row["y"]) == pytest.approx(part.keypoint)
            assert tuple(row["box"]) == part.box
            assert np.array_equal(run_lengths(row["mask"], tuple(row["mask"]["size"])), part.mask.numpy())
        else:
            assert (row["x"], row["box"], row["mask"]) == (None, None, None)
    assert {row["visible"] for row in rows} == {True, False, None}


# ---- the command ------------------------------------------------------------------------------------------------------


def test_the_command_says_one_line_and_writes_the_data_set(command_line, images, tmp_path):
    out = tmp_path / "out"
    asked = ("localize", *images[:2], "--target", TWINS[0], "--against", TWINS[1], "--as", "parquet", "--out", out)
    code, said, err = command_line(*asked)
    assert code == 0, err
    first, _, after = said.partition("next: ")
    assert first.splitlines()[-1] == f"2 images in {out}/data/*.parquet"
    assert after.startswith("concept-cam ")
    assert "--sweep" not in after  # several strengths would be drawn, and nothing is drawn here
    rows = sorted(read_results(out), key=lambda row: -row["score"])
    listed = [line.split("│")[1:3] for line in first.splitlines() if line.startswith("│")]
    assert [score.strip() for _, score in listed] == [f"{row['score']:.3f}" for row in rows]
    # Who finds them there has not seen them, and ranks none.
    code, said, err = command_line(*asked)
    assert (code, said.splitlines()) == (0, [f"2 images in {out}/data/*.parquet"]), err
    code, said, err = command_line("parts", *images[:2], "--as", "parquet", "--out", tmp_path / "parts")
    assert code == 0, err
    assert "parts visible" in said
    assert "coco.json" not in said
    code, _, err = command_line(*asked[:-1], out, "--overlays")
    assert code == 2
    assert "another" in err
