"""A row of an evaluation: its fields are the columns of ``rows.csv``, and say which table shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, final

from concept_cam.runs.table import Column, Row, columns


@final
@dataclass(frozen=True)
class Metric(Column):
    """A figure of an evaluation.

    Attributes:
        group: of figures that are shown together: ``where`` the evidence lies, what the score ``rests`` on, ``sanity``.
        chance: the column that says what a map without knowledge would get, if that is known.
        shown: whether the tables have it; ``means.csv`` has all.
    """

    group: str = ""
    chance: str = ""
    shown: bool = True


@final
@dataclass(frozen=True, kw_only=True)
class GridRow(Row):
    """One map of one image: by a method, against references, at a strength."""

    method: Annotated[str, Column("Name of the method.")]
    references: Annotated[str, Column("How references are chosen, as it was asked for; none: the base map.")]
    strength: Annotated[float, Column("Of the references in the map; 0 for the base map.", 0)]
    against: Annotated[str, Column("The references of this image.")] = ""
    similarity: Annotated[float | None, Metric("Mean cosine of the references and the target.", -1, 1)] = None
    correct: Annotated[bool, Metric("Whether the class that scores highest is the label; of a mosaic, one of the four.", 0, 1)]
    energy: Annotated[
        float | None, Metric("Share of the positive evidence inside the mask.", 0, 1, group="where", chance="area")
    ] = None
    area: Annotated[float | None, Metric("Share of the image that the mask covers.", 0, 1, group="where", shown=False)] = None
    hit: Annotated[
        float | None,
        Metric("Whether the strongest cell lies in the mask, within a patch.", 0, 1, group="where", chance="chance"),
    ] = None
    chance: Annotated[float | None, Metric("Share of the cells that would be a hit.", 0, 1, group="where", shown=False)] = None
    iou: Annotated[
        float | None,
        Metric("Intersection over union of mask and map, at half of the map's maximum.", 0, 1, group="where", shown=False),
    ] = None
    best_iou: Annotated[
        float | None,
        Metric(
            "Intersection over union of mask and map, at the best threshold of the map.", 0, 1, group="where", chance="area"
        ),
    ] = None
    average_precision: Annotated[
        float | None, Metric("Average precision of the pixels, mask against map.", 0, 1, group="where", chance="area")
    ] = None
    best_box: Annotated[
        float | None, Metric("Best overlap of a box around the evidence and a box of the object.", 0, 1, group="where")
    ] = None
    rd5: Annotated[
        float | None,
        Metric("By how much more the label falls than its twin when the strongest 5 % are masked.", -2, 2, group="rests"),
    ] = None
    rd10: Annotated[
        float | None,
        Metric("By how much more the label falls than its twin when the strongest 10 % are masked.", -2, 2, group="rests"),
    ] = None
    deletion: Annotated[
        float | None, Metric("Area under the deletion curve of the label's probability.", 0, 1, group="rests")
    ] = None
    flip: Annotated[
        float | None, Metric("Agreement with the map of the mirrored image; higher is better.", -1, 1, group="sanity")
    ] = None
    shift: Annotated[
        float | None, Metric("Agreement with the map of the shifted image; higher is better.", -1, 1, group="sanity")
    ] = None
    parameters: Annotated[
        float | None,
        Metric("Agreement with the map of the model with shuffled parameters; near 0 is better.", -1, 1, group="sanity"),
    ] = None
    labels: Annotated[
        float | None, Metric("Agreement with the map of an absent label; near 0 is better.", -1, 1, group="sanity")
    ] = None
    input_gradient: Annotated[float | None, Metric("Agreement with the gradient at the pixels.", -1, 1, group="sanity")] = None


METRICS = {name: one for name, one in columns(GridRow).items() if isinstance(one, Metric)}
"""The figures of a row by their names."""


def shown(group: str) -> tuple[str, ...]:
    """The figures of a group that tables show.

    Example:
        >>> shown("rests")
        ('rd5', 'rd10', 'deletion')
    """
    return tuple(name for name, one in METRICS.items() if one.group == group and one.shown)
