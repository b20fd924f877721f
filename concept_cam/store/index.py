"""The embeddings of all images of a store in one file, each with the place of its image; it is derived, and made anew.

A digest in the header covers the places and a sum for each embedding, and is compared when the file is opened. The sums are
compared when embeddings are read: a digest of them all would take ten times as long as the search.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from concept_cam.address import Address
from concept_cam.errors import OutputError
from concept_cam.files import FileWriter
from concept_cam.outside import opened
from concept_cam.runs.tensors import stored_tensors
from concept_cam.store.batches import embeddings_of, read_entries, stem_of

NAME = "index.safetensors"
_WHAT, _THEN = "the index of this store", "delete it, and it is made anew"
_BLOCK, _PIECE, _PART = 1 << 25, 1 << 19, 1 << 20
"""Bytes of embeddings that are mapped together, and that a core's cache holds; numbers of other tensors read together."""


@final
@dataclass(frozen=True)
class Index:
    """The embeddings of the images that have a field, in the order of the images.

    Attributes:
        file: in the format of safetensors.
        count: of the images.
        width: of an embedding.
        start: the byte at which the embeddings begin.
    """

    file: Path
    count: int
    width: int
    start: int

    @classmethod
    def open(cls, folder: Path, run: str) -> Index:
        """Look at the header of the index of a store.

        Args:
            folder: of the store.
            run: digest of the settings of the store.

        Raises:
            OutputError: it is not there, is damaged, or is that of another store.
        """
        file = folder / NAME
        with stored_tensors(file, _WHAT, _THEN) as held:
            told, (count, width) = held.about, held.shape("embeddings")
            if told.get("run") != run:
                raise ValueError("it is that of another store")
            if count and not width:
                raise ValueError("its embeddings have no numbers")
            digest = hashlib.sha256()
            for name, length in (("places", 2 * count), ("sums", count)):
                held.offset(name, length)
                for start in range(0, length, _PART):
                    digest.update(held.part(name, start, min(start + _PART, length)).numpy().tobytes())
            if told.get("sha256") != digest.hexdigest():
                raise ValueError("its places or its sums have changed")
            return cls(file, count, width, held.offset("embeddings", count, width))

    @classmethod
    def make(cls, folder: Path, run: str, images: int, size: int) -> Index:
        """Write the index of a store, whole or not at all, from its batches, one at a time.

        Args:
            folder: of the store.
            run: digest of the settings of the store.
            images: of the store, those that could not be read too.
            size: images of a batch at most.

        Raises:
            OutputError: a batch is not there or is damaged, or the index cannot be written.
        """
        places, sums, width = [np.zeros((0, 2), "<i8")], [np.zeros(0, "<i4")], 0
        batches = range(-(-images // size))
        for number in batches:
            stem = stem_of(folder, number)
            entries = read_entries(stem, size)
            found = embeddings_of(stem, entries)
            if len(found) and width not in (0, found.shape[1]):
                raise OutputError(f"{stem}: its embeddings have {found.shape[1]} numbers, those before it {width}.")
            width = found.shape[1] if len(found) else width
            good = [(number, place) for place, entry in enumerate(entries) if not entry.problem]
            places.append(np.array(good, "<i8").reshape(-1, 2))
            sums.append(sums_of(found.numpy()))
        with FileWriter(folder / NAME) as writer:
            writer.write(head_of(run, np.concatenate(places), np.concatenate(sums), width))
            for stem in (stem_of(folder, number) for number in batches):
                writer.write(embeddings_of(stem, read_entries(stem, size)).numpy().tobytes())
        return cls.open(folder, run)

    def place(self, number: int) -> tuple[int, int]:
        """The batch of an image, and its place in the batch.

        Raises:
            OutputError: the index is damaged.
        """
        with stored_tensors(self.file, _WHAT, _THEN) as held:
            batch, place = held.part("places", 2 * number, 2 * number + 2).tolist()
        return batch, place

    def blocks(self) -> Iterator[tuple[int, Float[np.ndarray, "n E"], Int[np.ndarray, " n"]]]:
        """The embeddings in blocks, each with the number of its first image and the sums; one block is mapped at a time."""
        step = max(1, _BLOCK // (4 * max(1, self.width)))
        with ExitStack() as stack:
            held = stack.enter_context(stored_tensors(self.file, _WHAT, _THEN))
            # Of an object all is fetched, once; nothing else can be mapped.
            whole = self.file.fetched() if isinstance(self.file, Address) else None
            stream = stack.enter_context(opened(self.file)) if whole is None else whole.file
            for first in range(0, self.count, step):
                stop = min(first + step, self.count)
                offset = self.start + 4 * first * self.width
                block = np.memmap(stream, np.dtype("<f4"), "r", offset, (stop - first, self.width))
                yield first, np.asarray(block), held.part("sums", first, stop).numpy()

    def best(self, directions: Float[Tensor, "Q E"], count: int) -> list[tuple[Float[Tensor, " n"], Int[Tensor, " n"]]]:
        """For each direction the images with the highest scores, the highest first; ties are in the order of the images.

        Args:
            directions: in the space of the embeddings.
            count: how many images at most.

        Returns:
            The scores, and the numbers of the images in the index.

        Raises:
            OutputError: an embedding has changed since the index was made, or a score is not finite.
        """
        wanted = directions.detach().float().cpu().numpy()
        nothing = torch.zeros(0, dtype=torch.float32, device="cpu")
        found = [(nothing, nothing.long()) for _ in wanted]
        for first, block, sums in self.blocks():
            scores = torch.from_numpy(self._products(block, wanted, sums))
            if not scores.isfinite().all():
                raise OutputError(f"{self.file}: it holds numbers that are not finite; {_THEN}.")
            numbers = torch.arange(first, first + len(block), dtype=torch.int64, device="cpu")
            found = [_highest(*held, own, numbers, count) for held, own in zip(found, scores, strict=True)]
        return found

    def _products(
        self, block: Float[np.ndarray, "n E"], wanted: Float[np.ndarray, "Q E"], sums: Int[np.ndarray, " n"]
    ) -> Float[np.ndarray, "Q n"]:
        """Of the embeddings of a block with directions; each is compared with its sum while the cache holds it."""
        products, step = np.empty((len(wanted), len(block)), np.float32), max(1, _PIECE // (4 * self.width))
        for piece in (slice(start, start + step) for start in range(0, len(block), step)):
            if not np.array_equal(sums_of(block[piece]), sums[piece]):
                raise OutputError(f"{self.file}: its embeddings have changed; {_THEN}.")
            for number, one in enumerate(wanted):
                # One by one: a product of matrices differs in the last digit with the number of texts.
                products[number, piece] = block[piece] @ one
        return products


def sums_of(embeddings: Float[np.ndarray, "n E"]) -> Int[np.ndarray, " n"]:
    """For each embedding the sum of its 32-bit words, modulo 2^32, by which one that has changed is known."""
    sums: Int[np.ndarray, " n"] = embeddings.view("<i4").sum(axis=1, dtype="<i4")
    return sums


def head_of(run: str, places: Int[np.ndarray, "n 2"], sums: Int[np.ndarray, " n"], width: int) -> bytes:
    """What the file of an index holds before the embeddings, which are aligned.

    Args:
        run: digest of the settings of the store.
        places: the batch of each image, and its place in the batch.
        sums: from ``sums_of``, for all embeddings.
        width: of an embedding.
    """
    count, tables = len(places), places.astype("<i8").tobytes() + sums.astype("<i4").tobytes()
    told = {
        "__metadata__": {"run": run, "sha256": hashlib.sha256(tables).hexdigest()},
        "places": {"dtype": "I64", "shape": [2 * count], "data_offsets": [0, 16 * count]},
        "sums": {"dtype": "I32", "shape": [count], "data_offsets": [16 * count, 20 * count]},
        "embeddings": {
            "dtype": "F32",
            "shape": [count, width],
            "data_offsets": [20 * count, 20 * count + 4 * count * width],
        },
    }
    content = json.dumps(told).encode()
    content += b" " * (-len(content) % 8)
    return len(content).to_bytes(8, "little") + content + tables


def _highest(
    held: Float[Tensor, " a"], of_held: Int[Tensor, " a"], scores: Float[Tensor, " n"], numbers: Int[Tensor, " n"], count: int
) -> tuple[Float[Tensor, " c"], Int[Tensor, " c"]]:
    """The highest of the scores that are held and of others, with their numbers."""
    scores, numbers = torch.cat([held, scores]), torch.cat([of_held, numbers])
    # Sorted are those alone that may be among them; a stable sort of all would take most of the time.
    least = scores.topk(min(count, len(scores))).values[-1]
    rows = (scores >= least).nonzero()[:, 0]
    rows = rows[scores[rows].argsort(descending=True, stable=True)][:count]
    return scores[rows], numbers[rows]
