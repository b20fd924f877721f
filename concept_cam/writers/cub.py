"""The layout of CUB-200-2011: text files that name images, classes, boxes and keypoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import NamedTuple, final

from PIL import Image

from concept_cam.address import address_of
from concept_cam.errors import OptionError, did_you_mean
from concept_cam.files import write_file
from concept_cam.regions import Box
from concept_cam.writers.coco import NOTHING, check_alike
from concept_cam.writers.regions import Regions, Result, around, regions_of, sides
from concept_cam.writers.writer import Writer


def to_cub(results: Mapping[str, Result], classes: Mapping[str, str] | None = None) -> dict[str, bytes]:
    r"""Files by path, in the layout of CUB-200-2011, for images that lie in ``images/``, upright as they are stored.

    All images are in the test split. The box of an image is around the visible parts, or around the mask of a localization;
    without any it is the whole image. In the name of a class an underscore is read as a space.

    Args:
        results: by name of the image, relative to ``images/``; all localizations, or all findings of one vocabulary.
        classes: the class of each image; by default the parent of the parts, or the target.

    Raises:
        OptionError: there are none, they have not all the same parent and parts, an image has no class or cannot lie in
            ``images/``, or a name cannot stand on a line of a file.

    Example:
        >>> from concept_cam import world
        >>> from concept_cam.writers import to_cub
        >>> plate = world.draw_species("ember finch", seed=3)
        >>> files = to_cub({"plate.png": world.localizer()(plate.image, "ember finch", "frost finch")})
        >>> files["classes.txt"], files["images.txt"]
        (b'1 001.ember_finch\n', b'1 plate.png\n')
    """
    writer = Cub("", classes)
    for name, result in results.items():
        writer.add(name, result)
    return writer.files()


class _Entry(NamedTuple):
    name: str
    label: str
    box: Box
    keypoints: Mapping[int, tuple[float, float]]


@final
class Cub(Writer[Result]):
    """Writes ``to_cub`` of many results into a folder.

    Args:
        folder: for the files.
        classes: as in ``to_cub``.
        refused: called with what is wrong with an image that cannot be named there, which is skipped; by default it is raised.
    """

    def __init__(
        self,
        folder: str | Path,
        classes: Mapping[str, str] | None = None,
        refused: Callable[[OptionError], object] | None = None,
    ) -> None:
        self._folder, self._classes, self._refused = address_of(folder), classes, refused
        self._first: tuple[str, Regions] | None = None
        self._entries: list[_Entry] = []

    def add(self, name: str, result: Result, image: Image.Image | None = None) -> tuple[Path, ...]:
        """Take a result; see ``Writer``.

        Raises:
            OptionError: see ``to_cub``.
        """
        found = regions_of(result)
        first = self._first or (name, found)
        check_alike(first, name, found)
        try:
            self._entries.append(self._entry(name, found))
        except OptionError as error:
            if self._refused is None:
                raise
            self._refused(error)
            return ()
        self._first = first[0], Regions(first[1].whole, first[1].names, first[1].size, (), first[1].kind)
        return ()

    def _entry(self, name: str, found: Regions) -> _Entry:
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
            raise OptionError(f"{name!r} cannot lie in images/; name images relative to that folder.")
        label = _line(found.whole if self._classes is None else _class_of(name, self._classes)).replace(" ", "_")
        for part in found.names:
            _line(part)
        boxes = tuple(region.box for region in found.seen)
        box = around(boxes) if boxes else (0, 0, found.size[1], found.size[0])
        return _Entry(_line(name), label, box, {region.place: region.keypoint for region in found.seen})

    def files(self) -> dict[str, bytes]:
        """The content of each file by its path in the folder.

        Raises:
            OptionError: no result was taken.
        """
        if self._first is None:
            raise OptionError(NOTHING)
        names = self._first[1].names
        numbers = {label: number for number, label in enumerate(sorted({one.label for one in self._entries}), 1)}
        files: dict[str, list[str]] = {
            "classes.txt": [f"{number} {number:03d}.{label}" for label, number in numbers.items()],
            "parts/parts.txt": [f"{number} {name}" for number, name in enumerate(names, 1)],
            "images.txt": [],
            "image_class_labels.txt": [],
            "bounding_boxes.txt": [],
            "train_test_split.txt": [],
            "parts/part_locs.txt": [],
        }
        for number, one in enumerate(self._entries, 1):
            files["images.txt"].append(f"{number} {one.name}")
            files["image_class_labels.txt"].append(f"{number} {numbers[one.label]}")
            files["bounding_boxes.txt"].append(f"{number} " + " ".join(f"{side:.1f}" for side in sides(one.box)))
            files["train_test_split.txt"].append(f"{number} 0")
            for index in range(len(names)):
                x, y = one.keypoints.get(index, (0.0, 0.0))
                files["parts/part_locs.txt"].append(
                    f"{number} {index + 1} {float(x)} {float(y)} {int(index in one.keypoints)}"
                )
        return {path: "".join(f"{line}\n" for line in lines).encode() for path, lines in files.items()}

    def close(self) -> None:
        """Write the files; without a result there are none."""
        if self._entries:
            for path, content in self.files().items():
                write_file(self._folder / path, content)


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
