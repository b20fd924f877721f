"""Boxes of regions against a slow flood fill."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from concept_cam.regions import Box, bounding_boxes


def flood(mask: np.ndarray, weight: np.ndarray) -> tuple[Box, ...]:
    """One pixel at a time, to the four sides; the region with the largest weight first."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    found = []
    while left:
        region, edge = [], [left.pop()]
        while edge:
            y, x = edge.pop()
            region.append((y, x))
            for neighbour in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if neighbour in left:
                    left.remove(neighbour)
                    edge.append(neighbour)
        ys, xs = zip(*region, strict=True)
        found.append((max(weight[place] for place in region), (min(xs), min(ys), max(xs) + 1, max(ys) + 1)))
    return tuple(box for _, box in sorted(found, reverse=True))


def boxes(mask: np.ndarray, weight: np.ndarray) -> tuple[Box, ...]:
    return bounding_boxes(torch.from_numpy(mask), torch.from_numpy(weight))


@pytest.mark.parametrize("seed", range(200))
def test_random_masks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 26, 2)
    mask = rng.random((height, width)) < rng.choice([0.05, 0.3, 0.5, 0.6, 0.75, 0.95])
    weight = rng.permutation(height * width).reshape(height, width).astype(np.float32)
    if seed % 2:
        weight = -weight  # evidence may be negative throughout
    assert boxes(mask, weight) == flood(mask, weight)


def drawn(text: str) -> np.ndarray:
    return np.array([[letter == "#" for letter in line] for line in text.split()])


SHAPES = {
    "U": ("#..# #..# ####", [(0, 0, 4, 3)]),
    "U upside down": ("#### #..# #..#", [(0, 0, 4, 3)]),
    "W, joined twice": ("#.#.# #.#.# #####", [(0, 0, 5, 3)]),
    "comb and bar": ("#.#.# ##### ..... #####", [(0, 0, 5, 2), (0, 3, 5, 4)]),
    "spiral": ("####### ......# #####.# #...#.# #.###.# #.....# #######", [(0, 0, 7, 7)]),
    "nested rings": ("##### #...# #.#.# #...# #####", [(0, 0, 5, 5), (2, 2, 3, 3)]),
    "diagonal": ("#.. .#. ..#", [(0, 0, 1, 1), (1, 1, 2, 2), (2, 2, 3, 3)]),
    "corners only": ("##.. ..##", [(0, 0, 2, 1), (2, 1, 4, 2)]),
    "late join from the right": ("#...# #.#.# #.### ###..", [(0, 0, 5, 4)]),
    "one pixel": ("#", [(0, 0, 1, 1)]),
    "full": ("#### ####", [(0, 0, 4, 2)]),
    "empty": (".... ....", []),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_by_hand(name: str) -> None:
    text, expected = SHAPES[name]
    mask = drawn(text)
    # Weights fall in reading order, so that regions come in the order of their first pixels.
    weight = -np.arange(mask.size, dtype=np.float32).reshape(mask.shape)
    assert list(boxes(mask, weight)) == expected
    assert list(boxes(mask, weight)) == list(flood(mask, weight))


def test_the_strongest_comes_first_not_the_largest() -> None:
    mask = drawn("###..#..# ###......")
    weight = np.zeros(mask.shape, np.float32)
    weight[0, 8], weight[0, 5], weight[1, 1] = 3, 2, 1
    weight[1, 5] = 9  # outside the mask: counts for nothing
    assert boxes(mask, weight) == ((8, 0, 9, 1), (5, 0, 6, 1), (0, 0, 3, 2))


def test_a_long_snake() -> None:
    """One region of many runs: neither recursion nor a wrong merge survives this."""
    mask = np.ones((2001, 40), bool)
    mask[1::4, :-1] = False
    mask[3::4, 1:] = False
    weight = np.zeros(mask.shape, np.float32)
    assert boxes(mask, weight) == ((0, 0, 40, 2001),)
    mask[1001, :] = False
    assert set(boxes(mask, weight)) == {(0, 0, 40, 1001), (0, 1002, 40, 2001)}
