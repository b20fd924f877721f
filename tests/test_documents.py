"""What the documents say runs, and what they promise is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch

from concept_cam.gradients import FactoredTrace, trace

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])


def test_the_readmes_python_runs(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"```python\n(.*?)```", README, re.S))
    found = {}
    exec(compile(code, "README.md", "exec"), found)
    assert found["maps"].shape == (48, 12, 12)
    assert (tmp_path / "ember-finch.safetensors").exists()
    assert "ember finch" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*no more like:UserWarning")  # random weights know no finches
def test_the_classifier_of_the_models_page_works(monkeypatch):
    monkeypatch.chdir(ROOT)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "models.md").read_text(), re.S)
    found = {}
    with torch.random.fork_rng():
        exec(compile(code, "models.md", "exec"), found)
    assert found["result"].map.shape == (7, 7)
    assert found["result"].comparison.references == ("house finch",)
    assert found["backbone"].preprocess.shortest == 232


def test_the_adapter_of_thirty_lines_works(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    code, pooling = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "adapters.md").read_text(), re.S)
    adapter = code[code.index("class Mine") : code.index("backbone =")]
    assert len(adapter.strip().splitlines()) <= 30
    found = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(compile(code, "adapters.md", "exec"), found)
    assert found["result"].map.shape == (16, 16)
    verdicts = capsys.readouterr().out.splitlines()
    failed = [line for line in verdicts if not line.startswith("pass")]
    assert len(verdicts) - len(failed) >= 12
    assert len(failed) == 2
    assert all("takes images of 128 x 128 pixels alone" in line for line in failed)
    assert any(line.startswith("pass closed form at norm its embedding is off by") for line in verdicts)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        exec(compile(pooling, "adapters.md", "exec"), found)
    assert capsys.readouterr().out == "closed form: True torch.Size([1, 256, 32])\n"
    seen = trace(found["weighted"], torch.randn(1, 3, 128, 128), "norm")
    assert isinstance(seen, FactoredTrace)
    assert not torch.allclose(seen.reading.share, torch.full((256, 1), 1 / 256), rtol=0.1)


def test_the_test_command_is_what_ci_runs():
    commands = re.findall(r"```bash\n(.*?)\n```", README, re.S)
    (test_command,) = [c for c in commands if "pytest" in c]
    run, contributing = ((ROOT / name).read_text() for name in (".ci/run", "CONTRIBUTING.md"))
    assert test_command in run
    assert test_command in contributing
    # What that command leaves out for time is run too.
    slow = 'pytest -q -n auto -m "slow and not full"'
    assert slow in run
    assert slow.replace(" -q", "") in contributing


def test_the_readmes_lines_are_options_that_exist(monkeypatch, capsys):
    """Each line of the command line parses: it fails for want of the image or the weights, not of an option."""
    from concept_cam.cli import main

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    lines = re.findall(r"^concept-cam localize .*$", README, re.M)
    assert lines
    for line in lines:
        monkeypatch.setattr("sys.argv", [*shlex.split(line), "--out", "/dev/null/out"])
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 2
        assert re.search("cannot write results there|the file does not exist", capsys.readouterr().err)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_no_figure_is_left_to_fill_in(page):
    assert "@@" not in page.read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_within_the_repository_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_modules_that_documents_name_are_there(page):
    for module in re.findall(r"python -m ((?:concept_cam|workshop|benchmarks)[\w.]*)", page.read_text()):
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), module


def test_contributing_is_short_and_names_files_that_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert len(text.splitlines()) <= 40
    paths = re.findall(r"`([\w/.]+(?:/|\.py|\.ci/\w+))`", text)
    assert len(paths) > 5
    for path in paths:
        assert (ROOT / path).exists() or any((ROOT / "concept_cam").rglob(path.rstrip("/"))), path


def test_the_methods_page_has_every_card():
    from concept_cam.methods import CARDS

    page = (ROOT / "docs" / "methods.md").read_text()
    for name, card in CARDS.items():
        row = f"| {name} | {card.kind} | {card.compares} | {card.forwards} | {card.backwards} | {card.needs} |"
        assert row in page.splitlines()
