"""Tables of an evaluation: means with 95 % bootstrap intervals, and paired differences to the base map of the same method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import torch
from jaxtyping import Float
from rich import box
from rich.table import Table
from torch import Tensor

from concept_cam.evaluation.columns import METRICS, GridRow, shown
from concept_cam.evaluation.contrasts import BASE
from concept_cam.metrics import Interval, effect_size, mean_interval, paired_difference
from concept_cam.runs import Skipped

Key: TypeAlias = tuple[str, str, float]
"""Method, references, strength."""

Image: TypeAlias = tuple[str, str]
"""Image and label: an image may have several."""

_CHANCES = {name: one.chance for name, one in METRICS.items() if one.chance}


def tables(rows: Sequence[GridRow | Skipped]) -> list[Table]:
    """Where the evidence lies, and whether the score rests on it; those for which there are figures.

    Example:
        >>> from concept_cam.evaluation import GridRow, tables
        >>> about = {"image": "a.png", "label": "finch", "method": "hires_cam", "correct": True}
        >>> base = GridRow(**about, references="none", strength=0.0, energy=0.5, area=0.2)
        >>> against_twin = GridRow(**about, references="twin", strength=1.0, energy=0.7, area=0.2)
        >>> (table,) = tables([base, against_twin])
        >>> [list(column.cells)[:2] for column in table.columns[1:5]]
        [['none', 'twin'], ['0', '1'], ['1', '1'], ['0.500', '0.700']]
    """
    good = [row for row in rows if isinstance(row, GridRow)]
    groups = map(shown, dict.fromkeys(one.group for one in METRICS.values() if one.group))
    return [
        _table(good, metrics)
        for metrics in groups
        if any(_value(row, metric) is not None for row in good for metric in metrics)
    ]


def means(rows: Sequence[GridRow | Skipped]) -> list[dict[str, Any]]:
    """One row for each method, references and strength: how many images, and the mean of each metric.

    Example:
        >>> from concept_cam.evaluation import GridRow, means
        >>> about = {"label": "finch", "method": "hires_cam", "references": "none", "strength": 0.0, "correct": True}
        >>> means([GridRow(image="a.png", energy=0.5, **about), GridRow(image="b.png", energy=0.75, **about)])
        [{'method': 'hires_cam', 'references': 'none', 'strength': 0.0, 'images': 2, 'correct': 1.0, 'energy': 0.625}]
    """
    found = []
    for (name, references, strength), of_key in _grouped([row for row in rows if isinstance(row, GridRow)]).items():
        metrics = [metric for metric in METRICS if any(_value(row, metric) is not None for row in of_key.values())]
        keys = {"method": name, "references": references, "strength": strength, "images": len(of_key)}
        found.append(keys | {metric: _mean(of_key, metric) for metric in metrics})
    return found


@final
@dataclass(frozen=True)
class Measured:
    """A metric of one method, references and strength.

    Attributes:
        method, references, strength: of the maps.
        images: for which the metric is known, 1 or more.
        mean: over those, with a bootstrap interval.
        gain: over the base map of the method on the same images; None of a base map, or of fewer than two images.
        effect: its effect size.
    """

    method: str
    references: str
    strength: float
    images: int
    mean: Interval
    gain: Interval | None = None
    effect: float | None = None


def measured(rows: Sequence[GridRow | Skipped], metric: str) -> list[Measured]:
    """A metric of all combinations for which it is known; bases first within a method.

    Args:
        rows: of an evaluation.
        metric: one of the columns of a row.
    """
    grouped = _grouped([row for row in rows if isinstance(row, GridRow)])
    found = []
    for (name, references, strength), ours in grouped.items():
        base = {} if references == BASE else grouped.get((name, BASE, 0.0), {})
        known = [image for image in ours if _value(ours[image], metric) is not None]
        if known:
            mean = mean_interval(_values(ours, known, metric))
            found.append(Measured(name, references, strength, len(known), mean, *_gain(ours, base, known, metric)))
    return found


def _gain(
    ours: Mapping[Image, GridRow], base: Mapping[Image, GridRow], known: Sequence[Image], metric: str
) -> tuple[Interval | None, float | None]:
    """Over the base maps, on the images that have both."""
    both = [image for image in known if image in base and _value(base[image], metric) is not None]
    if len(both) < 2:
        return None, None
    pair = _values(ours, both, metric), _values(base, both, metric)
    return paired_difference(*pair), effect_size(*pair)


def chance_of(rows: Sequence[GridRow | Skipped], metric: str) -> float | None:
    """What a map without knowledge would get, as a mean over the images; None where that is not known.

    Args:
        rows: of an evaluation.
        metric: one of the columns of a row.
    """
    column = _CHANCES.get(metric)
    good = [row for row in rows if isinstance(row, GridRow)]
    by_image = {_image(row): row for row in good if column and _value(row, column) is not None}
    return _mean(by_image, column) if column and by_image else None


def problems(rows: Sequence[GridRow | Skipped]) -> list[str]:
    """A line for each example that was skipped, with the reason.

    Example:
        >>> from concept_cam.evaluation import problems
        >>> problems([Skipped.of("a.png", "finch", "cannot be read")])
        ['a.png: cannot be read']
    """
    return [f"{row.image}: {row.problem}" for row in rows if isinstance(row, Skipped)]


def _table(rows: Sequence[GridRow], metrics: Sequence[str]) -> Table:
    known = [metric for metric in metrics if any(_value(row, metric) is not None for row in rows)]
    heads = [head for metric in known for head in (metric.replace("_", " "), "gain", "d")]
    table = Table("method", "against", "strength", "images", *heads, box=box.MARKDOWN)
    cells = {metric: {_key(one): _cells(one) for one in measured(rows, metric)} for metric in known}
    for key, of_key in _grouped(rows).items():
        name, references, strength = key
        own = [cell for metric in known for cell in cells[metric].get(key, ("", "", ""))]
        table.add_row(name, references, f"{strength:g}", str(len(of_key)), *own)
    if any(metric in _CHANCES for metric in known):
        # Of each image once, whatever maps it has.
        chances = set(_CHANCES.values())
        by_image = {_image(row): row for row in rows if any(_value(row, chance) is not None for chance in chances)}
        by_chance = [cell for metric in known for cell in (_chance(rows, metric), "", "")]
        table.add_row("chance", "", "", str(len(by_image)), *by_chance)
    return table


def _key(one: Measured) -> Key:
    return one.method, one.references, one.strength


def _chance(rows: Sequence[GridRow], metric: str) -> str:
    """What a map that knows nothing comes to; nothing where that is not known, as of the best box."""
    chance = chance_of(rows, metric)
    return "" if chance is None else f"{chance:.3f}"


def _cells(one: Measured) -> tuple[str, str, str]:
    """Mean with interval; the gain with interval; its effect size."""
    if one.gain is None:
        return str(one.mean), "", ""
    gain = f"{one.gain.mean:+.3f} [{one.gain.low:+.3f}, {one.gain.high:+.3f}]"
    return str(one.mean), gain, f"{one.effect:+.2f}"


def _grouped(rows: Sequence[GridRow]) -> dict[Key, dict[Image, GridRow]]:
    """Rows of each combination by image, in the order in which they come; bases first within a method."""
    found: dict[Key, dict[Image, GridRow]] = {}
    for row in rows:
        found.setdefault((row.method, row.references, row.strength), {})[_image(row)] = row
    return found


def _image(row: GridRow) -> Image:
    return row.image, row.label


def _value(row: GridRow, metric: str) -> float | None:
    value: float | None = getattr(row, metric)
    return value


def _values(rows: Mapping[Image, GridRow], names: Sequence[Image], metric: str) -> Float[Tensor, " N"]:
    return torch.tensor([_value(rows[name], metric) for name in names], dtype=torch.float64, device="cpu")


def _mean(rows: Mapping[Image, GridRow], metric: str) -> float:
    values = [float(value) for row in rows.values() if (value := _value(row, metric)) is not None]
    return sum(values) / len(values)
