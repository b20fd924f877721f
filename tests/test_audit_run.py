"""An audit on disk: interrupted, resumed, of one model and one set."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from audits import HABITATS, PARTS, SPECIES, alike, audited, localizer, small, table
from safetensors.torch import load_file
from zoo import classifiers

from concept_cam import Localizer, Preprocess, world, wrap
from concept_cam.audit import Audit, AuditRow, audit, write_tables
from concept_cam.audit.examine import Examiner
from concept_cam.audit.report import write_report
from concept_cam.audit.summary import CONDITIONS, Condition, summary
from concept_cam.datasets import Dataset, Example
from concept_cam.errors import OutputError, UnknownWord
from concept_cam.methods import METHODS
from concept_cam.runs import columns
from concept_cam.world.dataset import birds_dataset


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_what_was_interrupted_goes_on(localizer, tmp_path, small, monkeypatch):
    data = birds_dataset(8)
    whole = audited(localizer, data, tmp_path / "whole")
    looked, own = [], Examiner.examine

    def stopping(self, examples):
        if len(looked) == 1:
            raise KeyboardInterrupt
        looked.append(examples[0].name)
        return own(self, examples)

    monkeypatch.setattr(Examiner, "examine", stopping)
    with pytest.raises(KeyboardInterrupt):
        audited(localizer, data, tmp_path / "parts")
    made = sorted(path.name for path in (tmp_path / "parts" / "batches").iterdir())
    assert made == ["00000.csv", "00000.json", "00000.safetensors"]
    # Maps without their rows are those of a batch that was not finished.
    (tmp_path / "parts" / "batches" / "00001.safetensors").write_bytes(b"half")
    monkeypatch.setattr(Examiner, "examine", lambda self, examples: looked.append(examples[0].name) or own(self, examples))
    again = audited(localizer, data, tmp_path / "parts")
    assert looked == ["0-00000", "0-00003", "0-00006"]
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert again.rows == whole.rows
    assert len(list((tmp_path / "whole" / "batches").iterdir())) == 9
    # And once more: nothing is looked at.
    assert audited(localizer, data, tmp_path / "parts").rows == whole.rows
    assert len(looked) == 3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        pytest.param(
            {"localizer": lambda: world.localizer(checkpoint=world.SHORTCUT)}, "another model;", marks=pytest.mark.slow
        ),
        pytest.param(
            {"localizer": lambda: world.localizer(method=METHODS["grad_cam"])}, "another method;", marks=pytest.mark.slow
        ),
        pytest.param({"localizer": lambda: world.localizer(templates=["a {}"])}, "another templates;", marks=pytest.mark.slow),
        pytest.param({"localizer": lambda: world.localizer(size=192)}, "another size;", marks=pytest.mark.slow),
        ({"strength": 0.5}, "another strength;"),
        pytest.param({"backgrounds": HABITATS[:3]}, "another backgrounds;", marks=pytest.mark.slow),
        pytest.param({"parts": None}, "another parts;", marks=pytest.mark.slow),
        pytest.param({"about": {"pretrained": "other"}}, "another pretrained;", marks=pytest.mark.slow),
    ],
)
def test_a_folder_is_for_one_audit(localizer, tmp_path, changed, message):
    given = {"parts": PARTS, "backgrounds": HABITATS, "about": {"pretrained": "own"}}
    audit(localizer, birds_dataset(1), tmp_path, **given)
    other = {key: value() if key == "localizer" else value for key, value in changed.items()}
    with pytest.raises(OutputError, match=message):
        audit(**({"localizer": localizer, "dataset": birds_dataset(1), "folder": tmp_path} | given | other))


def test_texts_that_are_not_known_are_found_before_anything_is_written(localizer, tmp_path):
    data = replace(birds_dataset(2), classes=(*SPECIES, "quetzal"))
    with pytest.raises(UnknownWord, match="quetzal"):
        audit(localizer, data, tmp_path / "a")
    with pytest.raises(UnknownWord, match="volcano"):
        audit(localizer, birds_dataset(2), tmp_path / "a", backgrounds=("bird in snow", "bird in volcano"))
    assert not (tmp_path / "a").exists()


def test_rows_are_read_as_they_were_written(localizer, tmp_path, small):
    data = birds_dataset(4)
    found = audited(localizer, data, tmp_path)
    rows, tensors = Examiner(localizer, SPECIES, PARTS, HABITATS).examine(data.examples[:])
    for row, read in zip(rows, found.rows, strict=True):
        assert alike(row, read)
    assert tuple((tmp_path / "rows.csv").read_text().splitlines()[0].split(",")) == (*columns(AuditRow), "problem")
    for kind in ("aligned", "whole", "shared", "agreements", "effects", "chance"):
        for (row, stored), expected in zip(found.tensors(kind), tensors[kind], strict=True):
            assert torch.allclose(stored, expected.double(), atol=1e-4)
            assert row in found.good


def test_maps_lie_on_disk_and_not_in_memory(localizer, tmp_path, small):
    found = audited(localizer, birds_dataset(7), tmp_path)
    held = [value for row in found.rows for name, value in vars(row).items() if name != "extra"]
    assert all(isinstance(value, str | float | int) for value in held)
    assert [len(load_file(file)["whole"]) for file in found.batches] == [3, 3, 1]
    found.batches[1].unlink()
    pairs = found.tensors("whole")
    assert [next(pairs)[0].image for _ in range(3)] == ["0-00000", "0-00001", "0-00002"]
    with pytest.raises(OutputError, match=r"00001.safetensors: not the maps of an audit"):
        next(pairs)


def test_without_images_there_is_a_report_all_the_same(localizer, tmp_path):
    found = audited(localizer, replace(birds_dataset(1), examples=[]), tmp_path)
    assert (found.rows, found.classes, found.pairs(), found.backgrounds(), found.ranked) == ([], [], [], [], [])
    assert found.accuracy is None
    assert "No rows." in write_report(found).read_text()
    assert {figure: summary(found)[figure] for figure in CONDITIONS} == dict.fromkeys(CONDITIONS)
    write_tables(found)
    assert (tmp_path / "pairs.csv").read_text() == "first,second,images,errors,swapped,runner_up_probability,best,worst\n"


def test_when_all_images_are_broken_all_are_listed(localizer, tmp_path, small):
    examples = [Example(f"{k}.png", tmp_path / f"{k}.png", SPECIES[0]) for k in range(4)]
    found = audited(localizer, Dataset("gone", SPECIES, examples, problems=("x.png: odd",)), tmp_path)
    assert found.good == []
    assert len(found.problems) == summary(found)["skipped"] == 5
    html = write_report(found).read_text()
    assert all(f"{k}.png: " in html for k in range(4))
    assert Condition.read("accuracy < 0.5").reason(summary(found)) == "accuracy is not known"
    write_tables(found)
    assert json.loads((tmp_path / "summary.json").read_text())["accuracy"] is None


def test_a_name_that_is_not_utf8_is_listed(localizer, tmp_path):
    name = "\udcff.png"
    data = replace(birds_dataset(1), examples=[replace(birds_dataset(1).examples[0], name=name), Example(name * 2, "?", "x")])
    found = audited(localizer, data, tmp_path)
    assert [row.image for row in found.rows] == ["?.png", "?.png?.png"]
    assert "?.png?.png" in write_report(found).read_text()


def test_classes_with_names_like_numbers(tmp_path):
    """A classifier, too: it reads no texts, so there are neither words nor backgrounds."""
    names = ("1", "2", "10", "1e5", "nan", "-0.5", "True")
    preprocess = Preprocess((32, 32), (0.5,) * 3, (0.5,) * 3)
    localizer = Localizer(wrap(classifiers.torchvision_vit(), preprocess=preprocess, classes=names))
    examples = [replace(e, label=names[k]) for k, e in enumerate(birds_dataset(7).examples)]
    found = audit(localizer, Dataset("numbers", names, examples), tmp_path)
    assert [row.label for row in found.rows] == list(names)
    assert {row.predicted for row in found.rows} <= set(names)
    assert sum(one.images for one in found.classes) == 7
    assert found.pairs()[0].differences == ()
    assert found.pairs()[0].shared is None
    html = write_report(found).read_text()
    assert "Backgrounds that change predictions" not in html
    write_tables(Audit.load(tmp_path))
    assert [row["class"] for row in table(tmp_path / "classes.csv")] == [one.name for one in found.classes]
