"""Readers, one for each layout that people have on disk. Nothing is downloaded.

A reader reads lists and tables at once, pictures and masks when they are asked for. What is wrong with one example is a line
in ``Dataset.problems``, and the others are there; what is wrong with the layout as a whole is a ``DatasetError``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from concept_cam.datasets.example import Dataset, Example, Point
from concept_cam.datasets.files import SUFFIXES, checked_box, json_of, lines, matlab, numbered, size_of, table, within, words
from concept_cam.datasets.huggingface import read_huggingface
from concept_cam.datasets.masks import of_boxes, of_coco, of_levels
from concept_cam.errors import DatasetError, did_you_mean

T = TypeVar("T")


@dataclass
class _Gathered:
    """Examples as they are read, and what was wrong with others."""

    examples: list[Example] = field(default_factory=list)
    training: list[Example] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(
        self, items: Iterable[T], read: Callable[[T], Example], training: Callable[[T], bool] = lambda item: False
    ) -> None:
        for item in items:
            try:
                (self.training if training(item) else self.examples).append(read(item))
            except DatasetError as error:
                self.problems.append(str(error))
            except (KeyError, ValueError, TypeError, IndexError) as error:
                self.problems.append(f"{item}: {type(error).__name__}: {error}")

    def dataset(self, root: Path, classes: Iterable[str]) -> Dataset:
        if not self.examples:
            first = f" The first problem: {self.problems[0]}" if self.problems else ""
            raise DatasetError(f"{root}: no example can be used.{first}")
        names = tuple(dict.fromkeys(classes))
        return Dataset(root.name, names, self.examples, self.training, tuple(self.problems))


def read_folders(root: Path) -> Dataset:
    """A folder of classes: ``NAME/*.jpg``; underscores in names are spaces."""
    folders = sorted(folder for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    gathered = _Gathered()
    files = [file for folder in folders for file in sorted(folder.rglob("*")) if file.suffix.lower() in SUFFIXES]
    gathered.add(files, lambda file: Example(str(file.relative_to(root)), file, words(file.relative_to(root).parts[0])))
    return gathered.dataset(root, [words(folder.name) for folder in folders])


def read_table(file: Path) -> Dataset:
    """CSV or Parquet with a row a picture: ``file``, ``label``, and if it has any ``rival``, ``mask``, and a box.

    A box is ``left``, ``top``, ``right``, ``bottom`` in pixels, half-open; with several rows for a picture and label, boxes
    add up. Paths are relative to the table's folder.
    """
    rows = table(file)
    if not rows or not {"file", "label"} <= set(rows[0]):
        raise DatasetError(
            f"{file}: expected a header with file and label; found {', '.join(rows[0]) if rows else 'no rows'}."
        )
    grouped: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        grouped[row.get("file", ""), row.get("label", "")].append(row)

    def read(key: tuple[str, str]) -> Example:
        name, label = key
        if not name or not label:
            raise DatasetError(f"{file}: a row without file or label.")
        picture, own = within(file.parent, name), grouped[key]
        sides = [[float(row[side]) for side in ("left", "top", "right", "bottom")] for row in own if "left" in row]
        size = size_of(picture) if sides else (0, 0)
        try:
            boxes = tuple(checked_box(box, size) for box in sides)
        except DatasetError as error:
            raise DatasetError(f"{name}: {error}") from error
        region = of_boxes(boxes, size) if boxes else None
        if "mask" in own[0]:
            region = of_levels(within(file.parent, own[0]["mask"]))
        return Example(f"{name}#{label}", picture, label, own[0].get("rival"), region, boxes=boxes)

    gathered = _Gathered()
    gathered.add(grouped, read)
    return gathered.dataset(file, [row["label"] for row in rows if "label" in row])


def read_cub(root: Path) -> Dataset:
    """CUB-200-2011 (Wah et al. 2011): boxes, part locations, and its own split; the test part is evaluated."""
    files, classes = numbered(root / "images.txt"), numbered(root / "classes.txt")
    labels, boxes = numbered(root / "image_class_labels.txt"), numbered(root / "bounding_boxes.txt")
    training = numbered(root / "train_test_split.txt")
    parts = numbered(root / "parts" / "parts.txt")
    points: dict[str, list[tuple[str, Point]]] = defaultdict(list)
    for line in lines(root / "parts" / "part_locs.txt"):
        number, part, x, y, visible = line.split()
        if visible == "1":
            points[number].append((parts[part], (float(x), float(y))))

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
        return Example(name, picture, label, region=of_boxes([box], size), boxes=(box,), points=tuple(points[number]))

    gathered = _Gathered()
    gathered.add(files, read, lambda number: training.get(number) == "1")
    return gathered.dataset(root, [words(name) for name in classes.values()])


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

    gathered = _Gathered()
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

    gathered = _Gathered()
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

    gathered = _Gathered()
    gathered.add(items, read, lambda item: item[0] == "cars_train")
    return gathered.dataset(root, classes)


def read_coco(file: Path) -> Dataset:
    """COCO, LVIS, PartImageNet and PASCAL-Part in COCO's form: an example for each picture and category that it shows.

    Pictures lie beside the file, in ``images/`` or in a folder of the file's name without ``instances_``; crowds are left out.
    """
    held = json_of(file)
    try:
        categories = {c["id"]: c["name"].replace("_", " ") for c in held["categories"]}
        pictures = {p["id"]: p for p in held["images"]}
        annotations = held["annotations"]
    except (KeyError, TypeError) as error:
        raise DatasetError(f"{file}: expected COCO's images, annotations and categories; {error} is not there.") from error
    folders = [
        file.parent,
        file.parent / "images",
        file.parent.parent,
        file.parent.parent / file.stem.removeprefix("instances_"),
    ]
    grouped: dict[tuple[Any, Any], list[Mapping[str, Any]]] = defaultdict(list)
    gathered = _Gathered()
    for annotation in annotations:
        if not annotation.get("iscrowd"):
            grouped[annotation.get("image_id"), annotation.get("category_id")].append(annotation)

    def read(key: tuple[Any, Any]) -> Example:
        number, category = key
        if number not in pictures or category not in categories:
            raise DatasetError(
                f"{file.name}: an annotation of picture {number} and category {category}, which are not both there."
            )
        about = pictures[number]
        name = about.get("file_name") or Path(about["coco_url"]).name
        picture = within(next((folder for folder in folders if (folder / name).is_file()), file.parent), name)
        size = int(about["height"]), int(about["width"])
        boxes = []
        for annotation in grouped[key]:
            left, top, width, height = annotation["bbox"]
            try:
                boxes.append(checked_box((left, top, left + width, top + height), size))
            except DatasetError as error:
                raise DatasetError(f"{name}: {error}") from error
        return Example(
            f"{name}#{categories[category]}",
            picture,
            categories[category],
            region=of_coco(grouped[key], size),
            boxes=tuple(boxes),
        )

    gathered.add(grouped, read)
    return gathered.dataset(file, categories.values())


LAYOUTS: Mapping[str, Callable[[Path], Dataset]] = {
    "folders": read_folders,
    "table": read_table,
    "cub": read_cub,
    "pets": read_pets,
    "aircraft": read_aircraft,
    "cars": read_cars,
    "coco": read_coco,
    "huggingface": read_huggingface,
}
"""Readers by name."""


def read_dataset(path: Path, layout: str | None = None) -> Dataset:
    """Read a data set; without a layout it is recognised by what lies there.

    Raises:
        DatasetError: there is nothing, or it is in no layout, or not in that one.
    """
    if not path.exists():
        raise DatasetError(f"{path}: there is no such file or folder.")
    chosen = layout or _recognised(path)
    if chosen not in LAYOUTS:
        raise DatasetError(f"No layout {chosen!r}.{did_you_mean(chosen, LAYOUTS)} There are {', '.join(LAYOUTS)}.")
    return LAYOUTS[chosen](path)


def _recognised(path: Path) -> str:
    if path.is_file():
        return "coco" if path.suffix.lower() == ".json" else "table"
    signs = (
        ("cub", "image_class_labels.txt"),
        ("pets", "annotations/trimaps"),
        ("aircraft", "data/variants.txt"),
        ("cars", "devkit/cars_meta.mat"),
        ("huggingface", "dataset_dict.json"),
        ("huggingface", "dataset_info.json"),
    )
    return next((name for name, sign in signs if (path / sign).exists()), "folders")
