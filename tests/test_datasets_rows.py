"""What a table says of its images reaches the rows of evaluations and audits, which merge with it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from typer.testing import CliRunner

from concept_cam import world
from concept_cam.audit import AuditRow, audit
from concept_cam.cli import app
from concept_cam.datasets import Dataset, read_dataset
from concept_cam.evaluation import GridRow, evaluate
from concept_cam.runs import Row, read_rows

SPECIES = ("ember finch", "frost finch")
OWN = ("site", "energy", "correct", "right", "date")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two plates, one of them with two labels, and columns of somebody's own, of which some are called as ours are."""
    (tmp_path / "plates").mkdir()
    lines = [",".join(("image", "species", *OWN))]
    for k, name in enumerate(SPECIES):
        world.draw_species(name, k, 96).image.save(tmp_path / "plates" / f"{k}.png")
        lines.append(f"plates/{k}.png,{name},site {k},high,3,R,2024-05-0{k + 1}")
    lines.append(f"plates/0.png,{SPECIES[1]},,low,,,")
    (tmp_path / "set.csv").write_text("\n".join(lines))
    return tmp_path / "set.csv"


def rows_of(file: Path) -> tuple[list[str], list[dict[str, str]]]:
    with file.open(newline="") as stream:
        reader = csv.DictReader(stream)
        rows = list(reader)
        return list(reader.fieldnames or ()), rows


def check(file: Path, data: Dataset, kind: type[Row]) -> None:
    header, rows = rows_of(file)
    assert header[-5:] == ["site", "data_energy", "data_correct", "right", "date"]
    assert len(set(header)) == len(header)
    by_key = {(row["image"], row["label"]): row for row in rows}
    assert list(by_key) == [(f"plates/{k}.png", SPECIES[label]) for k, label in ((0, 0), (1, 1), (0, 1))]
    assert list(by_key) == [(example.name, example.label) for example in data.examples]
    values = [[row[name] for name in header[-5:]] for row in by_key.values()]
    assert values == [
        ["site 0", "high", "3", "R", "2024-05-01"],
        ["site 1", "high", "3", "R", "2024-05-02"],
        ["", "low", "", "", ""],
    ]
    assert {row["correct"] for row in rows if not row["problem"]} <= {"0", "1"}
    held = read_rows(file, kind)
    assert held[0].extra["data_correct"] == "3"
    assert type(held[0].correct) is bool


def test_rows_of_an_evaluation(table, tmp_path):
    data = read_dataset(table)
    found = evaluate(world.localizer(), data, tmp_path / "out", methods="hires_cam", references="nearest:1", strengths=1.0)
    check(tmp_path / "out" / "rows.csv", data, GridRow)
    assert (found.used, found.problems) == (3, [])
    assert {row["images"] for row in found.means} == {3}


def test_rows_of_an_audit(table, tmp_path):
    data = read_dataset(table)
    found = audit(world.localizer(), data, tmp_path / "out")
    check(tmp_path / "out" / "rows.csv", data, AuditRow)
    assert found.accuracy == pytest.approx(2 / 3)


def test_another_site_is_another_run(table, tmp_path):
    """A folder is not resumed with other columns: they would be the old ones."""
    options = {"methods": "hires_cam", "references": "nearest:1", "strengths": 1.0}
    evaluate(world.localizer(), read_dataset(table), tmp_path / "out", **options)
    table.write_text(table.read_text().replace("site 1", "site 2"))
    with pytest.raises(OSError, match="holds a run with another"):
        evaluate(world.localizer(), read_dataset(table), tmp_path / "out", **options)


@pytest.mark.parametrize("command", ["evaluate", "audit"])
def test_a_root_on_the_command_line(command, table, tmp_path):
    (tmp_path / "tables").mkdir()
    moved = table.rename(tmp_path / "tables" / "set.csv")
    arguments = [command, str(moved), "--out", str(tmp_path / "out")]
    arguments += ["--methods", "hires_cam", "--strengths", "1"] if command == "evaluate" else []
    done = CliRunner().invoke(app, [*arguments, "--root", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert {row["image"] for row in rows_of(tmp_path / "out" / "rows.csv")[1]} == {"plates/0.png", "plates/1.png"}
    refused = CliRunner().invoke(app, [command, "world-birds", "--root", str(tmp_path), "--out", str(tmp_path / "two")])
    assert "--root" in str(refused.exception)
