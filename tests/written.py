"""Small sets in exactly the layouts that ``concept_cam.datasets`` reads, for tests and for the cases of ``fuzz``."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco

WIDTH, HEIGHT = 40, 30


def image(file: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, 30)).save(file)


def write(file: Path, *lines: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines))


def write_folders(root: Path) -> Path:
    for name in ("red_finch/b.jpg", "red_finch/a.png", "002.blue_jay/c.JPG"):
        image(root / name)
    write(root / "red_finch" / "notes.txt", "no image")
    return root


def write_table(root: Path) -> Path:
    for name in "abc":
        image(root / f"{name}.jpg")
    levels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    levels[5:10, 20:30] = 255
    Image.fromarray(levels).save(root / "a-mask.png")
    with (root / "set.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows(
            [
                ("file", "label", "twin", "mask", "left", "top", "right", "bottom"),
                ("a.jpg", "red finch", "blue finch", "a-mask.png", "", "", "", ""),
                ("b.jpg", "blue finch", "", "", 1, 2, 11, 7),
                ("b.jpg", "blue finch", "", "", 30, 20, 40, 30),
                ("c.jpg", "blue finch", "", "", "", "", "", ""),
            ]
        )
    return root / "set.csv"


def write_cub(root: Path) -> Path:
    names = ["001.Black_footed_Albatross/one.jpg", "001.Black_footed_Albatross/two.jpg", "002.Laysan_Albatross/three.jpg"]
    for name in names:
        image(root / "images" / name)
    write(root / "images.txt", *(f"{i} {name}" for i, name in enumerate(names, 1)))
    write(root / "classes.txt", "1 001.Black_footed_Albatross", "2 002.Laysan_Albatross")
    write(root / "image_class_labels.txt", "1 1", "2 1", "3 2")
    write(root / "bounding_boxes.txt", "1 5.0 6.0 20.0 10.0", "2 0.0 0.0 40.0 30.0", "3 1.0 1.0 2.0 3.0")
    write(root / "train_test_split.txt", "1 0", "2 1", "3 0")
    write(root / "parts" / "parts.txt", "1 back", "2 beak", "15 left eye")
    write(root / "parts" / "part_locs.txt", "1 1 12.0 9.0 1", "1 2 0.0 0.0 0", "1 15 7.5 8.5 1", "3 2 2.0 2.0 1")
    return root


def write_pets(root: Path) -> Path:
    for name in ("Abyssinian_1", "Abyssinian_2", "american_bulldog_10"):
        image(root / "images" / f"{name}.jpg")
        trimap = np.full((HEIGHT, WIDTH), 2, dtype=np.uint8)
        trimap[10:20, 10:20], trimap[9, 10:20] = 1, 3
        (root / "annotations" / "trimaps").mkdir(parents=True, exist_ok=True)
        Image.fromarray(trimap).save(root / "annotations" / "trimaps" / f"{name}.png")
    rows = ["Abyssinian_1 1 1 1", "Abyssinian_2 1 1 1", "american_bulldog_10 2 2 1"]
    write(root / "annotations" / "list.txt", "#Image CLASS-ID SPECIES BREED ID", "#ID: 1:37 Class ids", *rows)
    write(root / "annotations" / "trainval.txt", rows[0])
    write(root / "annotations" / "test.txt", *rows[1:])
    return root


def write_aircraft(root: Path) -> Path:
    for name in ("0034309", "0034958", "1025794"):
        image(root / "data" / "images" / f"{name}.jpg")
    write(root / "data" / "variants.txt", "707-320", "A340-300")
    write(root / "data" / "images_box.txt", "0034309 1 1 40 30", "0034958 3 4 10 12", "1025794 2 2 5 6")
    write(root / "data" / "images_variant_trainval.txt", "1025794 707-320")
    write(root / "data" / "images_variant_test.txt", "0034309 A340-300", "0034958 707-320")
    return root


def write_cars(root: Path) -> Path:
    from scipy.io import savemat

    def annotations(rows):
        kind = [("bbox_x1", "O"), ("bbox_y1", "O"), ("bbox_x2", "O"), ("bbox_y2", "O"), ("class", "O"), ("fname", "O")]
        held = np.empty((1, len(rows)), dtype=kind)
        for i, row in enumerate(rows):
            held[0, i] = tuple(row)
        return {"annotations": held}

    for name in ("cars_test/00001.jpg", "cars_test/00002.jpg", "cars_train/00001.jpg"):
        image(root / name)
    (root / "devkit").mkdir()
    names = np.array(["AM General Hummer SUV 2000", "Acura RL Sedan 2012"], dtype=object)
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": names[None]})
    savemat(root / "devkit" / "cars_train_annos.mat", annotations([(1, 1, 40, 30, 2, "00001.jpg")]))
    test = [(3, 4, 10, 12, 1, "00001.jpg"), (1, 1, 40, 30, 2, "00002.jpg")]
    savemat(root / "cars_test_annos_withlabels.mat", annotations(test))
    return root


def a_region() -> np.ndarray:
    region = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    region[3:9, 4:20], region[20:, 30:] = 1, 1
    return region


def write_fishvista(root: Path) -> Path:
    write(root / "segmentation_test.csv", "filename,standardized_species", "a.jpg,esox lucius", "b.jpg,perca flavescens")
    write(root / "segmentation_train.csv", "filename,standardized_species", "c.jpg,esox lucius")
    traits = {"0": "Background", "1": "Head", "2": "Dorsal fin"}
    write(root / "segmentation_masks" / "seg_id_trait_map.json", json.dumps(traits))
    levels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    levels[5:10, 20:30], levels[3:5, 10:13] = 1, 2
    (root / "segmentation_masks" / "images").mkdir()
    for name in "abc":
        image(root / "Images" / f"{name}.jpg")
        Image.fromarray(levels).save(root / "segmentation_masks" / "images" / f"{name}.png")
    return root


def write_coco(root: Path) -> Path:
    image(root / "images" / "one.jpg")
    image(root / "images" / "two.jpg")
    packed = coco.encode(np.asfortranarray(a_region()))
    plain = [int(n) for n in np.diff(np.flatnonzero(np.diff(a_region().T.flatten(), prepend=-1, append=-1)))]
    held = {
        "images": [
            {"id": 1, "file_name": "one.jpg", "height": HEIGHT, "width": WIDTH},
            {"id": 2, "file_name": "two.jpg", "height": HEIGHT, "width": WIDTH},
        ],
        "categories": [{"id": 3, "name": "bird_beak"}, {"id": 7, "name": "tail"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 3, "bbox": [4, 3, 36, 27], "iscrowd": 0}
            | {"segmentation": {"size": [HEIGHT, WIDTH], "counts": packed["counts"].decode()}},
            {"id": 2, "image_id": 1, "category_id": 7, "bbox": [10, 10, 10, 5], "iscrowd": 0}
            | {"segmentation": [[10, 10, 19, 10, 19, 14, 10, 14]]},
            {"id": 3, "image_id": 2, "category_id": 3, "bbox": [4, 3, 36, 27], "iscrowd": 0}
            | {"segmentation": {"size": [HEIGHT, WIDTH], "counts": plain}},
            {"id": 4, "image_id": 2, "category_id": 7, "bbox": [0, 0, 5, 5], "iscrowd": 1}
            | {"segmentation": {"size": [HEIGHT, WIDTH], "counts": plain}},
        ],
    }
    write(root / "annotations.json", json.dumps(held))
    return root / "annotations.json"


def write_huggingface(root: Path, broken: bool = False) -> Path:
    import datasets

    def encoded(image):
        stream = io.BytesIO()
        image.save(stream, "PNG")
        return {"bytes": stream.getvalue(), "path": None}

    levels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    levels[5:10, 20:30] = 7
    photo, mask = encoded(Image.new("RGB", (WIDTH, HEIGHT))), encoded(Image.fromarray(levels))
    kind = datasets.Image()
    features = datasets.Features(
        {"trimap_mask": kind, "photo": kind, "breed": datasets.ClassLabel(names=["red_finch", "blue_jay"])}
    )
    rows = {"trimap_mask": [mask, None], "photo": [photo, photo], "breed": [1, 0]}
    if broken:
        rows["photo"] = [{"bytes": b"nothing", "path": None}, photo]
    made = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": made, "test": made}).save_to_disk(str(root))
    return root
