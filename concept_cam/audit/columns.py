"""A row of an audit: its fields are the columns of ``rows.csv``, and say what becomes of them in a class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, final

from concept_cam.runs.table import Column, Row, columns


@final
@dataclass(frozen=True)
class Figure(Column):
    """A figure of an image, of which ``classes.csv`` has the mean over the images predicted as a class.

    Attributes:
        title: heads its column in the report's table of classes; without one it is not there.
        worst: which of the means is that of the worst class: a summary has it, and an audit can fail on it.
    """

    title: str = ""
    worst: Literal["", "least", "largest"] = ""


@final
@dataclass(frozen=True, kw_only=True)
class AuditRow(Row):
    """What a model predicts on one image, and where the evidence for it lies.

    The evidence is the map of the predicted class against its runner-up.
    """

    predicted: Annotated[str, Column("The class that the model predicts.")]
    runner_up: Annotated[str, Column("The class that scores second.")]
    correct: Annotated[bool, Column("Whether the predicted class is the label.", 0, 1)]
    confidence: Annotated[float, Column("Probability of the predicted class.", 0, 1)]
    runner_up_probability: Annotated[float, Column("Probability of the runner-up.", 0, 1)]
    energy: Annotated[float | None, Figure("Share of the evidence on the object.", 0, 1, title="on the object")] = None
    off_object: Annotated[
        float | None,
        Figure("Share of the evidence that lies more than one patch away from the object.", 0, 1, title="off the object"),
    ] = None
    off_area: Annotated[
        float | None, Figure("Share of the image that lies more than one patch away from the object; chance.", 0, 1)
    ] = None
    border: Annotated[
        float | None, Figure("Share of the evidence off the object, in the outermost 8 % of a side of the image.", 0, 1)
    ] = None
    rd5: Annotated[
        float,
        Figure(
            "Relative drop: by how much more the prediction falls than its runner-up when the strongest 5 % are masked.",
            -2,
            2,
            title="RD@5 %",
            worst="least",
        ),
    ]
    words: Annotated[str, Column("Phrases that tell the predicted class from the runner-up.")] = ""
    agreement: Annotated[float | None, Column("Rank correlation of the map of the first phrase with the evidence.", -1, 1)] = (
        None
    )
    background: Annotated[str, Column("The background that moves the prediction most.")] = ""
    sensitivity: Annotated[
        float | None, Column("What erasing that background takes off the probability of the prediction.", -1, 1)
    ] = None


FIGURES: Mapping[str, Figure] = {name: one for name, one in columns(AuditRow).items() if isinstance(one, Figure)}
"""The figures of a row of which a class has the mean, by their names."""
