"""The how-tos of docs/extending.md run, and give what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
SECTIONS = dict(part.split("\n", 1) for part in re.split(r"^## ", PAGE, flags=re.M)[1:])
HOW_TOS = {title: code for title, text in SECTIONS.items() for code in re.findall(r"```python\n(.*?)```", text, re.S)}


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run the code of a section in an empty folder; gives its names."""
    monkeypatch.chdir(tmp_path)

    def run(section):
        found = {"__name__": "extending"}
        exec(compile(HOW_TOS[section], f"extending.md, {section}", "exec", dont_inherit=True), found)
        return found

    return run


def test_every_section_has_code():
    assert list(HOW_TOS) == list(SECTIONS)
    assert len(SECTIONS) == 8


def test_a_method(run):
    found = run("A method")
    assert found["is_linear"](found["centred_hires_cam"])
    assert found["result"].map.mean() == pytest.approx(0, abs=1e-6)
    (field,) = found["localizer"].fields([found["plate"].image])
    bank = found["localizer"].bank(["ember finch", "frost finch"])
    maps = field(bank)
    assert torch.allclose(maps[0] - 0.6 * maps[1], found["result"].map, atol=1e-4)


def test_a_selector(run):
    references = run("A selector")["result"].comparison.references
    assert len(references) == 3
    assert all(name.endswith("finch") for name in references)


def test_a_weighting(run):
    comparison = run("A weighting")["result"].comparison
    lacks = [1 - similarity for similarity in comparison.similarities]
    assert comparison.weights == pytest.approx([lack / sum(lacks) for lack in lacks], abs=1e-6)


def test_a_metric(run):
    balance = run("A metric")["evidence_balance"]
    heatmap, mask = torch.tensor([[3.0, -1.0], [-4.0, float("nan")]]), torch.tensor([[True, True], [False, True]])
    assert float(balance(heatmap, mask)) == pytest.approx(2 / 8)


def test_a_reader(run):
    found = run("A reader")["found"]
    assert (found.classes, [example.label for example in found.examples]) == (("ember finch", "frost finch"), ["ember finch"])
    (problem,) = found.problems
    assert problem.startswith("missing.png")
    assert found.examples[0].read().size == (384, 384)


def test_a_writer(run):
    pytest.importorskip("concept_cam.writers")
    run("A writer")
    rows = [line.split("\t") for line in Path("peaks.tsv").read_text().splitlines()]
    assert [name for name, _, _ in rows] == ["0.png", "1.png", "2.png"]
    assert list(Path().iterdir()) == [Path("peaks.tsv")]


def test_a_figure_of_the_audit(run):
    pytest.importorskip("concept_cam.audit.columns")
    found = run("A figure of the audit")
    assert list(found["columns"](found["Spread"]))[-1] == "spread"


def test_a_command(run, capsys):
    pytest.importorskip("concept_cam.cli.options")
    pytest.importorskip("concept_cam.presets")
    from concept_cam import world

    found = run("A command")
    world.draw_species("ember finch", seed=3).image.save("finch.png")
    found["peak"](Path("finch.png"), "ember finch")
    assert re.fullmatch(r"ember finch: \(\d+, \d+\)\n", capsys.readouterr().out)
