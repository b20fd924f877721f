"""COCO's form of JSON, which LVIS, PartImageNet and PASCAL-Part have taken over."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from concept_cam.datasets.builder import DatasetBuilder
from concept_cam.datasets.example import Dataset, Example, Region
from concept_cam.datasets.files import checked_box, json_of, size_of, within
from concept_cam.datasets.masks import of_boxes, of_coco, union
from concept_cam.errors import DatasetError, one_line

_About = Mapping[str, Any]


def read_coco(file: Path, root: Path | None = None) -> Dataset:
    """An example for each image and category that it shows, with the union of its outlines, or of its boxes without any.

    Annotations that have neither say the label alone, as those of iNaturalist do. Images lie beside the file, in ``images/``
    or in a folder of the file's name without ``instances_``; crowds are skipped. Outlines and boxes are those of the upright
    image, whose size must be the one that the file says.

    Args:
        file: the annotations.
        root: a folder that holds all files of the set, to which file names are relative as well.
    """
    held = json_of(file)
    lists = ("images", "annotations", "categories")
    missing = [name for name in lists if not isinstance(held, dict) or not isinstance(held.get(name), list)]
    if missing:
        raise DatasetError(
            f"{file}: expected COCO's images, annotations and categories, each a list; no {', '.join(missing)}."
        )
    gathered = DatasetBuilder()
    categories = _by_id(held["categories"], "category", "name", gathered.problems)
    images = _by_id(held["images"], "image", "file_name", gathered.problems)
    labels = {number: about["name"].replace("_", " ") for number, about in categories.items()}
    folders = [
        file.parent,
        file.parent / "images",
        file.parent.parent,
        file.parent.parent / file.stem.removeprefix("instances_"),
    ]
    folders = [root, *folders] if root else folders
    grouped: dict[tuple[str, str], list[_About]] = defaultdict(list)
    unknown: dict[tuple[str | None, str | None], int] = {}
    for place, annotation in enumerate(held["annotations"]):
        number, category = (_key(annotation, name) for name in ("image_id", "category_id"))
        if isinstance(annotation, dict) and annotation.get("iscrowd"):
            continue
        if number in images and category in labels:
            # Two numbers may stand for one name.
            grouped[number, labels[category]].append(annotation)
        else:
            unknown.setdefault((number, category), place)
    for (number, category), place in unknown.items():
        what = f"image {number} and category {category}, which are not both there"
        gathered.problems.append(f"{file.name}: annotation {place} is of {what}.")

    def read(key: tuple[str, str]) -> Example:
        number, label = key
        about = images[number]
        name = about["file_name"]
        image = within(folders, name, root)
        height, width = size_of(image)
        told = about.get("height", height), about.get("width", width)
        if told != (height, width):
            stated = f"{file.name} says {one_line(told[0], 20)} x {one_line(told[1], 20)} (height, width)"
            raise DatasetError(f"{one_line(name, 120)}: {stated}, but the image is {height} x {width}, upright.")
        if all(annotation.get("bbox") is None and annotation.get("segmentation") is None for annotation in grouped[key]):
            return Example(name, image, label)
        boxes, outlines, bare = [], [], []
        for annotation in grouped[key]:
            box, outline = annotation.get("bbox"), annotation.get("segmentation")
            if box is not None:
                left, top, right, bottom = _sides(box)
                boxes.append(checked_box((left, top, left + right, top + bottom), (height, width), one_line(name, 120)))
            if outline:
                outlines.append(outline)
            elif box is not None:
                bare.append(boxes[-1])
            else:
                raise DatasetError(f"{one_line(name, 120)}: an annotation has neither bbox nor segmentation; others have.")
        regions: list[Region] = [of_coco(outlines, (height, width))] if outlines else []
        regions += [of_boxes(bare, (height, width))] if bare else []
        return Example(name, image, label, region=union(regions), boxes=tuple(boxes))

    gathered.add(grouped, read, name=lambda key: images[key[0]]["file_name"])
    return gathered.dataset(file, labels.values())


def _by_id(entries: list[Any], what: str, name: str, problems: list[str]) -> dict[str, _About]:
    """Images or categories by their number; of those with one number the first."""
    found: dict[str, _About] = {}
    for place, entry in enumerate(entries):
        number, about = _key(entry, "id"), entry
        if isinstance(entry, dict) and name == "file_name" and not entry.get(name) and isinstance(entry.get("coco_url"), str):
            about = {**entry, name: Path(entry["coco_url"]).name}
        if number is None or not isinstance(about.get(name), str) or not about[name].strip():
            problems.append(
                f"{what} {place} is {one_line(repr(entry), 80)}; expected a mapping with an id and a text as {name}."
            )
        elif number in found:
            problems.append(f"{what} {place} has the id {number}, which is taken; the first is used.")
        else:
            found[number] = about
    return found


def _key(entry: Any, name: str) -> str | None:
    """A number, or the text that some tools write, by which entries name each other."""
    number = entry.get(name) if isinstance(entry, dict) else None
    return str(number) if isinstance(number, int | str) else None


def _sides(box: Any) -> list[float]:
    if not isinstance(box, list) or len(box) != 4 or not all(type(side) in (int, float) for side in box):
        raise ValueError(f"a bbox is {one_line(repr(box), 60)}; expected left, top, width, height")
    return box
