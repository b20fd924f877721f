"""An audit read again from its folder, without the model: the same figures and pages; what does not fit is not believed."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from audits import HABITATS, SPECIES, Cells, audited, by_hand, localizer, small, table
from safetensors.torch import load_file, save_file
from slow import cases

from concept_cam import world
from concept_cam.audit import Audit, AuditRow, audit, write_report, write_tables
from concept_cam.audit.model_diff import moves
from concept_cam.audit.summary import summary
from concept_cam.datasets import Dataset, Example
from concept_cam.errors import OutputError
from concept_cam.runs import columns
from concept_cam.world.dataset import birds_dataset


@pytest.fixture(scope="module")
def finished(localizer, tmp_path_factory):
    """An audit of twelve plates in two batches, with its page and tables."""
    folder = tmp_path_factory.mktemp("finished") / "audit"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("concept_cam.audit.run.BATCH", 8)
        examples = [*birds_dataset(12).examples, Example("gone", folder / "gone.png", SPECIES[0])]
        found = audited(localizer, Dataset("plates", SPECIES, examples, problems=("x.png: odd",)), folder)
    write_report(found)
    write_tables(found)
    return found


@pytest.fixture
def copy(finished, tmp_path):
    return Path(shutil.copytree(finished.folder, tmp_path / "copy"))


@pytest.fixture
def counted(localizer, monkeypatch):
    """Counts passes of the model, and how often each file of maps is opened."""
    kind, passes, files = type(localizer.backbone), [], Counter()
    own = kind.embed_pixels
    monkeypatch.setattr(kind, "embed_pixels", lambda self, pixels: passes.append(len(pixels)) or own(self, pixels))
    import concept_cam.runs.tensors as tensors

    opened = tensors.opened
    monkeypatch.setattr(tensors, "opened", lambda path: files.update([Path(path).name]) or opened(path))
    return passes, files


@pytest.mark.parametrize(("count", "batches"), cases([(8, 1), (100, 2)], (8, 1)))
def test_a_report_makes_no_pass_and_reads_each_batch_once(localizer, tmp_path, counted, count, batches):
    passes, files = counted
    found = audited(localizer, birds_dataset(count), tmp_path)
    assert sum(passes) == 2 * count
    passes.clear()
    for one in (found, Audit.load(tmp_path)):
        files.clear()
        write_report(one)
        write_tables(one)
        summary(one)
        assert passes == []
        assert files == {f"{batch:05d}.safetensors": 1 for batch in range(batches)}
    assert len(Cells((tmp_path / "report.html").read_text()).links) >= 0.3 * count


def test_what_is_read_again_is_what_was_found(finished, copy):
    found = Audit.load(copy)
    assert found.rows == finished.rows
    assert found.problems == finished.problems
    assert vars(found.setup) == vars(finished.setup)
    assert (found.made, found.settings) == (finished.made, finished.settings)
    assert found.classes == finished.classes
    assert found.backgrounds() == finished.backgrounds()
    assert summary(found) == summary(finished)
    for ours, theirs in zip(found.pairs(None), finished.pairs(None), strict=True):
        assert torch.equal(ours.map, theirs.map)
        assert torch.equal(ours.shared, theirs.shared)
        assert (ours.differences, ours.agreements, ours.shown) == (theirs.differences, theirs.agreements, theirs.shown)


def test_the_page_and_the_tables_are_the_same_bytes(finished, copy):
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    made = [copy / "report.html", *copy.glob("*.csv"), *(copy / "images").iterdir(), copy / "summary.json"]
    made += (pairs := list((copy / "pairs").iterdir()))
    assert pairs
    for path in made:
        if path.name != "rows.csv":
            path.unlink()
    found = Audit.load(copy)
    write_report(found)
    write_tables(found)
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_pairs_and_backgrounds_are_computed_once(finished):
    assert finished.pairs(None)[0] is finished.pairs()[0]
    assert finished.backgrounds() is finished.backgrounds()
    assert moves(finished, finished) is moves(finished, finished)


def test_the_page_and_the_tables_are_written_by_two_functions(copy):
    for path in (*copy.glob("*.csv"), copy / "report.html"):
        if path.name != "rows.csv":
            path.unlink()
    found = Audit.load(copy)
    write_report(found)
    assert [path.name for path in copy.glob("*.csv")] == ["rows.csv"]
    (copy / "report.html").unlink()
    write_tables(found)
    assert not (copy / "report.html").exists()
    assert len(list(copy.glob("*.csv"))) == 5


def test_the_page_says_what_the_columns_hold(finished):
    rows = Cells((finished.folder / "report.html").read_text()).rows["The tables beside this page"]
    assert [row[0] for row in rows[1:]] == [*columns(AuditRow), "problem"]
    assert dict(map(tuple, rows[1:]))["off_object"] == columns(AuditRow)["off_object"].help


# ---- images -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def of_files(localizer, tmp_path):
    """An audit of two images on disk."""
    folder = tmp_path / "there" / "images"
    folder.mkdir(parents=True)
    for k in range(2):
        world.draw_species(SPECIES[k], k, 500).image.save(folder / f"{k}.png")
    data = Dataset("files", SPECIES, [Example(f"{k}", folder / f"{k}.png", SPECIES[k]) for k in range(2)])
    return audit(localizer, data, tmp_path / "there" / "audit", backgrounds=HABITATS)


def links(folder):
    return set(Cells(write_report(Audit.load(folder)).read_text()).links)


def test_images_are_read_again_from_their_files(of_files, tmp_path):
    drawn = links(of_files.folder)
    assert len(drawn) == 2
    # The whole of it may be somewhere else.
    (tmp_path / "there").rename(tmp_path / "elsewhere")
    assert links(tmp_path / "elsewhere" / "audit") == drawn
    # Nothing is kept of what is a file.
    assert load_file(tmp_path / "elsewhere" / "audit" / "batches" / "00000.safetensors")["sources"].numel() < 50


@pytest.mark.parametrize("change", ["gone", "changed", "no image", "a folder"])
def test_an_image_that_is_not_what_it_was_has_no_picture(of_files, change):
    file = of_files.folder.parent / "images" / "0.png"
    if change == "changed":
        # As large as it was.
        world.draw_species(SPECIES[5], 9, 500).image.save(file)
    else:
        file.unlink()
    if change == "no image":
        file.write_bytes(b"nothing")
    elif change == "a folder":
        file.mkdir()
    assert [link[7:12] for link in links(of_files.folder)] == ["00001"]


def test_what_is_no_file_is_kept_small(localizer, tmp_path):
    """Drawn at the size of the copy, in the same place of the image."""
    plate = world.draw_species(SPECIES[0], 3, 1000)
    data = Dataset("drawn", SPECIES, [Example("a", plate.image, SPECIES[0]), Example("b", lambda: plate.image, SPECIES[0])])
    found = audit(localizer, data, tmp_path)
    drawings = found.drawings([0, 1])
    assert [one.image(tmp_path).size for one in drawings.values()] == [(360, 360)] * 2
    assert {one.placement.image_size for one in drawings.values()} == {(1000, 1000)}
    assert len(links(tmp_path)) == 2


# ---- damage -----------------------------------------------------------------------------------------------------------


def changed_json(name, change):
    def damage(folder):
        held = json.loads((folder / name).read_text())
        change(held)
        (folder / name).write_text(json.dumps(held))

    return damage


def changed_tensors(change):
    def damage(folder):
        file = folder / "batches" / "00001.safetensors"
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file)

    return damage


def changed_rows(old, new):
    def damage(folder):
        text = (folder / "rows.csv").read_text()
        assert re.search(old, text)
        (folder / "rows.csv").write_text(re.sub(old, new, text, count=1))

    return damage


DAMAGED = {
    "no audit.json": (lambda folder: (folder / "audit.json").unlink(), "there is no finished audit here"),
    "no rows": (lambda folder: (folder / "rows.csv").unlink(), "rows.csv: not the rows"),
    "no batch": (lambda folder: (folder / "batches" / "00001.safetensors").unlink(), "maps of 8 of 12 images"),
    "cut short": (
        lambda folder: (folder / "batches" / "00000.safetensors").write_bytes(
            (folder / "batches" / "00000.safetensors").read_bytes()[:-5]
        ),
        "00000.safetensors: not the maps of an audit",
    ),
    "no header": (
        lambda folder: (folder / "batches" / "00000.safetensors").write_bytes(b"\xff" * 100),
        "it has no header",
    ),
    "no mapping": (lambda folder: (folder / "audit.json").write_text("[]"), "not a saved audit"),
    "deep": (lambda folder: (folder / "audit.json").write_text("[" * 99 + "]" * 99), "not a saved audit"),
    "another key": (changed_json("audit.json", lambda held: held.update(more=1)), "not a saved audit"),
    "no strength": (changed_json("audit.json", lambda held: held.update(strength="1")), "strength is '?1"),
    "names of numbers": (changed_json("audit.json", lambda held: held.update(competing=[1, 2])), "competing is no text"),
    "no pair": (changed_json("audit.json", lambda held: held["differences"].pop()), "its rows do not belong to this audit"),
    "a pair of three": (changed_json("audit.json", lambda held: held["differences"][0]["pair"].append("x")), "saved audit"),
    "fewer differences": (
        changed_json("audit.json", lambda held: held["differences"][0]["differences"].pop()),
        "not all pairs have as many differences",
    ),
    "fewer backgrounds": (
        changed_json("audit.json", lambda held: held["backgrounds"].pop()),
        "not the maps of|its rows do not belong",
    ),
    "how without a date": (changed_json("how.json", lambda held: held.pop("date")), "how.json: not a saved provenance"),
    "how of numbers": (changed_json("how.json", lambda held: held.update(method=[1])), "how.json: not a saved provenance"),
    "how cited otherwise": (changed_json("how.json", lambda held: held.update(cite="mine")), "how.json: not a saved"),
    "an unknown class": (changed_rows("ember finch,ember finch", "ember finch,dodo"), "its rows do not belong to this audit"),
    "no number": (changed_rows(r",1,0\.9\d*", ",1,much"), "rows.csv: not the rows of a run"),
    "neither yes nor no": (changed_rows(r",1,0\.9", ",2,0.9"), "correct is 2; expected 0 or 1"),
    "out of its range": (changed_rows(r",1,0\.9\d*", ",1,7"), "confidence is 7; expected a number from 0 to 1"),
    "another column": (changed_rows("confidence", "sureness"), "its columns are image, label"),
    "another shape": (changed_tensors(lambda held: held.update(aligned=held["aligned"][:, :5].clone())), "aligned is"),
    "not finite": (changed_tensors(lambda held: held["effects"].fill_(float("nan"))), "effects holds numbers"),
    "fewer images": (changed_tensors(lambda held: held.update({k: v[:2].clone() for k, v in held.items()})), "maps of"),
    "no kind": (changed_tensors(lambda held: held.pop("chance")), "it has no 'chance'"),
    "integers": (changed_tensors(lambda held: held.update(effects=held["effects"].to(torch.int16))), "effects is no tensor"),
    "a huge grid": (changed_tensors(lambda held: held["grids"].fill_(1 << 40)), "grids are"),
    "a grid of more cells": (changed_tensors(lambda held: held["grids"].fill_(13)), "decision has not the numbers"),
    "beside the image": (changed_tensors(lambda held: held["placements"][:, :4].add_(5000)), "not the maps of an audit"),
    "ends of another type": (
        changed_tensors(lambda held: held.update(source_ends=held["source_ends"].double())),
        "no tensor that",
    ),
    "digests of another type": (
        changed_tensors(lambda held: held.update(digests=held["digests"].float())),
        "no tensor that is",
    ),
    "places of another type": (
        changed_tensors(lambda held: held.update(placements=held["placements"].long())),
        "no tensor that",
    ),
    "no images": (changed_tensors(lambda held: held.update(effects=torch.tensor(1.0))), "not the maps of an audit"),
    "ends out of order": (changed_tensors(lambda held: held["source_ends"].neg_()), "sources has not the numbers"),
}


def written(folder):
    found = Audit.load(folder)
    write_report(found)
    write_tables(found)


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_audit_is_refused_in_one_line(copy, kind):
    damage, message = DAMAGED[kind]
    damage(copy)
    with pytest.raises(OutputError, match=message) as caught:
        written(copy)
    assert len(str(caught.value).splitlines()) == 1


def test_a_picture_that_is_damaged_is_left_out(copy):
    changed_tensors(lambda held: held["sources"].zero_())(copy)
    assert all(int(link[7:12]) < 8 for link in links(copy))


# ---- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_writes_all_of_it_again(command_line, tmp_path, monkeypatch):
    made = command_line("audit", "world-shortcuts", "--limit", 4, "--other-model", "world-shortcut", "--out", "out")
    assert made[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    for name in ("report.html", "classes.csv", "moved.csv", "summary.json"):
        (tmp_path / "out" / name).unlink()
    monkeypatch.setattr("concept_cam.audit.examine.Examiner.examine", None)
    monkeypatch.setattr("concept_cam.loading.load", None)
    assert command_line("report", "out") == made
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
    # The other way round, and in another folder.
    (tmp_path / "out" / "other").rename(tmp_path / "second")
    code, _, err = command_line("report", "second", "--other", "out")
    assert (code, err) == (0, "")
    ours, theirs = ({row["image"]: row for row in table(tmp_path / name / "moved.csv")} for name in ("out", "second"))
    assert {k: row["before"] for k, row in ours.items()} == {k: row["after"] for k, row in theirs.items()}
    code, _, err = command_line("report", "second", "--fail-on", "accuracy < 2")
    assert code == 1
    assert "accuracy is 1, which is < 2: second/report.html shows why" in err
    assert "Compared with" not in (tmp_path / "second" / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "nowhere: there is no finished audit here, for it has no audit.json"),
        (("nowhere", "--fail-on", "off_objekt > 1"), "--fail-on 'off_objekt > 1': no figure 'off_objekt'. Did you mean"),
        (("out", "--other", "nowhere"), "nowhere: there is no finished audit here"),
    ],
)
def test_a_mistake_is_one_line(command_line, finished, tmp_path, arguments, message):
    shutil.copytree(finished.folder, tmp_path / "out")
    code, _, err = command_line("report", *arguments)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
