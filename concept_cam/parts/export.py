"""Findings in forms that others read: COCO, CUB-200-2011, CSV, supervision. Nothing is written here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from concept_cam.errors import DatasetError, OptionError, did_you_mean
from concept_cam.parts.part import Part, PartFinding
from concept_cam.regions import Box
from concept_cam.runlengths import compressed
from concept_cam.tables import table_of

if TYPE_CHECKING:
    import supervision


class _Seen(NamedTuple):
    """A part that is visible, and its place among the parts."""

    place: int
    part: Part
    keypoint: tuple[float, float]
    box: Box
    mask: Bool[Tensor, "height width"]


def to_coco(findings: Mapping[str, PartFinding]) -> dict[str, Any]:
    """COCO's keypoints and instances in one, ready for JSON; findings by file name of the image, of one vocabulary.

    Category 1 is the parent, with a keypoint for each part; from 2 on, the parts. An image has an annotation of every visible
    part, and before them one of the parent, whose mask is the union of theirs; without a visible part it has none. Masks are
    compressed run lengths, boxes (left, top, width, height), in pixels. Keypoints count from the image's corner as boxes do:
    the first pixel's centre is (0.5, 0.5). A ``score`` is the confidence, the parent's the mean of its visible parts'.

    Raises:
        OptionError: there are none, or they have not all the same parent and parts.
    """
    parent, names = _vocabulary(findings)
    annotations: list[dict[str, Any]] = []
    for number, finding in enumerate(findings.values(), 1):
        seen = _seen(finding)
        if not seen:
            continue
        keypoints: list[float] = [0.0, 0.0, 0] * len(names)
        for item in seen:
            keypoints[3 * item.place : 3 * item.place + 3] = [*item.keypoint, 2]
        union = torch.stack([item.mask for item in seen]).any(0)
        score = sum(item.part.confidence for item in seen) / len(seen)
        whole = _annotation(1, number, _around(item.box for item in seen), union, score)
        annotations.append(whole | {"keypoints": keypoints, "num_keypoints": len(seen)})
        for item in seen:
            attributes = {name: reading.value for name, reading in item.part.attributes.items()}
            own = _annotation(2 + item.place, number, item.box, item.mask, item.part.confidence)
            annotations.append(own | {"attributes": attributes})
    images = [
        {"id": number, "file_name": name} | dict(zip(("height", "width"), finding.placement.image_size, strict=True))
        for number, (name, finding) in enumerate(findings.items(), 1)
    ]
    categories: list[dict[str, Any]] = [
        {"id": 1, "name": parent, "supercategory": parent, "keypoints": list(names), "skeleton": []},
        *({"id": number, "name": name, "supercategory": parent} for number, name in enumerate(names, 2)),
    ]
    return {
        "info": {"description": f"parts of {parent}, found by concept-cam"},
        "licenses": [],
        "images": images,
        "annotations": [{"id": number} | annotation for number, annotation in enumerate(annotations, 1)],
        "categories": categories,
    }


def to_cub(findings: Mapping[str, PartFinding], classes: Mapping[str, str] | None = None) -> dict[str, bytes]:
    """Files by path, in the layout of CUB-200-2011, for images that lie in ``images/``, upright as they are stored.

    All are of its test part. The box of an image is around the visible parts; without any it is the whole image. In a
    class's name an underscore is read as a space.

    Args:
        findings: by name of the image, relative to ``images/``; of one vocabulary.
        classes: the class of each image; by default all are of one, the parent.

    Raises:
        OptionError: there are none, they have not all the same parent and parts, an image has no class or cannot lie in
            ``images/``, or a name cannot stand on a line of a file.
    """
    parent, names = _vocabulary(findings)
    labels = {name: _line(_class_of(name, classes) if classes is not None else parent).replace(" ", "_") for name in findings}
    numbers = {label: number for number, label in enumerate(sorted(set(labels.values())), 1)}
    files: dict[str, list[str]] = {
        "classes.txt": [f"{number} {number:03d}.{label}" for label, number in numbers.items()],
        "parts/parts.txt": [f"{number} {_line(name)}" for number, name in enumerate(names, 1)],
        "images.txt": [],
        "image_class_labels.txt": [],
        "bounding_boxes.txt": [],
        "train_test_split.txt": [],
        "parts/part_locs.txt": [],
    }
    for number, (name, finding) in enumerate(findings.items(), 1):
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
            raise OptionError(f"{name!r} cannot lie in images/; name images relative to that folder.")
        seen = {item.place: item for item in _seen(finding)}
        height, width = finding.placement.image_size
        box = _around(item.box for item in seen.values()) if seen else (0, 0, width, height)
        files["images.txt"].append(f"{number} {_line(name)}")
        files["image_class_labels.txt"].append(f"{number} {numbers[labels[name]]}")
        files["bounding_boxes.txt"].append(f"{number} " + " ".join(f"{side:.1f}" for side in _sides(box)))
        files["train_test_split.txt"].append(f"{number} 0")
        for index in range(len(names)):
            x, y = seen[index].keypoint if index in seen else (0.0, 0.0)
            files["parts/part_locs.txt"].append(f"{number} {index + 1} {float(x)} {float(y)} {int(index in seen)}")
    return {path: "".join(f"{line}\n" for line in rows).encode() for path, rows in files.items()}


def to_csv(findings: Mapping[str, PartFinding]) -> bytes:
    """A row for each image and part, in UTF-8: numbers with six digits, boxes half-open, what is not to be seen empty.

    Every attribute ``NAME`` has two columns: ``NAME``, the value that is read, and ``NAME_confidence``; where the table has
    one of that name already, ``NAME_`` and ``NAME__confidence``. A text that begins
    with = + - @, a tab or a line break gets an apostrophe before it: a spreadsheet would run it as a formula, and file names
    come from anyone. Bytes of a file name that are not UTF-8 are escaped with backslashes.

    Raises:
        OptionError: there are no findings.
    """
    if not findings:
        raise OptionError(_NOTHING)
    pairs = _pairs(name for finding in findings.values() for part in finding.parts for name in part.attributes)
    rows: list[dict[str, object]] = []
    for name, finding in findings.items():
        seen = {item.place: item for item in _seen(finding)}
        for index, part in enumerate(finding.parts):
            row: dict[str, object] = {"image": name, "part": part.name}
            row |= {"visible": int(part.visible), "confidence": float(part.confidence)}
            if index in seen:
                places = (*map(float, seen[index].keypoint), *seen[index].box)
                row |= zip(("x", "y", "left", "top", "right", "bottom"), places, strict=True)
            for attribute, reading in part.attributes.items():
                row |= zip(pairs[attribute], (reading.value, float(reading.confidence)), strict=True)
            rows.append(row)
    return table_of(rows, (*_COLUMNS, *chain.from_iterable(pairs.values())), errors="backslashreplace")


def to_supervision(finding: PartFinding) -> supervision.Detections:
    """The visible parts as ``supervision``'s annotators draw them; needs the extra ``supervision``.

    ``class_id`` is the place of a part among all of them, ``data["class_name"]`` its name. Boxes are half-open.

    Raises:
        DatasetError: the extra is not there.
    """
    try:
        import supervision  # noqa: PLC0415
    except ImportError as error:
        raise DatasetError("To make supervision's detections, install concept-cam[supervision].") from error
    seen = _seen(finding)
    return supervision.Detections(
        xyxy=np.array([item.box for item in seen], dtype=np.float32).reshape(len(seen), 4),
        mask=np.array([item.mask.numpy() for item in seen], dtype=bool).reshape(len(seen), *finding.placement.image_size),
        confidence=np.array([item.part.confidence for item in seen], dtype=np.float32),
        class_id=np.array([item.place for item in seen], dtype=np.int64),
        data={"class_name": np.array([item.part.name for item in seen], dtype=np.str_)},
    )


_COLUMNS = ("image", "part", "visible", "confidence", "x", "y", "left", "top", "right", "bottom")
_NOTHING = "There are no findings; expected those of at least one image."


def _pairs(attributes: Iterable[str]) -> dict[str, tuple[str, str]]:
    """The two columns of each attribute, which no other has."""
    pairs: dict[str, tuple[str, str]] = {}
    taken = set(_COLUMNS)
    for name in dict.fromkeys(attributes):
        own = name
        while taken & {own, f"{own}_confidence"}:
            own += "_"
        pairs[name] = (own, f"{own}_confidence")
        taken.update(pairs[name])
    return pairs


def _vocabulary(findings: Mapping[str, PartFinding]) -> tuple[str, tuple[str, ...]]:
    """The parent and the names of the parts that all findings have."""
    if not findings:
        raise OptionError(_NOTHING)
    found = {name: (finding.parent, tuple(part.name for part in finding.parts)) for name, finding in findings.items()}
    (first, one), *others = found.items()
    for name, other in others:
        if other != one:
            raise OptionError(
                f"{first!r} has {_described(*one)}, but {name!r} {_described(*other)}; export one vocabulary at a time."
            )
    return one


def _described(parent: str, names: Sequence[str]) -> str:
    return f"the parts {', '.join(names)} of {parent}"


def _seen(finding: PartFinding) -> list[_Seen]:
    return [
        _Seen(index, part, part.keypoint, part.box, part.mask)
        for index, part in enumerate(finding.parts)
        if part.visible and part.keypoint is not None and part.box is not None and part.mask is not None
    ]


def _around(boxes: Iterable[Box]) -> Box:
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def _sides(box: Box) -> list[int]:
    left, top, right, bottom = box
    return [left, top, right - left, bottom - top]


def _annotation(category: int, image: int, box: Box, mask: Bool[Tensor, "height width"], score: float) -> dict[str, Any]:
    return {
        "image_id": image,
        "category_id": category,
        "bbox": _sides(box),
        "area": int(mask.sum()),
        "iscrowd": 0,
        "segmentation": compressed(mask),
        "score": score,
    }


def _class_of(name: str, classes: Mapping[str, str]) -> str:
    if name not in classes:
        raise OptionError(f"No class is given for {name!r}.{did_you_mean(name, classes)} Every image needs one.")
    return classes[name]


def _line(name: str) -> str:
    """A name as a line of a file in UTF-8 gives it back."""
    if name.splitlines() != [name.strip()] or name.encode(errors="replace").decode() != name:
        raise OptionError(
            f"{name!r} cannot stand on a line of its own in UTF-8; expected no line break, no space at its ends."
        )
    return name
