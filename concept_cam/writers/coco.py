"""COCO's instances and keypoints, in one JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import torch
from PIL import Image

from concept_cam.address import address_of
from concept_cam.errors import OptionError
from concept_cam.files import FileWriter
from concept_cam.runlengths import compressed
from concept_cam.writers.regions import Region, Regions, Result, around, regions_of, sides
from concept_cam.writers.writer import Writer

NOTHING = "There are no results; expected those of at least one image."


def to_coco(results: Mapping[str, Result]) -> dict[str, Any]:
    """COCO's instances and keypoints as a mapping, ready for JSON.

    For findings of parts, category 1 is the parent, with a keypoint for each part; from 2 on, the parts. An image has an
    annotation of every visible part, and before them one of the parent, whose mask is the union of theirs; without a visible
    part it has none. For localizations the categories are the targets, each with one keypoint, the peak; an image has one
    annotation. Masks are compressed run lengths, boxes (left, top, width, height), in pixels. Keypoints count from the corner
    of the image as boxes do: the first pixel's centre is (0.5, 0.5). A ``score`` is the confidence of a part, the mean
    confidence of the visible parts for their parent, and the score of a target.

    Args:
        results: by file name of the image; all localizations, or all findings of one vocabulary.

    Raises:
        OptionError: there are none, or they have not all the same parent and parts.

    Example:
        >>> from concept_cam import world
        >>> from concept_cam.writers import to_coco
        >>> plate = world.draw_species("ember finch", seed=3)
        >>> found = to_coco({"plate.png": world.localizer()(plate.image, "ember finch", "frost finch")})
        >>> [category["name"] for category in found["categories"]], found["images"][0]["file_name"]
        (['ember finch'], 'plate.png')
    """
    entries = _Entries()
    annotations = [annotation for name, result in results.items() for annotation in entries.add(name, result)]
    return entries.rest() | {"annotations": annotations}


@final
class Coco(Writer[Result]):
    """Writes ``to_coco`` of many results to one file, one result after another."""

    def __init__(self, path: str | Path) -> None:
        self._path, self._entries = address_of(path), _Entries()
        self._file: FileWriter | None = None

    def add(self, name: str, result: Result, image: Image.Image | None = None) -> tuple[Path, ...]:
        """Take a result; see ``Writer``.

        Raises:
            OptionError: it has not the same parent and parts as those before it.
            OutputError: the file cannot be written.
        """
        for annotation in self._entries.add(name, result):
            if self._file is None:
                self._file = FileWriter(self._path)
                self._file.write(b'{"annotations": [')
            text = json.dumps(annotation)
            self._file.write((text if annotation["id"] == 1 else f", {text}").encode())
        return ()

    def close(self) -> None:
        """Finish the file; without a result there is none."""
        if not self._entries.images:
            return
        file = self._file or FileWriter(self._path)
        start = "]" if self._file else '{"annotations": []'
        file.write(f"{start}, {json.dumps(self._entries.rest())[1:]}".encode())
        file.close()
        self._file = None

    def discard(self) -> None:
        """Delete what is not finished."""
        if self._file is not None:
            self._file.discard()


class _Entries:
    """What is in the file, but for the annotations, which may be many."""

    def __init__(self) -> None:
        self.images: list[dict[str, Any]] = []
        self._count = 0
        self._first: tuple[str, Regions] | None = None
        self._targets: dict[str, int] = {}

    def add(self, name: str, result: Result) -> list[dict[str, Any]]:
        """The annotations of an image."""
        found = regions_of(result)
        if self._first is None:
            self._first = name, found
        check_alike(self._first, name, found)
        category = self._targets.setdefault(found.whole, len(self._targets) + 1)
        self.images.append(
            {"id": len(self.images) + 1, "file_name": name} | dict(zip(("height", "width"), found.size, strict=True))
        )
        if not found.seen:
            return []
        keypoints: list[float] = [0.0, 0.0, 0] * len(found.names)
        for region in found.seen:
            keypoints[3 * region.place : 3 * region.place + 3] = [*region.keypoint, 2]
        annotations = [self._whole(category, found) | {"keypoints": keypoints, "num_keypoints": len(found.seen)}]
        if not _is_localization(found):
            annotations += [
                self._annotation(2 + region.place, region) | {"attributes": dict(region.attributes)} for region in found.seen
            ]
        return annotations

    def rest(self) -> dict[str, Any]:
        """All but the annotations.

        Raises:
            OptionError: no result was taken.
        """
        if self._first is None:
            raise OptionError(NOTHING)
        whole, names = self._first[1].whole, list(self._first[1].names)
        common = {"keypoints": names, "skeleton": []}
        if _is_localization(self._first[1]):
            what = "maps"
            categories = [{"id": k, "name": name, "supercategory": name} | common for name, k in self._targets.items()]
        else:
            what = f"parts of {whole}"
            categories = [{"id": 1, "name": whole, "supercategory": whole} | common]
            categories += [{"id": k, "name": name, "supercategory": whole} for k, name in enumerate(names, 2)]
        return {
            "info": {"description": f"{what}, found by concept-cam"},
            "licenses": [],
            "images": self.images,
            "categories": categories,
        }

    def _whole(self, category: int, found: Regions) -> dict[str, Any]:
        """One annotation of all regions together."""
        if len(found.seen) == 1:
            return self._annotation(category, found.seen[0])
        union = torch.stack([region.mask for region in found.seen]).any(0)
        score = sum(region.score for region in found.seen) / len(found.seen)
        box = around(tuple(region.box for region in found.seen))
        return self._entry(category, box, int(union.sum()), compressed(union), score)

    def _annotation(self, category: int, region: Region) -> dict[str, Any]:
        return self._entry(category, region.box, int(region.mask.sum()), dict(region.outline), region.score)

    def _entry(self, category: int, box: Any, area: int, outline: dict[str, Any], score: float) -> dict[str, Any]:
        self._count += 1
        return {
            "id": self._count,
            "image_id": len(self.images),
            "category_id": category,
            "bbox": sides(box),
            "area": area,
            "iscrowd": 0,
            "segmentation": outline,
            "score": score,
        }


def check_alike(first: tuple[str, Regions], name: str, found: Regions) -> None:
    """Raise OptionError unless two results go into one file: both localizations, or findings of one vocabulary.

    Args:
        first: the name and the regions of the first result.
        name: of another.
        found: its regions.
    """
    one = first[1]
    both = _is_localization(one) and _is_localization(found)
    if not both and (one.whole, one.names) != (found.whole, found.names):
        raise OptionError(
            f"{first[0]!r} has {_described(one)}, but {name!r} {_described(found)}; export one vocabulary at a time."
        )


def _is_localization(found: Regions) -> bool:
    return found.kind == "map"


def _described(found: Regions) -> str:
    return f"the parts {', '.join(found.names)} of {found.whole}"
