"""Published data sets of species, aircraft and cars, in the layouts of their authors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from concept_cam.datasets.builder import DatasetBuilder
from concept_cam.datasets.example import Dataset, Example, Point
from concept_cam.datasets.files import checked_box, json_of, lines, numbered, size_of, table, within, words
from concept_cam.datasets.masks import of_boxes, of_levels
from concept_cam.datasets.matlab import read_matlab
from concept_cam.errors import DatasetError, did_you_mean, one_line, reason, refused_as

_SURE = ("3", "4")
"""Of CUB's certainties: probably, definitely."""

_BACKGROUND = 2
"""The level of a trimap of Oxford-IIIT Pets that is neither the animal nor its outline."""


def read_cub(folder: Path, root: Path | None = None) -> Dataset:
    """Read CUB-200-2011 (Wah et al. 2011): boxes, part locations and its own split; the test part is evaluated.

    Attributes are those marked "probably" or "definitely", if the files of attributes are present.
    """
    gathered = DatasetBuilder()
    files, classes, labels, boxes, training, parts = (
        numbered(folder / name, gathered.problems)
        for name in (
            "images.txt",
            "classes.txt",
            "image_class_labels.txt",
            "bounding_boxes.txt",
            "train_test_split.txt",
            "parts/parts.txt",
        )
    )
    points: dict[str, list[tuple[str, Point]]] = defaultdict(list)
    for line in lines(folder / "parts" / "part_locs.txt"):
        try:
            number, part, x, y, visible = line.split()
            if visible == "1":
                points[number].append((parts[part], _finite(float(x), float(y))))
        except (KeyError, ValueError):
            shown = one_line(repr(line.strip()), 80)
            gathered.problems.append(f"part_locs.txt: {shown} is no location of a part in parts.txt.")
    attributes = _cub_attributes(folder, gathered.problems)

    def read(number: str) -> Example:
        name = files[number]
        image = within(folder / "images", name, root)
        if labels.get(number) not in classes:
            raise DatasetError(f"{name}: its class {labels.get(number)} is not in classes.txt.")
        size = size_of(image)
        left, top, width, height = (float(side) for side in boxes[number].split())
        box = checked_box((left, top, left + width, top + height), size, name)
        label = words(classes[labels[number]])
        known = tuple(attributes.get(number, ()))
        region = of_boxes([box], size)
        return Example(name, image, label, None, region, (), (box,), tuple(points[number]), known)

    gathered.add(files, read, lambda number: training.get(number) == "1")
    return gathered.dataset(folder, [words(name) for name in classes.values()])


def _finite(x: float, y: float) -> Point:
    if not (isfinite(x) and isfinite(y)):
        raise ValueError("not finite")
    return x, y


def _cub_attributes(root: Path, problems: list[str]) -> dict[str, list[str]]:
    """The attributes of each image by its number; in CUB's archive their names are beside its folder."""
    files = [folder / "attributes.txt" for folder in (root / "attributes", root, root.parent)]
    file = next((file for file in files if file.is_file()), None)
    found: dict[str, list[str]] = defaultdict(list)
    if file is None or not (root / "attributes" / "image_attribute_labels.txt").is_file():
        return found
    names = {number: name.replace("::", " ").replace("_", " ") for number, name in numbered(file, problems).items()}
    for line in lines(root / "attributes" / "image_attribute_labels.txt"):
        # A few lines of the published file have a number too many at their end.
        number, attribute, present, certainty = (*line.split(), "", "", "", "")[:4]
        if present == "1" and certainty in _SURE and attribute in names:
            found[number].append(names[attribute])
    return found


def read_pets(folder: Path, root: Path | None = None) -> Dataset:
    """Read Oxford-IIIT Pets (Parkhi et al. 2012); the region is the animal and its border in the trimap."""

    def labels(file: str) -> dict[str, str]:
        return {
            line.split()[0]: words(line.split()[0].rpartition("_")[0])
            for line in lines(folder / "annotations" / file)
            if line[0] != "#"
        }

    known = labels("list.txt")
    training = labels("trainval.txt") if (folder / "annotations" / "trainval.txt").exists() else {}

    def read(name: str) -> Example:
        trimap = within(folder / "annotations" / "trimaps", f"{name}.png", root)
        image = within(folder / "images", f"{name}.jpg", root)
        return Example(name, image, known[name], region=of_levels(trimap, image, partial(np.not_equal, _BACKGROUND)))

    gathered = DatasetBuilder()
    gathered.add(known, read, lambda name: name in training)
    return gathered.dataset(folder, known.values())


def read_aircraft(folder: Path, root: Path | None = None) -> Dataset:
    """Read FGVC-Aircraft (Maji et al. 2013) by variant; its boxes are integers, one-based and inclusive."""
    gathered = DatasetBuilder()
    data = folder / "data" if (folder / "data").is_dir() else folder
    boxes = numbered(data / "images_box.txt", gathered.problems)
    parts = {part: numbered(data / f"images_variant_{part}.txt", gathered.problems) for part in ("trainval", "test")}
    classes = list(lines(data / "variants.txt"))

    def read(item: tuple[str, str]) -> Example:
        number, label = item
        image = within(data / "images", f"{number}.jpg", root)
        if label not in classes:
            raise DatasetError(f"{number}: its variant {label!r} is not in variants.txt.{did_you_mean(label, classes)}")
        size = size_of(image)
        left, top, right, bottom = (int(side) for side in boxes[number].split())
        box = checked_box((left - 1, top - 1, right, bottom), size, number)
        return Example(number, image, label, region=of_boxes([box], size), boxes=(box,))

    gathered.add(parts["test"].items(), read, name=lambda item: item[0])
    gathered.add(parts["trainval"].items(), read, lambda item: True, lambda item: item[0])
    return gathered.dataset(folder, classes)


def read_cars(folder: Path, root: Path | None = None) -> Dataset:
    """Read Stanford Cars (Krause et al. 2013); its boxes are one-based and inclusive."""
    classes = [str(name) for name in _matlab(folder / "devkit" / "cars_meta.mat")["class_names"]]
    lists = {"cars_train": folder / "devkit" / "cars_train_annos.mat", "cars_test": folder / "cars_test_annos_withlabels.mat"}
    items = [(split, about) for split, file in lists.items() if file.is_file() for about in _matlab(file)["annotations"]]

    def read(item: tuple[str, Any]) -> Example:
        split, about = item
        name, number = str(about["fname"]), int(about["class"])
        image = within(folder / split, name, root)
        if not 1 <= number <= len(classes):
            raise DatasetError(f"{name}: there are {len(classes)} classes; its own is {number}.")
        left, top, right, bottom = (float(about[f"bbox_{side}"]) for side in ("x1", "y1", "x2", "y2"))
        size = size_of(image)
        box = checked_box((left - 1, top - 1, right, bottom), size, name)
        return Example(f"{split}/{name}", image, classes[number - 1], region=of_boxes([box], size), boxes=(box,))

    gathered = DatasetBuilder()
    gathered.add(items, read, lambda item: item[0] == "cars_train")
    return gathered.dataset(folder, classes)


def _matlab(file: Path) -> dict[str, Any]:
    with refused_as(DatasetError, file):
        return read_matlab(file)


def read_fishvista(folder: Path, root: Path | None = None) -> Dataset:
    """Read the segmented part of Fish-Vista (Mehrab et al. 2025); ``parts`` has each trait, the region is their union.

    Lists are ``segmentation_train.csv``, ``_val`` and ``_test`` with ``filename`` and ``standardized_species``; the last two
    are evaluated. Images are in ``Images/`` or ``AllImages/``, masks in ``segmentation_masks/images/`` with the levels of
    ``seg_id_trait_map.json``.
    """
    masks = folder / "segmentation_masks"
    file = masks / "seg_id_trait_map.json"
    held = json_of(file)
    try:
        traits = {int(level): words(str(trait)).lower() for level, trait in held.items()}
    except (AttributeError, ValueError) as error:
        raise DatasetError(f"{file}: expected a trait for each level ({reason(error)}).") from error
    images = next((folder / name for name in ("Images", "AllImages") if (folder / name).is_dir()), folder)
    gathered = DatasetBuilder()
    items: list[tuple[str, Mapping[str, str]]] = []
    for split in ("train", "val", "test"):
        listed = folder / f"segmentation_{split}.csv"
        if listed.is_file():
            found = table(listed)
            gathered.problems += [f"{listed.name}: {problem}" for problem in found.problems]
            items += [(split, row) for _, row in found.rows]

    def read(item: tuple[str, Mapping[str, str]]) -> Example:
        name, label = item[1]["filename"], item[1]["standardized_species"]
        image = within(images, name, root)
        levels = within(masks / "images", str(Path(name).with_suffix(".png")), root)
        parts = tuple((trait, of_levels(levels, image, partial(np.equal, level))) for level, trait in traits.items() if level)
        return Example(name, image, words(label), region=of_levels(levels, image), parts=parts)

    gathered.add(items, read, lambda item: item[0] == "train", lambda item: item[1].get("filename", "a row without filename"))
    known = [words(row["standardized_species"]) for _, row in items if "standardized_species" in row]
    return gathered.dataset(folder, known)
