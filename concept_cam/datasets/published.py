"""Sets of species and makes in the layout in which their authors publish them."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from concept_cam.datasets.example import Dataset, Example, Point
from concept_cam.datasets.files import checked_box, json_of, lines, matlab, numbered, size_of, table, within, words
from concept_cam.datasets.gathered import Gathered
from concept_cam.datasets.masks import of_boxes, of_levels
from concept_cam.errors import DatasetError, did_you_mean

_SURE = ("3", "4")
"""Of CUB's certainties: probably, definitely."""


def read_cub(root: Path) -> Dataset:
    """CUB-200-2011 (Wah et al. 2011): boxes, part locations, and its own split; the test part is evaluated.

    Attributes are those that somebody saw "probably" or "definitely", if the files of attributes are there.
    """
    files, classes = numbered(root / "images.txt"), numbered(root / "classes.txt")
    labels, boxes = numbered(root / "image_class_labels.txt"), numbered(root / "bounding_boxes.txt")
    training = numbered(root / "train_test_split.txt")
    parts = numbered(root / "parts" / "parts.txt")
    gathered = Gathered()
    points: dict[str, list[tuple[str, Point]]] = defaultdict(list)
    for line in lines(root / "parts" / "part_locs.txt"):
        try:
            number, part, x, y, visible = line.split()
            if visible == "1":
                points[number].append((parts[part], (float(x), float(y))))
        except (KeyError, ValueError):
            gathered.problems.append(f"part_locs.txt: {line.strip()!r} is no location of a part in parts.txt.")
    attributes = _cub_attributes(root)

    def read(number: str) -> Example:
        name = files[number]
        picture = within(root / "images", name)
        if labels.get(number) not in classes:
            raise DatasetError(f"{name}: its class {labels.get(number)} is not in classes.txt.")
        size = size_of(picture)
        left, top, width, height = (float(side) for side in boxes[number].split())
        try:
            box = checked_box((left, top, left + width, top + height), size)
        except DatasetError as error:
            raise DatasetError(f"{name}: {error}") from error
        label = words(classes[labels[number]])
        known = tuple(attributes.get(number, ()))
        region = of_boxes([box], size)
        return Example(name, picture, label, None, region, (), (box,), tuple(points[number]), known)

    gathered.add(files, read, lambda number: training.get(number) == "1")
    return gathered.dataset(root, [words(name) for name in classes.values()])


def _cub_attributes(root: Path) -> dict[str, list[str]]:
    """What is known of each picture by its number; CUB's archive has the names beside its folder."""
    files = [folder / "attributes.txt" for folder in (root / "attributes", root, root.parent)]
    file = next((file for file in files if file.is_file()), None)
    found: dict[str, list[str]] = defaultdict(list)
    if file is None or not (root / "attributes" / "image_attribute_labels.txt").is_file():
        return found
    names = {number: name.replace("::", " ").replace("_", " ") for number, name in numbered(file).items()}
    for line in lines(root / "attributes" / "image_attribute_labels.txt"):
        # A few lines of the published file have a number too many at their end.
        number, attribute, present, certainty = (*line.split(), "", "", "", "")[:4]
        if present == "1" and certainty in _SURE and attribute in names:
            found[number].append(names[attribute])
    return found


def read_pets(root: Path) -> Dataset:
    """Oxford-IIIT Pets (Parkhi et al. 2012): trimaps, of which the animal and its border are the region."""

    def labels(file: str) -> dict[str, str]:
        return {
            line.split()[0]: words(line.split()[0].rpartition("_")[0])
            for line in lines(root / "annotations" / file)
            if line[0] != "#"
        }

    known = labels("list.txt")
    splits = {part: labels(f"{part}.txt") for part in ("trainval", "test") if (root / "annotations" / f"{part}.txt").exists()}

    def read(name: str) -> Example:
        trimap = within(root / "annotations" / "trimaps", f"{name}.png")
        return Example(
            name, within(root / "images", f"{name}.jpg"), known[name], region=of_levels(trimap, lambda levels: levels != 2)
        )

    gathered = Gathered()
    gathered.add(known, read, lambda name: name in splits.get("trainval", ()))
    return gathered.dataset(root, known.values())


def read_aircraft(root: Path) -> Dataset:
    """FGVC-Aircraft (Maji et al. 2013), by variant: boxes in whole pixels, from one and inclusive."""
    folder = root / "data" if (root / "data").is_dir() else root
    boxes = numbered(folder / "images_box.txt")
    parts = {part: numbered(folder / f"images_variant_{part}.txt") for part in ("trainval", "test")}
    classes = list(lines(folder / "variants.txt"))

    def read(item: tuple[str, str]) -> Example:
        number, label = item
        picture = within(folder / "images", f"{number}.jpg")
        if label not in classes:
            raise DatasetError(f"{number}: its variant {label!r} is not in variants.txt.{did_you_mean(label, classes)}")
        size = size_of(picture)
        left, top, right, bottom = (int(side) for side in boxes[number].split())
        try:
            box = checked_box((left - 1, top - 1, right, bottom), size)
        except DatasetError as error:
            raise DatasetError(f"{number}: {error}") from error
        return Example(number, picture, label, region=of_boxes([box], size), boxes=(box,))

    gathered = Gathered()
    gathered.add(parts["test"].items(), read)
    gathered.add(parts["trainval"].items(), read, lambda item: True)
    return gathered.dataset(root, classes)


def read_cars(root: Path) -> Dataset:
    """Stanford Cars (Krause et al. 2013): boxes in pixels, from one and inclusive; needs the extra ``cars``."""
    classes = [str(name) for name in matlab(root / "devkit" / "cars_meta.mat")["class_names"]]
    lists = {"cars_train": root / "devkit" / "cars_train_annos.mat", "cars_test": root / "cars_test_annos_withlabels.mat"}
    items = [(folder, about) for folder, file in lists.items() if file.is_file() for about in matlab(file)["annotations"]]

    def read(item: tuple[str, Any]) -> Example:
        folder, about = item
        name, number = str(about["fname"]), int(about["class"])
        picture = within(root / folder, name)
        if not 1 <= number <= len(classes):
            raise DatasetError(f"{name}: there are {len(classes)} classes; its own is {number}.")
        left, top, right, bottom = (float(about[f"bbox_{side}"]) for side in ("x1", "y1", "x2", "y2"))
        size = size_of(picture)
        try:
            box = checked_box((left - 1, top - 1, right, bottom), size)
        except DatasetError as error:
            raise DatasetError(f"{name}: {error}") from error
        return Example(f"{folder}/{name}", picture, classes[number - 1], region=of_boxes([box], size), boxes=(box,))

    gathered = Gathered()
    gathered.add(items, read, lambda item: item[0] == "cars_train")
    return gathered.dataset(root, classes)


def read_fishvista(root: Path) -> Dataset:
    """Fish-Vista (Mehrab et al. 2025), its part with segmented traits: the region is the union of all, ``parts`` has each.

    Lists are ``segmentation_train.csv``, ``_val`` and ``_test`` with ``filename`` and ``standardized_species``; what is not
    for training is evaluated. Pictures lie in ``Images/`` or ``AllImages/``, masks in ``segmentation_masks/images/`` with the
    levels of ``seg_id_trait_map.json``.
    """
    masks = root / "segmentation_masks"
    file = masks / "seg_id_trait_map.json"
    try:
        traits = {int(level): words(str(trait)).lower() for level, trait in json_of(file).items()}
    except (AttributeError, ValueError) as error:
        raise DatasetError(f"{file}: expected a trait for each level ({error}).") from error
    pictures = next((root / name for name in ("Images", "AllImages") if (root / name).is_dir()), root)
    lists = {split: root / f"segmentation_{split}.csv" for split in ("train", "val", "test")}
    items = [(split, row) for split, file in lists.items() if file.is_file() for row in table(file)]

    def read(item: tuple[str, dict[str, str]]) -> Example:
        name, label = item[1]["filename"], item[1]["standardized_species"]
        levels = within(masks / "images", str(Path(name).with_suffix(".png")))
        parts = tuple((trait, of_levels(levels, partial(np.equal, level))) for level, trait in traits.items() if level)
        return Example(name, within(pictures, name), words(label), region=of_levels(levels), parts=parts)

    gathered = Gathered()
    gathered.add(items, read, lambda item: item[0] == "train")
    return gathered.dataset(root, [words(row["standardized_species"]) for _, row in items if "standardized_species" in row])
