"""Findings made by hand, exported, and read by those whom they are for."""

from __future__ import annotations

import copy
import csv
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import supervision
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from concept_cam.datasets import read_dataset
from concept_cam.errors import DatasetError, OptionError
from concept_cam.images import Placement
from concept_cam.parts.part import AttributeReading, Part, PartFinding
from concept_cam.writers import to_coco, to_csv, to_cub, to_supervision

pycocotools_and_a_new_numpy = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def ellipse(size, box):
    left, top, right, bottom = box
    y, x = torch.meshgrid(*(torch.arange(n) + 0.5 for n in size), indexing="ij")
    across, down = (2 * x - left - right) / (right - left), (2 * y - top - bottom) / (bottom - top)
    return across**2 + down**2 <= 1


def seen(name, size, keypoint, box, confidence, **attributes):
    readings = {attribute: AttributeReading(*reading) for attribute, reading in attributes.items()}
    return Part(name, True, confidence, keypoint, box, ellipse(size, box), readings, torch.ones(2, 2))


def hidden(name, confidence=0.125):
    return Part(name, False, confidence, None, None, None, {}, torch.ones(2, 2))


def finding(size, *parts, parent="bird"):
    return PartFinding(parent, parts, Placement((0.0, 0.0, float(size[1]), float(size[0])), size), {})


TALL, WIDE, SMALL = (61, 45), (40, 83), (7, 9)
FINDINGS = {
    "red finch.png": finding(
        TALL,
        seen("crown", TALL, (12.25, 9.5), (3, 2, 22, 18), 0.75, colour=("red", 0.625)),
        seen("left wing", TALL, (20.1, 30.7), (10, 12, 31, 50), 0.5123456789, colour=("brown", 0.5), pattern=("barred", 0.9)),
        hidden("tail"),
    ),
    "Bläuling/鳥.png": finding(
        WIDE,
        hidden("crown", 0.0),
        seen("left wing", WIDE, (70.0, 11.5), (55, 1, 83, 21), 1.0),
        seen("tail", WIDE, (5.5, 33.125), (0, 27, 12, 40), 0.875, pattern=("plain", 0.75)),
    ),
    "sky.png": finding(SMALL, hidden("crown"), hidden("left wing"), hidden("tail")),
}
NAMES = ("crown", "left wing", "tail")


def coco_of(held) -> COCO:
    """What pycocotools makes of it after it was a file."""
    made = COCO()
    made.dataset = json.loads(json.dumps(held))
    made.createIndex()
    return made


@pycocotools_and_a_new_numpy
def test_coco_loads_with_equal_masks_boxes_and_keypoints():
    made = coco_of(to_coco(FINDINGS))
    assert [made.cats[i]["name"] for i in sorted(made.cats)] == ["bird", *NAMES]
    assert (made.cats[1]["keypoints"], made.cats[1]["skeleton"]) == (list(NAMES), [])
    assert sorted(made.getCatIds(supNms=["bird"])) == [1, 2, 3, 4]
    numbers = {image["file_name"]: number for number, image in made.imgs.items()}
    assert list(numbers) == list(FINDINGS)
    for name, found in FINDINGS.items():
        image = made.imgs[numbers[name]]
        assert (image["height"], image["width"]) == found.placement.image_size
        annotations = made.loadAnns(made.getAnnIds(imgIds=numbers[name], iscrowd=False))
        visible = [part for part in found.parts if part.visible]
        assert [made.cats[a["category_id"]]["name"] for a in annotations] == ["bird"][: len(visible)] + [
            p.name for p in visible
        ]
        for annotation, part in zip(annotations[1:], visible, strict=True):
            mask = made.annToMask(annotation)
            assert np.array_equal(mask.astype(bool), part.mask.numpy())
            left, top, width, height = annotation["bbox"]
            assert (left, top, left + width, top + height) == part.box
            assert annotation["area"] == int(part.mask.sum())
            assert annotation["score"] == part.confidence
            assert annotation["attributes"] == {key: reading.value for key, reading in part.attributes.items()}
        if visible:
            union = np.logical_or.reduce([part.mask.numpy() for part in visible])
            assert np.array_equal(made.annToMask(annotations[0]).astype(bool), union)
            assert annotations[0]["area"] == union.sum()
    wholes = [made.anns[i] for i in made.getAnnIds(catIds=[1])]
    assert [a["bbox"] for a in wholes] == [[3, 2, 28, 48], [0, 1, 83, 39]]
    assert wholes[0]["area"] < sum(made.anns[i]["area"] for i in made.getAnnIds(imgIds=1, catIds=[2, 3]))  # they overlap
    assert [a["score"] for a in wholes] == pytest.approx([(0.75 + 0.5123456789) / 2, (1.0 + 0.875) / 2])
    assert [a["num_keypoints"] for a in wholes] == [2, 2]
    assert wholes[0]["keypoints"] == [12.25, 9.5, 2, 20.1, 30.7, 2, 0, 0, 0]
    assert wholes[1]["keypoints"] == [0, 0, 0, 70.0, 11.5, 2, 5.5, 33.125, 2]


def average_precision(truth: COCO, results: list, kind: str, categories: list[int]) -> float:
    judge = COCOeval(truth, truth.loadRes(results), kind)
    judge.params.catIds = categories
    judge.params.kpt_oks_sigmas = np.full(len(NAMES), 0.05)
    judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
    judge.evaluate()
    judge.accumulate()
    precision = judge.eval["precision"]
    return float(precision[precision > -1].mean())


@pycocotools_and_a_new_numpy
def test_coco_is_truth_and_result():
    held = to_coco(FINDINGS)
    truth = coco_of(held)

    def results():
        return copy.deepcopy(held["annotations"])

    assert average_precision(truth, results(), "segm", [1, 2, 3, 4]) == pytest.approx(1)
    assert average_precision(truth, results(), "bbox", [1, 2, 3, 4]) == pytest.approx(1)
    assert average_precision(truth, results(), "keypoints", [1]) == pytest.approx(1)
    loaded = truth.loadRes(results())
    assert all(np.array_equal(loaded.annToMask(a), truth.annToMask(truth.anns[i])) for i, a in loaded.anns.items())
    swapped = [a | {"image_id": 3 - a["image_id"]} for a in results()]
    assert average_precision(truth, swapped, "keypoints", [1]) == pytest.approx(0)
    elsewhere = [a | {"segmentation": held["annotations"][1]["segmentation"]} for a in results() if a["image_id"] == 1]
    assert average_precision(truth, elsewhere, "segm", [2, 3]) < 0.7


def write(root: Path, files: dict[str, bytes]) -> Path:
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    for name, found in FINDINGS.items():
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", found.placement.image_size[::-1]).save(root / "images" / name)
    return root


def test_cub_is_read_back(tmp_path):
    files = to_cub(FINDINGS)
    assert files["classes.txt"] == b"1 001.bird\n"
    assert files["bounding_boxes.txt"].splitlines()[0] == b"1 3.0 2.0 28.0 48.0"
    assert files["parts/part_locs.txt"].splitlines()[2] == b"1 3 0.0 0.0 0"
    found = read_dataset(write(tmp_path / "set", files))
    assert (found.problems, found.training, found.classes) == ((), [], ("bird",))
    assert [example.name for example in found.examples] == list(FINDINGS)
    for example, of in zip(found.examples, FINDINGS.values(), strict=True):
        assert example.points == tuple((part.name, part.keypoint) for part in of.parts if part.visible)
        assert example.label == "bird"
    assert [example.boxes for example in found.examples] == [((3, 2, 31, 50),), ((0, 1, 83, 40),), ((0, 0, 9, 7),)]


def test_cub_has_the_classes_that_are_given(tmp_path):
    classes = dict(zip(FINDINGS, ("St. Bernard's finch", "3. Kind", "Absent sky"), strict=True)) | {"other.png": "other"}
    found = read_dataset(write(tmp_path / "set", to_cub(FINDINGS, classes)))
    assert [example.label for example in found.examples] == ["St. Bernard's finch", "3. Kind", "Absent sky"]
    assert found.classes == ("3. Kind", "Absent sky", "St. Bernard's finch")
    same = to_cub(FINDINGS, dict(zip(FINDINGS, ("red finch", "red_finch", "sky"), strict=True)))
    assert same["classes.txt"] == b"1 001.red_finch\n2 002.sky\n"
    assert same["image_class_labels.txt"] == b"1 1\n2 1\n3 2\n"


def test_csv_has_a_row_for_each_image_and_part():
    rows = list(csv.DictReader(io.StringIO(to_csv(FINDINGS).decode(), newline="")))
    assert [(row["image"], row["part"]) for row in rows] == [(name, part) for name in FINDINGS for part in NAMES]
    place = {"x": "20.1", "y": "30.7", "left": "10", "top": "12", "right": "31", "bottom": "50"}
    read = {"colour": "brown", "colour_confidence": "0.5", "pattern": "barred", "pattern_confidence": "0.9"}
    assert rows[1] == {"image": "red finch.png", "part": "left wing", "visible": "1", "confidence": "0.512346"} | place | read
    assert (rows[0]["colour"], rows[0]["pattern"], rows[0]["pattern_confidence"]) == ("red", "", "")
    known = {"image": "Bläuling/鳥.png", "part": "crown", "visible": "0", "confidence": "0"}
    assert rows[3] == dict.fromkeys(rows[3], "") | known


def test_csv_runs_nothing_in_a_spreadsheet():
    part = seen("@part", SMALL, (1.0, 2.0), (0, 0, 4, 5), 0.75, **{"+size": ("-1", 0.5)})
    names = ["=HYPERLINK(1)", "\tcmd", "a=b.png", 'quo"te, comma\nline.png', "broken \udcff.png"]
    rows = list(csv.reader(io.StringIO(to_csv(dict.fromkeys(names, finding(SMALL, part))).decode(), newline="")))
    assert rows[0][-2:] == ["'+size", "'+size_confidence"]
    assert [row[0] for row in rows[1:]] == ["'=HYPERLINK(1)", "'\tcmd", names[2], names[3], "broken \\udcff.png"]
    assert {(row[1], row[-2], row[-1]) for row in rows[1:]} == {("'@part", "'-1", "0.5")}


def changed(scene: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    return (scene != drawn).any(axis=2)


def a_scene(size) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 40, size=(*size, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["red finch.png", "Bläuling/鳥.png"])
def test_supervision_draws_boxes_masks_and_labels(name):
    found = FINDINGS[name]
    detections, scene = to_supervision(found), a_scene(found.placement.image_size)
    outlines, masks = np.zeros(scene.shape[:2], dtype=bool), np.zeros(scene.shape[:2], dtype=bool)
    for part in found.parts:
        if part.visible:
            left, top, right, bottom = part.box
            # Lines run through the corners: a half-open box has its right and lower ones just outside.
            whole, inner = np.zeros_like(outlines), np.zeros_like(outlines)
            whole[top : bottom + 1, left : right + 1] = True
            inner[top + 1 : bottom, left + 1 : right] = True
            outlines |= whole & ~inner
            masks |= part.mask.numpy()
    boxed = changed(scene, supervision.BoxAnnotator(thickness=1).annotate(scene.copy(), detections))
    assert np.array_equal(boxed, outlines)
    masked = changed(scene, supervision.MaskAnnotator().annotate(scene.copy(), detections))
    assert np.array_equal(masked, masks)
    labels = supervision.LabelAnnotator(text_scale=0.3)
    drawn = labels.annotate(scene.copy(), detections)
    assert changed(scene, drawn).any()
    names = [part.name for part in found.parts if part.visible]
    assert np.array_equal(drawn, labels.annotate(scene.copy(), detections, labels=names))
    assert not np.array_equal(drawn, labels.annotate(scene.copy(), detections, labels=["x"] * len(names)))


def test_supervision_has_places_and_confidences():
    detections = to_supervision(FINDINGS["Bläuling/鳥.png"])
    assert detections.xyxy.tolist() == [[55, 1, 83, 21], [0, 27, 12, 40]]
    assert detections.class_id.tolist() == [1, 2]
    assert detections.confidence.tolist() == [1.0, 0.875]
    assert detections.data["class_name"].tolist() == ["left wing", "tail"]
    # One that has nothing joins the others.
    nothing = to_supervision(FINDINGS["sky.png"])
    assert (len(nothing), nothing.mask.shape) == (0, (0, *SMALL))
    scene = a_scene(SMALL)
    assert not changed(scene, supervision.MaskAnnotator().annotate(scene.copy(), nothing)).any()
    assert detections == supervision.Detections.merge([detections, nothing])


def test_supervision_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(DatasetError, match=r"install 'concept-cam\[supervision\]'"):
        to_supervision(FINDINGS["red finch.png"])


@pytest.mark.parametrize("export", [to_coco, to_cub, to_csv])
def test_no_findings_are_refused(export):
    with pytest.raises(OptionError, match="There are no results"):
        export({})


@pytest.mark.parametrize("export", [to_coco, to_cub])
@pytest.mark.parametrize(
    "other",
    [
        finding(SMALL, hidden("crown"), hidden("tail"), hidden("left wing")),
        finding(SMALL, *map(hidden, NAMES), parent="plane"),
    ],
    ids=["order", "parent"],
)
def test_two_vocabularies_are_refused(export, other):
    with pytest.raises(OptionError, match=r"'red finch\.png' has the parts crown, left wing, tail of bird, but 'o\.png' the"):
        export(FINDINGS | {"o.png": other})
    assert to_csv(FINDINGS | {"o.png": other}).count(b"\no.png,") == 3  # a table has place for both


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../a.png", "cannot lie in images/"),
        ("/a.png", "cannot lie in images/"),
        ("a\u2028b.png", "cannot stand on a line"),
        ("a.png ", "cannot stand on a line"),
        ("\udcff.png", "cannot stand on a line"),
    ],
)
def test_what_cub_cannot_name_is_refused(name, message):
    with pytest.raises(OptionError, match=message):
        to_cub({name: FINDINGS["sky.png"]})


def test_a_image_without_a_class_is_refused():
    with pytest.raises(OptionError, match=r"No class is given for 'sky\.png'\. Did you mean 'sky\.jpg'"):
        to_cub({"sky.png": FINDINGS["sky.png"]}, {"sky.jpg": "sky"})
    with pytest.raises(OptionError, match="'' cannot stand on a line"):
        to_cub({"sky.png": FINDINGS["sky.png"]}, {"sky.png": ""})
