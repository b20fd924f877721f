"""A batch of a store on disk: a table for people, what is known of each image, and the tensors of those that could be read."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor

from concept_cam.errors import NoSpatialGradient, OutputError
from concept_cam.field import ConceptField
from concept_cam.images import Placement
from concept_cam.outside import parse_json, read_bytes
from concept_cam.runs.batches import Files
from concept_cam.runs.tensors import stored_tensors
from concept_cam.store.packing import KEEP, pack, unpack
from concept_cam.stored import MOST_CELLS, MOST_NUMBERS, exactly, mapping, placed, refused, sides
from concept_cam.tables import table_of

COLUMNS = ("image", "height", "width", "rows", "cols", "sha256", "problem")
"""Of the table of a store."""

AGAIN = "delete it, and store the fields again"
"""What to do about a file that is damaged; a run that is started again makes the batch anew."""

_IMAGES, _TENSORS = ".images", ".safetensors"
_LARGEST = 1 << 26
_DIGEST = re.compile("[0-9a-f]{64}")


@final
@dataclass(frozen=True, eq=False)
class Stored:
    """What is stored of an image that could be read.

    Attributes:
        field: of the image.
        sha256: of its file.
    """

    field: ConceptField
    sha256: str


@final
@dataclass(frozen=True)
class Entry:
    """What a batch says of an image.

    Attributes:
        image: its name, seen from the folder that holds all images.
        problem: why there is no field; empty if there is one, and only then all that follows is known.
        sha256: of its file.
        field_sha256: of the numbers that are kept of its field and of its embedding.
        grid: (rows, cols) of its maps.
        placement: of its maps.
        provenance: of its field.
    """

    image: str
    problem: str = ""
    sha256: str = ""
    field_sha256: str = ""
    grid: tuple[int, int] = (0, 0)
    placement: Placement = field(default_factory=lambda: Placement((0.0, 0.0, 1.0, 1.0), (1, 1)))
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cells(self) -> int:
        """Of its maps; 0 if there is no field."""
        return self.grid[0] * self.grid[1]


def check_stored(found: Stored) -> None:
    """Raise NoSpatialGradient or OutputError if a field cannot be kept, or could not be read back.

    Args:
        found: of an image.
    """
    own, kept = found.field, found.field.placement
    rows, cols, width = own.vectors.shape
    if not (own.vectors.isfinite().all() and own.embedding.isfinite().all()):
        raise NoSpatialGradient("The field is not finite.")
    try:
        placed(json.loads(json.dumps(kept.as_dict())), sides([rows, cols], "grid", MOST_CELLS))
        _check_size(rows * cols, width)
    except ValueError as error:
        raise OutputError(f"The field cannot be stored ({error}).") from error


def files_of(items: Sequence[tuple[str, Stored | str]], keep: str) -> Files:
    """The files of a batch.

    Args:
        items: the name of each image, with what is stored of it, or why it could not be read.
        keep: ``exact`` or ``compact``.
    """
    entries: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    hows: list[Mapping[str, Any]] = []
    numbers: list[Tensor] = []
    scales: list[Tensor] = []
    embeddings: list[Tensor] = []
    for name, found in items:
        if isinstance(found, str):
            entries.append({"image": name, "problem": found})
            rows.append(entries[-1])
            continue
        grid = tuple(found.field.vectors.shape[:2])
        parts = (*pack(found.field.vectors.flatten(0, 1), keep), found.field.embedding.detach().float().cpu())
        for held, tensor in zip((numbers, scales, embeddings), parts, strict=True):
            held.append(tensor)
        if found.field.provenance not in hows:
            hows.append(found.field.provenance)
        known = {"image": name, "sha256": found.sha256}
        placement = found.field.placement
        about = {"grid": grid, "placement": placement.as_dict(), "how": hows.index(found.field.provenance)}
        entries.append({**known, "field_sha256": _digest(*parts), **about})
        size = zip(("height", "width", "rows", "cols"), (*placement.image_size, *grid), strict=True)
        rows.append({**known, **dict(size)})
    tensors = {
        "embeddings": torch.stack(embeddings) if embeddings else torch.zeros(0, 0, dtype=torch.float32, device="cpu"),
        KEEP[keep]: torch.cat([one.flatten() for one in numbers])
        if numbers
        else pack(torch.zeros(1, 1, dtype=torch.float32, device="cpu"), keep)[0][0, :0],
        "scales": torch.cat(scales) if scales else torch.zeros(0, dtype=torch.float32, device="cpu"),
    }
    return {
        ".csv": table_of(rows, COLUMNS),
        _IMAGES: (json.dumps({"provenance": hows, "images": entries}) + "\n").encode(),
        _TENSORS: save(tensors),
    }


def stem_of(folder: Path, number: int) -> Path:
    """The path of the files of a batch, without their endings."""
    return folder / "batches" / f"{number:05d}"


def read_entries(stem: Path, most: int) -> list[Entry]:
    """What a batch says of its images, in their order.

    Args:
        stem: the path of its files, without their endings.
        most: images that it may have.

    Raises:
        OutputError: the file is not there, or is damaged.
    """
    file = stem.with_name(f"{stem.name}{_IMAGES}")
    with refused(file, "batch of a store"):
        held = mapping(parse_json(read_bytes(file, _LARGEST)), "it")
        exactly(held, ("provenance", "images"), "it")
        if not isinstance(held["images"], list) or not isinstance(held["provenance"], list) or len(held["images"]) > most:
            raise ValueError(f"it has no list of at most {most} images")
        hows = [mapping(one, "provenance") for one in held["provenance"]]
        return [_entry(mapping(one, "an image"), hows) for one in held["images"]]


def embeddings_of(stem: Path, entries: Sequence[Entry]) -> Float[Tensor, "n E"]:
    """The embeddings of the images of a batch that have a field.

    Args:
        stem: the path of its files, without their endings.
        entries: from ``read_entries``.

    Raises:
        OutputError: the file is not there, or is damaged.
    """
    with stored_tensors(stem.with_name(f"{stem.name}{_TENSORS}"), "fields", AGAIN) as held:
        count, width = held.shape("embeddings")
        if count != sum(not entry.problem for entry in entries):
            raise ValueError("it has not an embedding for each image")
        return held.read("embeddings", count, width)


def read_field(stem: Path, entries: Sequence[Entry], place: int, keep: str) -> ConceptField:
    """The field of one image of a batch; those of the others are not read.

    Args:
        stem: the path of the files of the batch, without their endings.
        entries: from ``read_entries``.
        place: of the image among them; it has a field.
        keep: how the store keeps fields.

    Raises:
        OutputError: the file is not there, is damaged, or does not belong to the entries.
    """
    entry, before = entries[place], [one for one in entries[:place] if not one.problem]
    embeddings = embeddings_of(stem, entries)
    embedding, width = embeddings[len(before)], embeddings.shape[1]
    start = sum(one.cells for one in before)
    stop = start + entry.cells
    with stored_tensors(stem.with_name(f"{stem.name}{_TENSORS}"), "fields", AGAIN) as held:
        _check_size(entry.cells, width)
        numbers = held.part(KEEP[keep], start * width, stop * width).reshape(entry.cells, width)
        scales = held.part("scales", *((len(before), len(before) + 1) if keep == "exact" else (start, stop)))
        if _digest(numbers, scales, embedding) != entry.field_sha256:
            raise ValueError(f"image {place} of the batch has other numbers than were stored")
        vectors = unpack(numbers, scales)
        if not vectors.isfinite().all():
            raise ValueError("its vectors are not finite")
    return ConceptField(vectors.reshape(*entry.grid, width), embedding, entry.placement, entry.provenance)


def check_place(entries: Sequence[Entry], place: int, file: Path) -> None:
    """Raise OutputError unless an index leads to an image of a batch that has a field.

    Args:
        entries: of the batch.
        place: that the index says.
        file: of the index.
    """
    if not 0 <= place < len(entries) or entries[place].problem:
        raise OutputError(f"{file}: it does not belong to the batches beside it; delete it, and it is made anew.")


def _entry(held: Mapping[str, Any], hows: Sequence[Mapping[str, Any]]) -> Entry:
    """An image as ``files_of`` could have told of it.

    Raises:
        ValueError: it could not.
    """
    if "problem" in held:
        exactly(held, ("image", "problem"), "an image")
        image, problem = (_text(held[key], key) for key in ("image", "problem"))
        return Entry(image, problem)
    exactly(held, ("image", "sha256", "field_sha256", "grid", "placement", "how"), "an image")
    digests = [_text(held[key], key) for key in ("sha256", "field_sha256")]
    if not all(map(_DIGEST.fullmatch, digests)):
        raise ValueError("an image has no digest")
    if type(held["how"]) is not int or not 0 <= held["how"] < len(hows):
        raise ValueError("an image has no provenance")
    grid = sides(held["grid"], "grid", MOST_CELLS)
    name = _text(held["image"], "image")
    return Entry(name, "", digests[0], digests[1], grid, placed(held["placement"], grid), hows[held["how"]])


def _check_size(cells: int, width: int) -> None:
    """Raise ValueError if a field is too large."""
    if cells * width > MOST_NUMBERS:
        raise ValueError(f"{cells:,} vectors of {width:,} numbers; at most {MOST_NUMBERS:,} numbers are read")


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} is no text")
    return value


def _digest(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
