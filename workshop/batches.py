"""What the embedded encoder learns from: batches of plates with all that is true of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int, Int64, UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from concept_cam.world.birds import COLOURS, PARTS, Bird, mutant, random_bird, species
from concept_cam.world.captions import ANY, FEATURES, draw_caption, features
from concept_cam.world.checkpoint import PATCH
from concept_cam.world.renderer import SIZE, TRAINING_STREAM, Plate, draw

NO_CLAIM, CLAIM_ANY = -1, -2


@dataclass(frozen=True)
class Batch:
    """Plates as tensors; B images, F features, S species, N patches.

    Attributes:
        pixels: 8-bit colours.
        texts: a true caption for each image.
        claims: what the caption claims: the index of a feature's value, ``NO_CLAIM`` or ``CLAIM_ANY``.
        values: the index of each feature's true value.
        overlaps: how many attributes the bird shares with each species.
        patches: for each patch 1 + part x colours + colour, 0 for background, -1 where neither fills it.
    """

    pixels: UInt8[Tensor, "B height width 3"]
    texts: tuple[str, ...]
    claims: Int64[Tensor, "B F"]
    values: Int64[Tensor, "B F"]
    overlaps: Int64[Tensor, "B S"]
    patches: Int64[Tensor, "B N"]


class Batches(Dataset[Batch]):
    """Batches drawn on demand; batch i of a seed is always the same one."""

    def __init__(self, seed: int, size: int, first: int, last: int) -> None:
        self.seed, self.size, self.first, self.last = seed, size, first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, index: int) -> Batch:
        return draw_batch(np.random.default_rng([TRAINING_STREAM, self.seed, self.first + index]), self.size)


def draw_batch(rng: np.random.Generator, size: int) -> Batch:
    """Draw ``size`` plates, one in four at twice the size and then shrunk, as the images of others will be."""
    return describe([draw(draw_bird(rng), rng, SIZE * (2 if rng.random() < 0.25 else 1)) for _ in range(size)], rng)


def describe(plates: Sequence[Plate], rng: np.random.Generator) -> Batch:
    """All that is true of some plates, and a caption for each."""
    captions = [draw_caption(plate, rng) for plate in plates]
    facts = [features(plate) for plate in plates]
    return Batch(
        pixels=torch.from_numpy(np.stack([to_input(plate.image) for plate in plates])),
        texts=tuple(caption.text for caption in captions),
        claims=torch.tensor(
            [[_claim(c.claims.get(f), v) for f, v in FEATURES.items()] for c in captions], dtype=torch.int64, device="cpu"
        ),
        values=torch.tensor(
            [[v.index(fact[f]) for f, v in FEATURES.items()] for fact in facts], dtype=torch.int64, device="cpu"
        ),
        overlaps=torch.tensor(
            [[plate.bird.overlap(bird) for bird in species().values()] for plate in plates], dtype=torch.int64, device="cpu"
        ),
        patches=torch.from_numpy(np.stack([patch_labels(plate.labels, plate.bird) for plate in plates])),
    )


def to_input(image: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
    """A square plate at the encoder's input size."""
    if image.width != SIZE:
        image = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return np.array(image)


def draw_bird(rng: np.random.Generator) -> Bird:
    """A species (45 %), a species with one to three attributes changed (20 %), or a bird of no species."""
    kind, known = rng.random(), tuple(species().values())
    if kind >= 0.65:
        return random_bird(rng)
    bird = known[rng.integers(len(known))]
    return bird if kind < 0.45 else mutant(bird, rng)


def _claim(value: str | None, values: tuple[str, ...]) -> int:
    if value is None:
        return NO_CLAIM
    return CLAIM_ANY if value == ANY else values.index(value)


def patch_labels(labels: UInt8[np.ndarray, "height width"], bird: Bird) -> Int[np.ndarray, " N"]:
    """Part and colour of each patch, see ``Batch``: a part counts if it fills a third, background if it fills 90 %."""
    step = len(labels) // SIZE
    grid = SIZE // PATCH
    small = labels[step // 2 :: step, step // 2 :: step]
    tiles = small.reshape(grid, PATCH, grid, PATCH).swapaxes(1, 2).reshape(grid * grid, PATCH * PATCH)
    shares = (tiles[:, :, None] == np.arange(len(PARTS) + 1)).mean(1)
    colours = tuple(COLOURS)
    meaning = np.zeros(len(PARTS) + 1, dtype=np.int64)
    for p, part in enumerate(PARTS):
        if bird.card[part] != "none":
            meaning[1 + p] = 1 + p * len(colours) + colours.index(bird.card[part])
    best = shares[:, 1:].argmax(1) + 1
    filled = np.take_along_axis(shares, best[:, None], 1)[:, 0]
    result = np.where(filled >= 1 / 3, meaning[best], -1)
    return np.where(shares[:, 0] >= 0.9, 0, result)
