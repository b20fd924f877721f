"""Readers, one for each layout that people have on disk. Nothing is downloaded.

A reader reads lists and tables at once, pictures and masks when they are asked for. What is wrong with one example is a line
in ``Dataset.problems``, and the others are there; what is wrong with the layout as a whole is a ``DatasetError``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from concept_cam.datasets.example import Dataset, Example
from concept_cam.datasets.files import SUFFIXES, checked_box, json_of, size_of, table, within, words
from concept_cam.datasets.gathered import Gathered
from concept_cam.datasets.huggingface import read_huggingface
from concept_cam.datasets.masks import of_boxes, of_coco, of_levels
from concept_cam.datasets.published import read_aircraft, read_cars, read_cub, read_fishvista, read_pets
from concept_cam.errors import DatasetError, did_you_mean


def read_folders(root: Path) -> Dataset:
    """A folder of classes: ``NAME/*.jpg``; underscores in names are spaces."""
    folders = sorted(folder for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    gathered = Gathered()
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

    gathered = Gathered()
    gathered.add(grouped, read)
    return gathered.dataset(file, [row["label"] for row in rows if "label" in row])


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
    gathered = Gathered()
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
    "fishvista": read_fishvista,
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
        ("fishvista", "segmentation_masks/seg_id_trait_map.json"),
        ("huggingface", "dataset_dict.json"),
        ("huggingface", "dataset_info.json"),
    )
    return next((name for name, sign in signs if (path / sign).exists()), "folders")
