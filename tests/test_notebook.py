"""The notebook about two folders runs from top to bottom, and says what the drawn birds are."""

from __future__ import annotations

import ast
import json
import re

import pytest
from test_code_blocks import ROOT

NOTEBOOK = ROOT / "examples" / "two_folders.ipynb"


def cells(kind: str) -> list[str]:
    return ["".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"] if cell["cell_type"] == kind]


def test_it_is_a_notebook_without_outputs():
    found = json.loads(NOTEBOOK.read_text("utf-8"))
    assert (found["nbformat"], found["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in found["cells"]}) == len(found["cells"])
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in found["cells"])
    for code in cells("code"):
        ast.parse(code)


@pytest.mark.slow
def test_it_finds_the_part_in_which_the_two_differ(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "notebook"}
    for code in cells("code"):
        exec(compile(code, NOTEBOOK.name, "exec", dont_inherit=True), names)
    told = capsys.readouterr().out
    assert told.count("6 of 6 predicted correctly") == 2
    assert names["word"] == "red crown"
    assert names["WORDS"][names["order"][-1]].endswith(" crown")
    agreement = [float(value) for value in re.findall(r"^\d\.png: red crown (-?\d\.\d\d)$", told, re.M)]
    assert len(agreement) == 6
    assert min(agreement) > 0.5
    assert names["sheet"]("ember finch").width > 1000
