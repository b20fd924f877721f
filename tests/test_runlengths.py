"""COCO's run lengths against pycocotools, letter by letter, and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from concept_cam.errors import DatasetError
from concept_cam.runlengths import compressed, run_lengths


def a_mask(seed: int) -> np.ndarray:
    """Noise, or a smooth region with long runs, of a random size."""
    rng = np.random.default_rng(seed)
    height, width = (2 * int(n) + 1 for n in rng.integers(0, 60, size=2))
    if seed % 2:
        return rng.random((height, width)) < rng.random()
    y, x = np.mgrid[:height, :width]
    middle, radius = rng.random(2) * (height, width), rng.random() * max(height, width)
    return np.hypot(y - middle[0], x - middle[1]) < radius


def one_pixel(height: int, width: int, row: int, column: int) -> np.ndarray:
    mask = np.zeros((height, width), dtype=bool)
    mask[row, column] = True
    return mask


MASKS = {f"random {seed}": a_mask(seed) for seed in range(200)} | {
    "empty": np.zeros((37, 53), dtype=bool),
    "full": np.ones((37, 53), dtype=bool),
    "one pixel": one_pixel(37, 53, 20, 31),
    "the first pixel": one_pixel(37, 53, 0, 0),
    "the last pixel": one_pixel(37, 53, 36, 52),
    "all there is": np.ones((1, 1), dtype=bool),
    "one column": np.arange(31)[:, None] % 7 < 3,
    "one row": np.arange(31)[None] % 7 < 3,
    "large": one_pixel(4001, 3001, 2000, 1500) | (np.arange(3001) > 2990),
    "as images are turned": a_mask(3).T,
}


@pytest.mark.parametrize("case", MASKS)
def test_masks_are_compressed_as_pycocotools_does_and_read_back(case):
    mask = MASKS[case]
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    ours = compressed(torch.from_numpy(mask))
    assert ours == {"size": list(mask.shape), "counts": theirs["counts"].decode()}
    assert np.array_equal(run_lengths(ours, mask.shape), mask)
    assert np.array_equal(run_lengths(theirs, mask.shape), mask)  # bytes, as they leave pycocotools


def test_by_hand():
    mask = torch.zeros(10, 4, dtype=torch.bool)
    mask[8:, 0], mask[:5, 1], mask[9, 1], mask[0, 2] = True, True, True, True
    # Columns: 8 zeros, 7 ones, 4 zeros, 2 ones, 19 zeros. From the fourth on less the last but one: 2 - 7 = -5, 19 - 4 = 15.
    # Five bits: 8, 7, 4 and -5 = 11011 fit with their sign; 15 = 01111 does. Letters are 48 more: 56, 55, 52, 75, 63.
    assert compressed(mask) == {"size": [10, 4], "counts": "874K?"}
    assert np.array_equal(run_lengths({"size": [10, 4], "counts": [8, 7, 4, 2, 19]}, (10, 4)), mask.numpy())
    # 16 = 10000 would be negative in five bits: another letter follows, 16 + 32 + 48 = 96, then 0.
    assert compressed(torch.zeros(4, 4, dtype=torch.bool))["counts"] == "`0"


@pytest.mark.parametrize(
    "outline",
    [
        {"size": [3, 3], "counts": [4, 4]},
        {"size": [3, 2], "counts": [4, 5]},
        {"size": [3, 3], "counts": [10, -1]},
        {"size": [3, 3], "counts": "88"},
        {},
    ],
    ids=["too few", "another size", "negative", "too many", "nothing"],
)
def test_what_does_not_fill_the_image_is_refused(outline):
    with pytest.raises(DatasetError, match="do not fill an image"):
        run_lengths(outline, (3, 3))
