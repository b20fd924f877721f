"""Results of both kinds, written one by one, and read by those whom the files are for."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from slow import by_default

from concept_cam import Localization, world
from concept_cam.datasets import read_dataset
from concept_cam.drawing import overlay
from concept_cam.errors import DatasetError, OptionError, OutputError
from concept_cam.files import FileWriter
from concept_cam.images import read_image
from concept_cam.parts import PartFinding, find_parts, read_parts
from concept_cam.presets import PRESETS, preset_of
from concept_cam.runs.batches import Batch
from concept_cam.writers import (
    Coco,
    Cub,
    Overlays,
    Renamed,
    Saved,
    Table,
    Writer,
    find_parts_of_images,
    localize_images,
    to_coco,
    to_csv,
    to_cub,
    to_supervision,
)
from concept_cam.writers.regions import regions_of

TWINS = ("ember finch", "frost finch")


@pytest.fixture(scope="module")
def localizer():
    return world.localizer()


@pytest.fixture(scope="module")
def plates():
    return {f"{name} {seed}.png": world.draw_species(name, seed, 96).image for seed in range(2) for name in TWINS}


@pytest.fixture(scope="module")
def maps(localizer, plates):
    """Two targets, so that there are two categories."""
    return {name: localizer(plate, *(TWINS if name[0] == "e" else TWINS[::-1])) for name, plate in plates.items()}


@pytest.fixture(scope="module")
def findings(localizer, plates):
    return {name: find_parts(localizer, plate, read_parts("world-parts")) for name, plate in plates.items()}


@pytest.fixture
def files(plates, tmp_path):
    for name, plate in plates.items():
        plate.save(tmp_path / name)
    return [tmp_path / name for name in plates]


def tree(folder: Path):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fill(writer: Writer, results, images=None):
    with writer:
        for name, result in results.items():
            writer.add(name, result, images and images[name])


# ---- one by one is all at once ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["maps", "findings"])
def test_one_by_one_is_all_at_once(kind, request, tmp_path):
    results = request.getfixturevalue(kind)
    fill(Coco(tmp_path / "coco.json"), results)
    fill(Table(tmp_path / "rows.csv"), results)
    fill(Cub(tmp_path / "cub"), results)
    assert json.loads((tmp_path / "coco.json").read_text()) == json.loads(json.dumps(to_coco(results)))
    assert (tmp_path / "rows.csv").read_bytes() == to_csv(results)
    assert tree(tmp_path / "cub") == to_cub(results)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_localization_in_coco_is_its_mask_its_boxes_and_its_peak(maps):
    made = COCO()
    made.dataset = json.loads(json.dumps(to_coco(maps)))
    made.createIndex()
    assert [made.cats[k]["name"] for k in sorted(made.cats)] == list(TWINS)
    for image in made.imgs.values():
        (annotation,) = made.loadAnns(made.getAnnIds(imgIds=image["id"]))
        result = maps[image["file_name"]]
        assert np.array_equal(made.annToMask(annotation).astype(bool), result.mask().numpy())
        assert made.cats[annotation["category_id"]]["name"] == result.comparison.target
        assert annotation["keypoints"] == [*result.peak(), 2]
        assert annotation["score"] == result.scores[result.comparison.target]
        left, top, width, height = annotation["bbox"]
        inside = np.nonzero(result.mask().numpy())
        assert (left, top, left + width, top + height) == (
            *(inside[1].min(), inside[0].min()),
            *(inside[1].max() + 1, inside[0].max() + 1),
        )


def test_a_localization_in_cub_is_read_back(maps, plates, tmp_path):
    fill(Cub(tmp_path), maps)
    for name, plate in plates.items():
        (tmp_path / "images").mkdir(exist_ok=True)
        plate.save(tmp_path / "images" / name)
    found = read_dataset(tmp_path)
    assert found.problems == ()
    for example in found.examples:
        result = maps[example.name]
        assert example.label == result.comparison.target
        assert example.points == (("peak", pytest.approx(result.peak())),)


def test_a_row_says_what_was_asked_and_what_was_found(maps):
    for row, (name, result) in zip(csv.DictReader(io.StringIO(to_csv(maps).decode())), maps.items(), strict=True):
        target, (reference,) = result.comparison.target, result.comparison.references
        assert (row["image"], row["target"], row["references"], row["strength"]) == (name, target, reference, "0.6")
        assert float(row["score"]) == pytest.approx(result.scores[target], rel=1e-5)
        assert float(row["reference_scores"]) == pytest.approx(result.scores[reference], rel=1e-5)
        assert (float(row["x"]), float(row["y"])) == pytest.approx(result.peak(), rel=1e-5)
        assert [tuple(map(int, box.split())) for box in row["boxes"].split("; ")] == list(result.boxes())


def test_what_shows_no_evidence_is_an_image_without_a_region(maps):
    name, result = next(iter(maps.items()))
    against = replace(result, evidence=replace(result.evidence, grid=-result.map.abs()))
    assert regions_of(against).seen == ()
    held = to_coco({name: against})
    assert (len(held["images"]), held["annotations"]) == (1, [])
    assert to_cub({name: against})["parts/part_locs.txt"] == b"1 1 0.0 0.0 0\n"
    assert len(to_supervision(against)) == 0


def test_a_localization_is_one_detection(maps):
    (result, *_) = maps.values()
    found = to_supervision(result)
    assert found.data["class_name"].tolist() == ["ember finch"]
    assert np.array_equal(found.mask[0], result.mask().numpy())


def test_two_kinds_of_results_are_not_one_file(maps, findings):
    (one, other) = next(iter(maps.values())), next(iter(findings.values()))
    for export in (to_coco, to_cub):
        with pytest.raises(OptionError, match="export one vocabulary at a time"):
            export({"a.png": one, "b.png": other})


def test_parquet_has_the_same_cells(maps, findings, tmp_path):
    for results in (maps, findings):
        fill(Table(tmp_path / "rows.parquet"), results)
        held = pyarrow.parquet.read_table(tmp_path / "rows.parquet").to_pylist()
        plain = list(csv.DictReader(io.StringIO(to_csv(results).decode())))
        assert len(held) == len(plain)
        for one, other in zip(held, plain, strict=True):
            assert one.keys() == other.keys()
            for key, cell in one.items():
                shown = "" if cell is None else f"{cell:.6g}" if isinstance(cell, float) else str(cell)
                assert shown == other[key], key
            assert isinstance(held[-1]["x"], float)


def test_a_table_that_is_none_or_needs_what_is_not_there(monkeypatch, tmp_path):
    with pytest.raises(OptionError, match=r"expected a table that ends in \.csv or \.parquet"):
        Table(tmp_path / "rows.txt")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(DatasetError, match=r"install 'concept-cam\[parquet\]'"):
        Table(tmp_path / "rows.parquet")


# ---- whole or not there -----------------------------------------------------------------------------------------------


WHOLE = [lambda folder: Coco(folder / "a.json"), lambda folder: Table(folder / "a.csv"), Cub]


@pytest.mark.parametrize("make", WHOLE)
def test_what_is_not_closed_is_not_there(make, findings, tmp_path):
    with suppress(KeyboardInterrupt), make(tmp_path) as writer:
        writer.add(*next(iter(findings.items())))
        raise KeyboardInterrupt
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("make", WHOLE)
def test_without_a_result_there_is_no_file(make, tmp_path):
    with make(tmp_path):
        pass
    assert tree(tmp_path) == {}


def test_a_file_that_finds_no_room_is_not_there(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"older")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(OutputError, match=r"cannot be written \(No space left on device\)"),
        FileWriter(tmp_path / "a") as file,
    ):
        file.write(b"new")
    assert tree(tmp_path) == {"a": b"older"}


def test_who_draws_needs_the_image(maps, findings, tmp_path):
    for results in (maps, findings):
        with pytest.raises(OptionError, match="give the image to draw on"):
            Overlays(tmp_path).add(*next(iter(results.items())))


def test_files_have_the_names_that_they_are_given(maps, plates, tmp_path):
    name, result = next(iter(maps.items()))
    written = Renamed(Overlays(tmp_path), {name: "other"}).add(name, result, plates[name])
    assert written == (tmp_path / "other-overlay.png", tmp_path / "other-compared.png")


# ---- findings on disk -------------------------------------------------------------------------------------------------


def test_a_finding_is_saved_and_read_to_the_last_digit(findings, tmp_path):
    saved = Saved(tmp_path)
    for name, finding in findings.items():
        (file,) = saved.add(name, finding)
        again = PartFinding.load(file)
        assert to_csv({name: again}) == to_csv({name: finding})
        assert to_coco({name: again}) == to_coco({name: finding})
        assert (again.placement, again.provenance) == (finding.placement, dict(finding.provenance))
        for one, other in zip(again.parts, finding.parts, strict=True):
            assert torch.equal(one.map, other.map)
            assert (one.confidence, one.keypoint, one.box) == (other.confidence, other.keypoint, other.box)
            assert (one.mask is None) == (other.mask is None)
            assert one.mask is None or torch.equal(one.mask, other.mask)
        before = file.read_bytes()
        assert again.save(file).read_bytes() == before


@pytest.mark.parametrize("damage", ["cut", "a localization", "other parts", "a mask of another size", "a word for a number"])
def test_what_is_no_finding_is_one_line(damage, findings, maps, tmp_path):
    file = next(iter(findings.values())).save(tmp_path / "a.safetensors")
    content = file.read_bytes()
    if damage == "a localization":
        next(iter(maps.values())).save(file)
    else:
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        about = json.loads(header["__metadata__"]["parts"])
        if damage == "other parts":
            about["parts"].pop()
        elif damage == "a mask of another size":
            about["parts"][1]["mask"]["size"] = [3, 4]
        else:
            about["parts"][0]["confidence"] = "much"
        header["__metadata__"]["parts"] = json.dumps(about)
        text = json.dumps(header).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
        if damage == "cut":
            file.write_bytes(content[:-100])
    with pytest.raises(OutputError, match=r"a\.safetensors: not a saved finding of parts") as caught:
        PartFinding.load(file)
    assert str(caught.value).isprintable()


# ---- many images in one folder ----------------------------------------------------------------------------------------

MAPS, PARTS = "maps", "parts"


@pytest.fixture(params=by_default([MAPS, PARTS], MAPS))
def work(request, localizer, files, tmp_path, monkeypatch):
    """Run a job on four images, two kept together, in a folder; its failures."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    monkeypatch.setattr("concept_cam.writers.run.BATCH", 2)
    told: list[Path] = []

    def run(folder, images=files, **named):
        told.clear()
        hear = {"told": lambda path, _: told.append(path), "batch_size": 2}
        if request.param == MAPS:
            return localize_images(localizer, images, folder, *TWINS, **hear, **named)
        species = dict.fromkeys(images, "finch")
        return find_parts_of_images(localizer, species, folder, read_parts("world-parts"), **hear, **named).failed

    run.kind, run.told = request.param, told
    return run


def test_what_is_kept_is_not_made_again(work, files, tmp_path, monkeypatch):
    assert work(tmp_path / "out") == 0
    before = tree(tmp_path / "out")
    assert work.told == files
    monkeypatch.setattr("concept_cam.passes.trace", None)
    assert work(tmp_path / "out") == 0
    assert work.told == files
    assert tree(tmp_path / "out") == before


@pytest.mark.parametrize("damage", by_default(["gone", "changed", "the rows", "the seal"], "changed"))
def test_what_is_damaged_is_made_again(work, tmp_path, damage):
    work(tmp_path / "out")
    before = tree(tmp_path / "out")
    ending = {"gone": "0.png", "changed": "0.safetensors", "the rows": "00001.csv", "the seal": "00001.json"}[damage]
    ending = "0-overlay.png" if (damage, work.kind) == ("gone", MAPS) else ending
    (name, *_) = (name for name in before if name.endswith(ending))
    if damage == "gone":
        (tmp_path / "out" / name).unlink()
    else:
        (tmp_path / "out" / name).write_bytes(b"x" + before[name][1:])
    work(tmp_path / "out")
    assert tree(tmp_path / "out") == before


def test_an_interrupted_run_keeps_its_table_and_says_how_much(work, tmp_path, monkeypatch):
    work(tmp_path / "whole")
    real = Overlays.add

    def interrupted(self, name, *rest):
        if "1" in name and "frost" in name:
            raise KeyboardInterrupt
        return real(self, name, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(Overlays, "add", interrupted)
        with pytest.raises(KeyboardInterrupt, match=r"2 of 4 images are kept in .*; the same command resumes there"):
            work(tmp_path / "out")
    table = "rows.csv" if work.kind == MAPS else "parts.csv"
    kept = (tmp_path / "out" / table).read_text().splitlines()
    assert kept == (tmp_path / "whole" / table).read_text().splitlines()[: len(kept)]
    assert len(kept) == 1 + 2 * (1 if work.kind == MAPS else 12)
    work(tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_signal_between_the_seal_of_a_batch_and_its_count_tells_the_batch(work, tmp_path, monkeypatch):
    real = Batch.write

    def interrupted(self, files):
        real(self, files)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Batch, "write", interrupted)
        with pytest.raises(KeyboardInterrupt, match=r"2 of 4 images are kept in .*; the same command resumes there"):
            work(tmp_path / "out")
    work(tmp_path / "out")
    work(tmp_path / "whole")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_another_question_in_the_folder_is_refused(work, files, tmp_path):
    work(tmp_path / "out")
    before = tree(tmp_path / "out")
    plate = world.draw_species("royal jay", 0, 96).image
    with pytest.raises(OutputError, match="holds a run with another strength; choose another folder"):
        work(tmp_path / "out", strength=0.3)
    with pytest.raises(OutputError, match="holds a run with another images"):
        work(tmp_path / "out", images=files[:2])
    with pytest.raises(OutputError, match="holds a run of several images; choose another folder"):
        work(tmp_path / "out", images=files[:1])
    plate.save(files[0])
    with pytest.raises(OutputError, match="holds a run with another set of images"):
        work(tmp_path / "out")
    assert tree(tmp_path / "out") == before


def test_an_image_that_fails_is_told_each_time(work, files, tmp_path):
    files[1].write_bytes(b"no image")
    problems: list[tuple[Path, str]] = []
    hear = partial(work, tmp_path / "out", failed=lambda *given: problems.append(given))
    assert hear() == hear() == 1
    (first, second) = problems
    assert first == second
    assert first[0] == files[1]
    assert "not an image" in first[1]
    if work.kind == MAPS:
        rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "rows.csv").read_text())))
        assert [bool(row["problem"]) for row in rows] == [False, True, False, False]
        assert (rows[1]["image"], rows[1]["x"]) == (str(files[1]), "")


def test_the_sizes_of_batches_do_not_change_what_is_resumed(work, tmp_path, monkeypatch):
    """Images of one batch go through the model together, whatever is kept."""
    work(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "out")
    (tmp_path / "out" / "batches" / "00000.json").unlink()
    work(tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_table_of_ones_own(work, tmp_path):
    work(tmp_path / "out", table=tmp_path / "mine.csv")
    table = "rows.csv" if work.kind == MAPS else "parts.csv"
    mine, own = (
        list(csv.DictReader(io.StringIO(file.read_text()))) for file in (tmp_path / "mine.csv", tmp_path / "out" / table)
    )
    for row in own:
        row.pop("problem", None)
    assert mine == own


# ---- presets ----------------------------------------------------------------------------------------------------------


def test_a_preset_is_found_by_name():
    assert preset_of() == preset_of("world") == PRESETS["world"]
    assert set(PRESETS) == set(world.MODELS)
    other = preset_of("ViT-B-16")
    assert (other.templates, other.part_templates, other.parts, other.draws) == ("photo", "parts", None, False)
    assert preset_of("world-shortcut").load().name == "world-shortcut"
    with pytest.raises(OptionError, match="world has weights and classes of its own"):
        preset_of("world").load("openai")


def test_a_classifier_has_no_texts(localizer):
    assert preset_of("world").suiting(localizer.backbone) == preset_of("world")
    bare = preset_of("resnet50").suiting(type("Classifier", (), {"classes": ("a", "b")})())
    assert (bare.templates, bare.backgrounds) == (None, None)


def test_an_image_can_be_anywhere(localizer, tmp_path):
    """A name that no disk or table should choke on."""
    (tmp_path / "a b").mkdir()
    paths = [tmp_path / "a b" / name for name in ("=1.png", "é\udcff.png")]
    for path in paths:
        world.draw_species("ember finch", 0, 96).image.save(path)
    assert localize_images(localizer, paths, tmp_path / "out", *TWINS) == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "rows.csv").read_text(encoding="utf-8"))))
    assert [Path(row["image"]).name for row in rows] == ["=1.png", "é\\udcff.png"]
    assert localize_images(localizer, paths, tmp_path / "out", *TWINS) == 0
    with Image.open(tmp_path / "out" / "=1-overlay.png") as image:
        result = Localization.load(tmp_path / "out" / "=1.safetensors")
        assert image.crop((0, 0, 96, 96)).tobytes() == overlay(result, read_image(paths[0])).tobytes()


def test_images_that_are_called_as_files_of_a_run(work, files, tmp_path, monkeypatch):
    """Else the summary of run.png would be the settings of the run."""
    images = [files[0].rename(tmp_path / "run.png"), files[1].rename(tmp_path / "HOW.png"), files[2]]
    work(tmp_path / "out", images)
    before = tree(tmp_path / "out")
    assert json.loads(before["run.json"])["job"] == ("localize" if work.kind == MAPS else "parts")
    monkeypatch.setattr("concept_cam.passes.trace", None)
    work(tmp_path / "out", images)
    assert tree(tmp_path / "out") == before


def test_results_are_in_the_order_of_the_images_whatever_fails_and_is_kept(work, files, plates, tmp_path):
    """The last image of the first batch fails, and batches before and behind one that is kept are made again."""
    more = [tmp_path / f"more {k}.png" for k in range(2)]
    for file in more:
        next(iter(plates.values())).save(file)
    files[1].write_bytes(b"no image")
    images = [*files, *more]
    work(tmp_path / "out", images, table=tmp_path / "first.csv")
    before, table = tree(tmp_path / "out"), (tmp_path / "first.csv").read_bytes()
    for number in (0, 2):
        (tmp_path / "out" / "batches" / f"0000{number}.json").unlink()
    work(tmp_path / "out", images, table=tmp_path / "second.csv")
    assert tree(tmp_path / "out") == before
    assert (tmp_path / "second.csv").read_bytes() == table


def test_an_image_that_changed_meanwhile_is_looked_at_again(work, files, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        states = iter(range(1000))
        patched.setattr("concept_cam.writers.run.state_of", lambda path: next(states) if path == files[3] else None)
        assert work(tmp_path / "out") == 1
    assert work(tmp_path / "out") == 0
    assert work(tmp_path / "whole") == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_without_images_there_is_no_run(work, tmp_path):
    with pytest.raises(OptionError, match="There are no images"):
        work(tmp_path / "out", [])


def test_references_may_be_a_generator(localizer, files, tmp_path):
    localize_images(localizer, files, tmp_path / "a", TWINS[0], (name for name in TWINS[1:]))
    localize_images(localizer, files, tmp_path / "b", TWINS[0], TWINS[1])
    (one, *_), (other, *_) = (csv.DictReader(io.StringIO((tmp_path / n / "rows.csv").read_text())) for n in "ab")
    assert one == other
    assert one["references"] == TWINS[1]
