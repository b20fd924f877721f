"""The embeddings of all images of a store in one file, each with the place of its image; it is derived, and made anew."""

from __future__ import annotations

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
_BLOCK = 1 << 25
"""Bytes of embeddings that are looked at together."""


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
            if held.about != {"run": run}:
                raise ValueError("it is that of another store")
            count, width = held.shape("embeddings")
            if count and not width:
                raise ValueError("its embeddings have no numbers")
            held.offset("places", 2 * count)
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
        held, width = [torch.zeros(0, 2, dtype=torch.int64, device="cpu")], 0
        batches = range(-(-images // size))
        for number in batches:
            stem = stem_of(folder, number)
            entries = read_entries(stem, size)
            found = embeddings_of(stem, entries)
            if len(found) and width not in (0, found.shape[1]):
                raise OutputError(f"{stem}: its embeddings have {found.shape[1]} numbers, those before it {width}.")
            width = found.shape[1] if len(found) else width
            good = [(number, place) for place, entry in enumerate(entries) if not entry.problem]
            held.append(torch.tensor(good, dtype=torch.int64, device="cpu").reshape(-1, 2))
        places = torch.cat(held)
        with FileWriter(folder / NAME) as writer:
            writer.write(header_of(run, len(places), width) + places.numpy().tobytes())
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

    def blocks(self) -> Iterator[tuple[int, Float[np.ndarray, "n E"]]]:
        """The embeddings in blocks, each with the number of its first image; of the file, one block is mapped at a time."""
        step = max(1, _BLOCK // (4 * max(1, self.width)))
        with ExitStack() as stack:
            # Of an object all is fetched, once; nothing else can be mapped.
            held = self.file.fetched() if isinstance(self.file, Address) else None
            stream = stack.enter_context(opened(self.file)) if held is None else held.file
            for first in range(0, self.count, step):
                shape = min(step, self.count - first), self.width
                offset = self.start + 4 * first * self.width
                yield first, np.memmap(stream, np.dtype("<f4"), "r", offset, shape)

    def best(self, directions: Float[Tensor, "Q E"], count: int) -> list[tuple[Float[Tensor, " n"], Int[Tensor, " n"]]]:
        """For each direction the images with the highest scores, the highest first; ties are in the order of the images.

        Args:
            directions: in the space of the embeddings.
            count: how many images at most.

        Returns:
            The scores, and the numbers of the images in the index.

        Raises:
            OutputError: an embedding is not finite.
        """
        wanted = directions.detach().float().cpu().numpy()
        nothing = torch.zeros(0, dtype=torch.float32, device="cpu")
        found = [(nothing, nothing.long()) for _ in wanted]
        for first, block in self.blocks():
            # One by one: a product of matrices differs in the last digit with the number of texts.
            scores = torch.from_numpy(np.stack([block @ one for one in wanted]))
            if not scores.isfinite().all():
                raise OutputError(f"{self.file}: it holds numbers that are not finite; {_THEN}.")
            numbers = torch.arange(first, first + len(block), dtype=torch.int64, device="cpu")
            found = [_highest(*held, own, numbers, count) for held, own in zip(found, scores, strict=True)]
        return found


def header_of(run: str, count: int, width: int) -> bytes:
    """What the file of an index begins with; the numbers after it are aligned.

    Args:
        run: digest of the settings of the store.
        count: of the images.
        width: of an embedding.
    """
    middle, end = 16 * count, 16 * count + 4 * count * width
    told = {
        "__metadata__": {"run": run},
        "places": {"dtype": "I64", "shape": [2 * count], "data_offsets": [0, middle]},
        "embeddings": {"dtype": "F32", "shape": [count, width], "data_offsets": [middle, end]},
    }
    content = json.dumps(told).encode()
    content += b" " * (-len(content) % 8)
    return len(content).to_bytes(8, "little") + content


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
