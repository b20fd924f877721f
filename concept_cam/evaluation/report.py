"""Tables of an evaluation: means with 95 % bootstrap intervals, and paired differences to the base map of the same method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float
from rich import box
from rich.table import Table
from torch import Tensor

from concept_cam.evaluation.contrasts import BASE
from concept_cam.evaluation.grid import RESTS_ON, WHERE
from concept_cam.evaluation.sanity import SANITY
from concept_cam.metrics import effect_size, mean_interval, paired_difference
from concept_cam.runs import Row

Key: TypeAlias = tuple[str, str, float]
"""Method, references, strength."""

Image: TypeAlias = tuple[str, str]
"""Image and label: an image may have several."""

WHERE_SHOWN = ("energy", "hit", "best_iou", "average_precision", "best_box")
RESTS_SHOWN = (*RESTS_ON, "deletion")
_CHANCES = {"energy": "area", "hit": "chance", "average_precision": "area", "best_iou": "area"}
NUMBERS = ("similarity", "correct", *WHERE, *RESTS_SHOWN, *SANITY)


def tables(rows: Sequence[Row]) -> list[Table]:
    """Where the evidence lies, and whether the score rests on it; those for which there are figures."""
    good = [row for row in rows if "method" in row]
    return [
        _table(good, metrics)
        for metrics in (WHERE_SHOWN, RESTS_SHOWN, SANITY)
        if any(metric in row for row in good for metric in metrics)
    ]


def means(rows: Sequence[Row]) -> list[Row]:
    """One row for each method, references and strength: how many images, and the mean of each metric."""
    found = []
    for (name, references, strength), of_key in _grouped([row for row in rows if "method" in row]).items():
        metrics = [metric for metric in NUMBERS if any(metric in row for row in of_key.values())]
        keys = {"method": name, "references": references, "strength": strength, "images": len(of_key)}
        found.append(keys | {metric: _mean(of_key, metric) for metric in metrics})
    return found


def problems(rows: Sequence[Row]) -> list[str]:
    """What kept examples from being used."""
    return [f"{row['image']}: {row['problem']}" for row in rows if "problem" in row]


def _table(rows: Sequence[Row], metrics: Sequence[str]) -> Table:
    shown = [metric for metric in metrics if any(metric in row for row in rows)]
    heads = [head for metric in shown for head in (metric.replace("_", " "), "gain", "d")]
    table = Table("method", "against", "strength", "images", *heads, box=box.MARKDOWN)
    grouped = _grouped(rows)
    for key, of_key in grouped.items():
        name, references, strength = key
        cells: list[str] = []
        for metric in shown:
            cells += _cells(of_key, grouped.get((name, BASE, 0.0), {}), metric, is_base=references == BASE)
        table.add_row(name, references, f"{strength:g}", str(len(of_key)), *cells)
    if any(metric in _CHANCES for metric in shown):
        # Of each image once, whatever maps it has.
        known = {_image(row): row for row in rows if any(chance in row for chance in _CHANCES.values())}
        cells = [cell for metric in shown for cell in (_chance(known, metric), "", "")]
        table.add_row("chance", "", "", str(len(known)), *cells)
    return table


def _chance(rows: Mapping[Image, Row], metric: str) -> str:
    """What a map that knows nothing comes to; nothing where that is not known, as of the best box."""
    chance = _CHANCES.get(metric)
    return f"{_mean(rows, chance):.3f}" if chance and any(chance in row for row in rows.values()) else ""


def _cells(ours: Mapping[Image, Row], base: Mapping[Image, Row], metric: str, *, is_base: bool) -> list[str]:
    """Mean with interval; the gain with interval; its effect size. On the images that have both."""
    values = _values(ours, [name for name in ours if metric in ours[name]], metric)
    if not len(values):
        return ["", "", ""]
    cell = str(mean_interval(values))
    if is_base:
        return [cell, "", ""]
    both = [name for name in ours if metric in ours[name] and metric in base.get(name, {})]
    if len(both) < 2:
        return [cell, "", ""]
    pair = _values(ours, both, metric), _values(base, both, metric)
    gain = paired_difference(*pair)
    return [cell, f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]", f"{effect_size(*pair):+.2f}"]


def _grouped(rows: Sequence[Row]) -> dict[Key, dict[Image, Row]]:
    """Rows of each combination by image, in the order in which they come; bases first within a method."""
    found: dict[Key, dict[Image, Row]] = {}
    for row in rows:
        found.setdefault((row["method"], row["references"], row["strength"]), {})[_image(row)] = row
    return found


def _image(row: Row) -> Image:
    return row["image"], row.get("label", "")


def _values(rows: Mapping[Image, Row], names: Sequence[Image], metric: str) -> Float[Tensor, " N"]:
    return torch.tensor([rows[name][metric] for name in names], dtype=torch.float64, device="cpu")


def _mean(rows: Mapping[Image, Row], metric: str) -> float:
    values = [float(row[metric]) for row in rows.values() if metric in row]
    return sum(values) / len(values)
