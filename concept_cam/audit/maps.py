"""The maps of an audit, read again from disk: in one pass, and nothing is believed that does not fit the rows."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from concept_cam.address import absolute, is_remote
from concept_cam.audit.columns import AuditRow
from concept_cam.audit.object_share import ALIGNED
from concept_cam.audit.packing import MAPS
from concept_cam.audit.setup import Setup
from concept_cam.decoding import MAX_BYTES
from concept_cam.errors import ImageError, OutputError, Unreachable, reason
from concept_cam.images import Placement, read_image
from concept_cam.outside import read_bytes
from concept_cam.runs.tensors import StoredTensors, stored_tensors
from concept_cam.stored import MOST_CELLS, placed

_MOST_DIRECTIONS = 4096
_LONGEST_SOURCE = 1 << 20


@final
@dataclass(frozen=True, eq=False)
class Drawing:
    """What the thumbnail of one image is drawn from.

    Attributes:
        decision: the map of the prediction against its runner-up.
        base: the base map of the prediction.
        scene: the map of the background that moves the prediction most, against the others; None without backgrounds.
        placement: of all three.
        source: the name of the image's file, relative to the folder of the audit; or a small copy of what was no file.
        digest: of the file; None of a copy.
    """

    decision: Float[Tensor, "rows cols"]
    base: Float[Tensor, "rows cols"]
    scene: Float[Tensor, "rows cols"] | None
    placement: Placement
    source: bytes
    digest: bytes | None

    def image(self, folder: Path) -> Image.Image:
        """The image as it was seen, or a smaller copy.

        Args:
            folder: of the audit.

        Raises:
            ImageError: it is gone, or has changed.
        """
        if self.digest is None:
            return read_image(self.source)
        path = folder / os.fsdecode(self.source)
        if is_remote(path):
            path = absolute(path)
            if path.parts[:2] != folder.parts[:2]:
                raise ImageError(f"{path}: the image is in another bucket than the audit, so it is not opened.")
        try:
            # What is drawn is what was compared: the file is read once.
            content = read_bytes(path, MAX_BYTES) if self.source else b""
        except Unreachable:
            raise
        except (OSError, ValueError) as error:
            raise ImageError(f"{path}: the image is gone ({reason(error)}).") from error
        if hashlib.sha256(content).digest() != self.digest:
            raise ImageError(f"{path}: the image is gone, or has changed since the audit.")
        return read_image(content)


@final
@dataclass(frozen=True, eq=False)
class Sums:
    """What one pass over the batches gives.

    Attributes:
        by_class: of each predicted class, sums of ``effects`` and ``chance`` over its images.
        by_pair: of each prediction with its runner-up, sums of ``aligned``, ``shared`` and ``agreements``.
        drawings: of the images that were asked for, by their positions among the rows that are good.
        starts: the position of the first image of each batch.
    """

    by_class: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    by_pair: dict[tuple[str, str], dict[str, Tensor]] = field(default_factory=dict)
    drawings: dict[int, Drawing] = field(default_factory=dict)
    starts: list[int] = field(default_factory=list)


def read_sums(batches: Sequence[Path], rows: Sequence[AuditRow], setup: Setup, wanted: set[int]) -> Sums:
    """Read each batch once: all sums, and what the wanted thumbnails are drawn from.

    Args:
        batches: files of tensors, in the order of the rows.
        rows: those of images that were used.
        setup: what the audit is of.
        wanted: positions of rows.

    Raises:
        OutputError: a file is damaged, or does not belong to the rows.
    """
    found, start = Sums(), 0
    for file in batches:
        with stored_tensors(file) as held:
            count = _count(held, len(rows) - start)
            found.starts.append(start)
            kinds = _kinds(held, count, setup) if count else {}
            found.drawings.update((at, _drawing(held, at - start, count)) for at in wanted if start <= at < start + count)
        for k, row in enumerate(rows[start : start + count]):
            for kind, tensor in kinds.items():
                of_class = found.by_class.setdefault(row.predicted, {})
                of_pair = found.by_pair.setdefault((row.predicted, row.runner_up), {})
                sums = of_class if kind in ("effects", "chance") else of_pair
                sums[kind] = sums[kind] + tensor[k] if kind in sums else tensor[k].clone()
        start += count
    _check_all(batches, rows, start)
    return found


def read_kind(batches: Sequence[Path], rows: Sequence[AuditRow], kind: str) -> Iterator[tuple[AuditRow, Tensor]]:
    """Each row with one of its tensors; a batch at a time, of which nothing else is read.

    Args:
        batches: files of tensors, in the order of the rows.
        rows: those of images that were used.
        kind: of the tensors; see ``Examiner.examine``.

    Raises:
        OutputError: a file is damaged, or does not belong to the rows.
    """
    start = 0
    for file in batches:
        with stored_tensors(file) as held:
            count = _count(held, len(rows) - start)
            shape = (ALIGNED, ALIGNED) if kind in ("aligned", "whole") else held.shape(kind)[1:]
            tensors = held.read(kind, count, *shape).double() if count else ()
        yield from zip(rows[start : start + count], tensors, strict=True)
        start += count
    _check_all(batches, rows, start)


def read_drawings(batches: Sequence[Path], starts: Sequence[int], wanted: Sequence[int]) -> dict[int, Drawing]:
    """What some thumbnails are drawn from; other batches are not read.

    Args:
        batches: files of tensors.
        starts: the position of the first image of each; see ``Sums``.
        wanted: positions.

    Raises:
        OutputError: a file is damaged.
    """
    found: dict[int, Drawing] = {}
    for file, start, end in zip(batches, starts, [*starts[1:], float("inf")], strict=True):
        here = [at for at in wanted if start <= at < end]
        if here:
            with stored_tensors(file) as held:
                count = held.shape("effects")[0]
                found |= {at: _drawing(held, at - start, count) for at in here}
    return found


def _count(held: StoredTensors, left: int) -> int:
    """How many images a batch has maps of; one whose images were all skipped has no tensors."""
    count = held.shape("effects")[0] if held.names else 0
    if count > left:
        raise ValueError(f"it has maps of {count} images, and {left} rows are left")
    return count


def _check_all(batches: Sequence[Path], rows: Sequence[AuditRow], count: int) -> None:
    if count != len(rows):
        where = batches[0].parent if batches else "the folder"
        raise OutputError(f"{where}: there are maps of {count} of {len(rows)} images; delete the folder and run it again.")


def _kinds(held: StoredTensors, count: int, setup: Setup) -> dict[str, Tensor]:
    """All that is summed, in double precision."""
    phrases, directions = setup.phrases, held.shape("chance")[1:]
    if len(directions) != 1 or directions[0] > _MOST_DIRECTIONS:
        raise ValueError(f"chance is {list(directions)} for each image; expected one number for each direction")
    shapes = {"aligned": (ALIGNED, ALIGNED), "agreements": (phrases,)}
    shapes |= {"shared": (ALIGNED, ALIGNED)} if phrases else {}
    shapes |= {"effects": (len(setup.backgrounds),), "chance": directions} if setup.backgrounds else {}
    return {kind: held.read(kind, count, *shape).double() for kind, shape in shapes.items()}


def _drawing(held: StoredTensors, place: int, count: int) -> Drawing:
    """What the thumbnail of one of the images of a batch is drawn from."""
    grids = held.read("grids", count, 2)
    if bool((grids < 1).any()) or bool((grids > MOST_CELLS).any()) or int(grids.prod(1).max()) > MOST_CELLS:
        raise ValueError(f"grids are {grids.tolist()}")
    rows, cols = (int(side) for side in grids[place])
    stop = int(grids[: place + 1].prod(1).sum())
    numbers = held.read("placements", count, 10)[place].tolist()
    size = [int(side) if side.is_integer() else side for side in numbers[4:6]]
    placement = placed({"window": numbers[:4], "image_size": size, "cells": numbers[6:]}, (rows, cols))
    maps = {name: held.part(name, stop - rows * cols, stop).reshape(rows, cols) for name in MAPS if held.shape(name) != (0,)}
    ends = [0, *held.read("source_ends", count).tolist()]
    first, last = ends[place : place + 2]
    if last - first > _LONGEST_SOURCE:
        raise ValueError(f"the source of an image has {last - first} bytes")
    digest = bytes(held.read("digests", count, 32)[place].tolist())
    source = bytes(held.part("sources", first, last).tolist())
    return Drawing(maps["decision"], maps["base"], maps.get("scene"), placement, source, digest if any(digest) else None)
