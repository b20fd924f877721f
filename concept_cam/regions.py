"""Connected regions of a mask, computed from the runs of its rows with numpy alone."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

Box = tuple[int, int, int, int]
"""Half-open (left, top, right, bottom) in pixels."""

_STRIP = 1 << 22
"""Number of pixels of a mask that are searched at once."""


def bounding_boxes(mask: Bool[Tensor, "height width"], weight: Float[Tensor, "height width"]) -> tuple[Box, ...]:
    """Bounding boxes of the 4-connected regions of a mask, that with the largest weight inside first.

    Example:
        >>> import torch
        >>> from concept_cam.regions import bounding_boxes
        >>> weight = torch.tensor([[0.2, 0.0, 0.9], [0.3, 0.0, 0.0]])
        >>> bounding_boxes(weight > 0, weight)
        ((2, 0, 3, 1), (0, 0, 1, 2))
    """
    weights = (weight if weight.dtype.itemsize > 2 else weight.float()).cpu().numpy()  # numpy has not all half precisions
    regions = _join(_runs(mask.cpu().numpy()))
    boxes = []
    for runs in regions:
        rows, starts, stops = np.array(runs).T
        box = (int(starts.min()), int(rows.min()), int(stops.max()), int(rows.max()) + 1)
        strongest = max(float(weights[row, start:stop].max()) for row, start, stop in runs)
        boxes.append((strongest, box))
    return tuple(box for _, box in sorted(boxes, key=lambda item: (-item[0], item[1])))


def _runs(mask: Bool[np.ndarray, "height width"]) -> list[tuple[int, int, int]]:
    """(row, start, stop) of every run of set pixels, in reading order."""
    found: list[tuple[int, int, int]] = []
    step = max(1, _STRIP // mask.shape[1])
    for top in range(0, len(mask), step):
        edges = np.diff(np.pad(mask[top : top + step].astype(np.int8), ((0, 0), (1, 1))), axis=1)
        rows, starts = np.nonzero(edges == 1)
        stops = np.nonzero(edges == -1)[1]
        found += zip((rows + top).tolist(), starts.tolist(), stops.tolist(), strict=True)
    return found


def _join(runs: list[tuple[int, int, int]]) -> list[list[tuple[int, int, int]]]:
    """Groups of runs that touch from row to row, by union-find."""
    parent = list(range(len(runs)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    above = 0
    for i, (row, start, stop) in enumerate(runs):
        # Runs are in reading order: one that ends before this one starts cannot touch later runs of this row.
        while runs[above][0] < row - 1 or (runs[above][0] == row - 1 and runs[above][2] <= start):
            above += 1
        j = above
        while runs[j][0] == row - 1 and runs[j][1] < stop:
            parent[root(i)] = root(j)
            j += 1
    groups: dict[int, list[tuple[int, int, int]]] = {}
    for i, run in enumerate(runs):
        groups.setdefault(root(i), []).append(run)
    return list(groups.values())
