"""Rows are dataclasses: a table is written by their fields, and read back with their types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest

from concept_cam.audit import AuditRow
from concept_cam.audit.columns import FIGURES
from concept_cam.audit.summary import CONDITIONS
from concept_cam.audit.tables import _CLASS
from concept_cam.errors import OutputError
from concept_cam.evaluation import GridRow
from concept_cam.evaluation.columns import METRICS
from concept_cam.runs import Column, Row, Skipped, columns, csv_of, read_rows
from concept_cam.tables import columns_of


@dataclass(frozen=True, kw_only=True)
class Own(Row):
    """A row with each kind of field."""

    right: Annotated[bool, Column("Whether it is.")]
    count: Annotated[int, Column("How many.", 0)]
    share: Annotated[float | None, Column("How much.", 0, 1)] = None
    words: Annotated[str, Column("In words.")] = ""
    kept: str = "no column"


ROWS = [
    Own(image="a.png", label="=finch", right=True, count=3, share=0.25, words="red, or not", extra={"site": "7"}),
    Own(image="b.png", label="", right=False, count=0),
    Skipped.of("\udcff.png", "jay", ValueError("it is at 0x7f00aa:\n no <object at 0x7f00aa>")),
]


def test_rows_are_read_as_they_were_written(tmp_path):
    content = csv_of(ROWS, Own, ["site"])
    lines = content.decode(errors="surrogateescape").splitlines()
    assert lines[0] == "image,label,right,count,share,words,problem,site"
    assert lines[1] == 'a.png,\'=finch,1,3,0.25,"red, or not",,7'
    (tmp_path / "rows.csv").write_bytes(content)
    assert read_rows(tmp_path / "rows.csv", Own) == ROWS
    assert ROWS[2].problem == "it is: no <object>"


def test_columns_are_those_of_the_fields_in_order():
    assert list(columns(Own)) == ["image", "label", "right", "count", "share", "words"]
    assert columns(Own)["share"] == Column("How much.", 0, 1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("image,", "picture,", "its columns are picture, label.*; expected image, label"),
        ("words,", "", "its columns are"),
        (",1,3,", ",yes,3,", "right is yes; expected 0 or 1"),
        (",1,3,", ",1,,", "a row has no count"),
        (",1,3,", ",1,-3,", "count is -3; expected a number from 0 to inf"),
        (",1,3,", ",1,three,", "could not convert"),
        ("0.25", "1.25", "share is 1.25; expected a number from 0 to 1"),
        ("0.25", "inf", "share is inf"),
        ("0.25", "nan", "share is nan"),
        (",7", "", "row 2 has 7 cells, but the header has 8"),
    ],
)
def test_what_is_no_table_of_such_rows_is_refused(tmp_path, old, new, message):
    content = csv_of(ROWS, Own, ["site"])
    assert old.encode() in content
    (tmp_path / "rows.csv").write_bytes(content.replace(old.encode(), new.encode(), 1))
    with pytest.raises(OutputError, match=f"rows.csv: not the rows of a run .*{message}"):
        read_rows(tmp_path / "rows.csv", Own)


@pytest.mark.parametrize("kind", [AuditRow, GridRow])
def test_every_column_says_what_it_holds(kind):
    for name, one in columns(kind).items():
        assert one.help.endswith("."), name
        assert one.help[0].isupper() or one.help.startswith("RD"), name
    assert columns_of(csv_of([], kind)) == (*columns(kind), "problem")


def test_a_figure_of_an_audit_is_wherever_figures_are():
    """It is a field of a row, and nothing else names it."""
    assert {"energy", "off_object", "off_area", "border", "rd5"} <= set(FIGURES) <= set(_CLASS)
    assert {name for name, one in FIGURES.items() if one.worst} <= set(CONDITIONS)
    assert all(one.chance in columns(GridRow) for one in METRICS.values() if one.chance)
