"""Sets written in each layout, with masks, boxes, both or neither: tables, or a line that says why not."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from slow import pairs

from concept_cam import world
from concept_cam.audit import audit, write_report
from concept_cam.cli import options
from concept_cam.datasets import read_dataset
from concept_cam.datasets.layouts import LAYOUTS
from concept_cam.errors import OptionError
from concept_cam.evaluation import evaluate

FINCH, FROST = "ember finch", "frost finch"
SIDE = 96
BOX = (20, 10, 80, 90)
"""Left, top, right, bottom, half-open; the same for all."""


def plates(folder: Path, labels, ending=".png") -> list[tuple[str, str, np.ndarray]]:
    """The name, the label and the mask of each."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for seed, label in enumerate(labels):
        plate = world.draw_species(label, seed, SIDE)
        name = f"{label.replace(' ', '_')}_{seed}"
        plate.image.save(folder / f"{name}{ending}")
        made.append((name, label, plate.labels > 0))
    return made


def lines(file: Path, *of: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in of))


def levels(file: Path, mask: np.ndarray, inside: int = 1, outside: int = 0) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.where(mask, inside, outside).astype(np.uint8)).save(file)


def write_folders(root: Path, labels, truth: str) -> Path:
    for name, label, _ in plates(root / "all", labels):
        (root / "set" / label.replace(" ", "_")).mkdir(parents=True, exist_ok=True)
        (root / "all" / f"{name}.png").rename(root / "set" / label.replace(" ", "_") / f"{name}.png")
    return root / "set"


def write_table(root: Path, labels, truth: str) -> Path:
    rows = []
    for name, label, mask in plates(root, labels):
        row = {"file": f"{name}.png", "label": label}
        if truth in ("masks", "both"):
            levels(root / f"{name}-mask.png", mask)
            row["mask"] = f"{name}-mask.png"
        if truth in ("boxes", "both"):
            row |= dict(zip(("left", "top", "right", "bottom"), BOX, strict=True))
        rows.append(row)
    with (root / "set.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return root / "set.csv"


def write_cub(root: Path, labels, truth: str) -> Path:
    made, classes = plates(root / "images", labels), list(dict.fromkeys(labels))
    lines(root / "images.txt", *(f"{i} {name}.png" for i, (name, _, _) in enumerate(made, 1)))
    lines(root / "classes.txt", *(f"{i} {i:03d}.{label.replace(' ', '_')}" for i, label in enumerate(classes, 1)))
    lines(root / "image_class_labels.txt", *(f"{i} {classes.index(label) + 1}" for i, (_, label, _) in enumerate(made, 1)))
    left, top, right, bottom = BOX
    numbers = range(1, len(made) + 1)
    lines(root / "bounding_boxes.txt", *(f"{i} {left}.0 {top}.0 {right - left}.0 {bottom - top}.0" for i in numbers))
    lines(root / "train_test_split.txt", *(f"{i} 0" for i in numbers))
    lines(root / "parts" / "parts.txt", "1 back")
    lines(root / "parts" / "part_locs.txt", *(f"{i} 1 {left + 1}.0 {top + 1}.0 1" for i in numbers))
    return root


def write_pets(root: Path, labels, truth: str) -> Path:
    made, classes = plates(root / "images", labels, ".jpg"), list(dict.fromkeys(labels))
    for name, _, mask in made:
        levels(root / "annotations" / "trimaps" / f"{name}.png", mask, 1, 2)
    rows = [f"{name} {classes.index(label) + 1} 1 1" for name, label, _ in made]
    lines(root / "annotations" / "list.txt", "#Image CLASS-ID SPECIES BREED ID", *rows)
    lines(root / "annotations" / "trainval.txt")
    lines(root / "annotations" / "test.txt", *rows)
    return root


def write_aircraft(root: Path, labels, truth: str) -> Path:
    made = plates(root / "data" / "images", labels, ".jpg")
    left, top, right, bottom = BOX
    lines(root / "data" / "variants.txt", *dict.fromkeys(labels))
    lines(root / "data" / "images_box.txt", *(f"{name} {left + 1} {top + 1} {right} {bottom}" for name, _, _ in made))
    lines(root / "data" / "images_variant_trainval.txt")
    lines(root / "data" / "images_variant_test.txt", *(f"{name} {label}" for name, label, _ in made))
    return root


def write_cars(root: Path, labels, truth: str) -> Path:
    from scipy.io import savemat

    made, classes = plates(root / "cars_test", labels, ".jpg"), list(dict.fromkeys(labels))
    kind = [(name, "O") for name in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
    left, top, right, bottom = BOX

    def annotations(rows):
        held = np.empty((1, len(rows)), dtype=kind)
        for i, row in enumerate(rows):
            held[0, i] = tuple(row)
        return {"annotations": held}

    (root / "devkit").mkdir()
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": np.array(classes, dtype=object)[None]})
    rows = [(left + 1, top + 1, right, bottom, classes.index(label) + 1, f"{name}.jpg") for name, label, _ in made]
    savemat(root / "devkit" / "cars_train_annos.mat", annotations([]))
    savemat(root / "cars_test_annos_withlabels.mat", annotations(rows))
    return root


def write_coco(root: Path, labels, truth: str) -> Path:
    made, classes = plates(root / "images", labels), list(dict.fromkeys(labels))
    left, top, right, bottom = BOX
    annotations = []
    for number, (_, label, _) in enumerate(made, 1):
        one = {"id": number, "image_id": number, "category_id": classes.index(label) + 1, "iscrowd": 0}
        if truth in ("boxes", "both"):
            one["bbox"] = [left, top, right - left, bottom - top]
        if truth in ("masks", "both"):
            one["segmentation"] = [[left, top, right - 1, top, right - 1, bottom - 1, left, bottom - 1]]
        annotations.append(one)
    images = [{"id": i, "file_name": f"{name}.png", "height": SIDE, "width": SIDE} for i, (name, _, _) in enumerate(made, 1)]
    categories = [{"id": i, "name": name} for i, name in enumerate(classes, 1)]
    lines(root / "set.json", json.dumps({"images": images, "categories": categories, "annotations": annotations}))
    return root / "set.json"


def write_fishvista(root: Path, labels, truth: str) -> Path:
    made = plates(root / "Images", labels, ".jpg")
    for name, _, mask in made:
        levels(root / "segmentation_masks" / "images" / f"{name}.png", mask)
    lines(root / "segmentation_masks" / "seg_id_trait_map.json", json.dumps({"0": "Background", "1": "Head"}))
    lines(root / "segmentation_train.csv", "filename,standardized_species")
    lines(root / "segmentation_test.csv", "filename,standardized_species", *(f"{name}.jpg,{label}" for name, label, _ in made))
    return root


def write_huggingface(root: Path, labels, truth: str) -> Path:
    import datasets

    def encoded(image):
        stream = io.BytesIO()
        image.save(stream, "PNG")
        return {"bytes": stream.getvalue(), "path": None}

    classes, made = list(dict.fromkeys(labels)), plates(root / "all", labels)
    features = {"photo": datasets.Image(), "species": datasets.ClassLabel(names=classes)}
    rows = {
        "photo": [encoded(Image.open(root / "all" / f"{name}.png")) for name, _, _ in made],
        "species": [classes.index(label) for _, label, _ in made],
    }
    if truth == "masks":
        features["bird_mask"] = datasets.Image()
        rows["bird_mask"] = [encoded(Image.fromarray(np.uint8(mask))) for _, _, mask in made]
    held = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
    datasets.DatasetDict({"test": held}).save_to_disk(str(root / "set"))
    return root / "set"


WRITERS = {
    ("folders", "neither"): write_folders,
    **{("table", truth): write_table for truth in ("masks", "boxes", "both", "neither")},
    ("cub", "boxes"): write_cub,
    ("pets", "masks"): write_pets,
    ("aircraft", "boxes"): write_aircraft,
    ("cars", "boxes"): write_cars,
    **{("coco", truth): write_coco for truth in ("masks", "boxes", "both", "neither")},
    ("fishvista", "masks"): write_fishvista,
    ("huggingface", "masks"): write_huggingface,
    ("huggingface", "neither"): write_huggingface,
}
SETS = {"usual": (FINCH, FROST, FINCH), "one class": (FINCH, FINCH), "one image": (FINCH,)}


@pytest.fixture(scope="module")
def localizer():
    return world.localizer()


def test_every_layout_is_here_and_where_users_look():
    assert {layout for layout, _ in WRITERS} == set(LAYOUTS)
    (option,) = options.Layout.__metadata__
    listed = option.help.partition(": ")[2].partition(". ")[0].replace(" or ", ", ").split(", ")
    assert listed == list(LAYOUTS)
    page = (Path(__file__).parents[1] / "docs" / "evaluation.md").read_text()
    table = page.partition("| layout | what is read |\n|---|---|\n")[2].partition("\n\n")[0]
    assert [line.split("|")[1].strip() for line in table.splitlines()] == list(LAYOUTS)


@pytest.mark.parametrize(("written", "labels"), pairs(WRITERS, SETS))
def test_tables_are_printed(localizer, tmp_path, written, labels):
    layout, truth = written
    data = read_dataset(WRITERS[layout, truth](tmp_path / "written", SETS[labels], truth), layout)
    assert (data.problems, len(data.examples)) == ((), len(SETS[labels]))
    one = labels != "usual"
    asked = {} if one else {"references": "nearest:1", "strengths": 1.0}
    found = evaluate(localizer, data, tmp_path / "evaluated", methods="grad_cam", **asked)
    assert (found.used, found.skipped, found.problems) == (len(data.examples), 0, [])
    known = {key for row in found.rows for key, value in vars(row).items() if value is not None}
    assert ("energy" in known) == (truth != "neither")
    assert ("best_box" in known) == (truth in ("boxes", "both"))
    assert ("rd5" in known) == (not one)
    assert [line for line in found.text.splitlines() if "| chance" in line] != [] or truth == "neither"
    assert len(found.means) == (1 if one else 2)
    assert (tmp_path / "evaluated" / "tables.md").read_text() == found.text
    if one:
        with pytest.raises(OptionError, match="expected two or more") as caught:
            audit(localizer, data, tmp_path / "audited")
        assert len(str(caught.value).splitlines()) == 1
        assert not (tmp_path / "audited").exists()
        return
    looked = audit(localizer, data, tmp_path / "audited")
    assert (len(looked.good), looked.skipped, looked.problems) == (3, 0, [])
    assert all((one.off_object is not None) == (truth != "neither") for one in looked.classes if one.predicted)
    assert "ember finch" in write_report(looked).read_text()


def test_some_images_with_masks_and_some_without(localizer, tmp_path):
    """Chance is that of the images where it is known, whichever map comes first."""
    data = read_dataset(write_table(tmp_path, (FINCH, FROST, FINCH), "both"))
    import dataclasses

    examples = [dataclasses.replace(data.examples[0], region=None, boxes=()), *data.examples[1:]]
    mixed = dataclasses.replace(data, examples=examples)
    found = evaluate(localizer, mixed, tmp_path / "out", methods="grad_cam", references="nearest:1", strengths=1.0)
    chance = next(line for line in found.text.splitlines() if "| chance" in line)
    area = np.mean([row.area for row in found.rows if row.references == "none" and row.area is not None])
    assert f"{area:.3f}" in chance
    assert [cell.strip() for cell in chance.split("|")][4] == "2"
