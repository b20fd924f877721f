"""How results were made: the same in a page, in a file beside the tables and in a summary; and a line to cite."""

from __future__ import annotations

import json
import os
import tracemalloc
from dataclasses import replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from concept_cam.errors import OptionError
from concept_cam.page import Page, how_made, to_html
from concept_cam.provenance import HOW, Provenance, one_line, today

ROOT = Path(__file__).parents[1]

MADE = Provenance(
    job="audit",
    data="birds",
    images=1200,
    data_digest="0123456789abcdef" * 4,
    model="ViT-B-16",
    model_digest="fedcba9876543210" * 4,
    method=("hires_cam",),
    site="blocks.11.ln_1",
    gradient="auto",
    input="crop, 224 x 224 pixels",
    strength=(1.0,),
    templates=("a photo of a {}.",),
    among="48 of the 48 classes of the data set",
    more={"parts": "Parts of birds"},
    versions={"concept-cam": "0.1.0", "torch": "2.0"},
    command="concept-cam audit birds",
    date="2026-01-31",
)


def test_a_line_to_cite_names_what_decides_the_figures():
    assert MADE.cite == (
        "concept-cam 0.1.0, audit of birds (1,200 images, SHA-256 0123456789ab) with ViT-B-16 (weights SHA-256 fedcba987654) "
        "among 48 of the 48 classes of the data set, hires_cam at blocks.11.ln_1, strength 1, 2026-01-31."
    )
    assert replace(MADE, among=None, strength=(0.6, 1.0)).cite.endswith(
        "(weights SHA-256 fedcba987654), hires_cam at blocks.11.ln_1, strength 0.6, 1, 2026-01-31."
    )


def test_a_page_says_all_of_it():
    html = to_html(Page("Birds", "All of them.", (how_made(MADE),)))
    for value in (
        MADE.cite,
        MADE.command,
        MADE.data_digest,
        MADE.model_digest,
        MADE.input,
        "a photo of a {}.",
        "torch 2.0",
        "Parts of birds",
        "arXiv 2501.11309",
    ):
        assert value in html.replace("_<wbr>", "_")
    assert "from Python" in to_html(Page("Birds", "", (how_made(replace(MADE, command=None)),)))


def test_a_run_that_is_resumed_keeps_its_start(tmp_path):
    """On another day, and by another command."""
    first = MADE.kept(tmp_path)
    assert first == MADE
    before = (tmp_path / HOW).read_bytes()
    assert json.loads(before) == {**MADE.as_json()}
    assert json.loads(before)["cite"] == MADE.cite
    later = replace(MADE, date="2026-02-01", command="concept-cam audit birds --limit 5000")
    assert later.kept(tmp_path) == MADE
    assert (tmp_path / HOW).read_bytes() == before


@pytest.mark.parametrize("changed", [{"model_digest": "0" * 64}, {"data": "fish"}, {"strength": (0.5,)}, {"more": {}}])
def test_another_run_in_the_folder_starts_anew(tmp_path, changed):
    MADE.kept(tmp_path)
    later = replace(MADE, date="2026-02-01", **changed)
    assert later.kept(tmp_path) == later
    assert json.loads((tmp_path / HOW).read_text())["date"] == "2026-02-01"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff",
        b"[" * 100_000,
        json.dumps(MADE.as_json() | {"date": "yesterday"}).encode(),
        json.dumps(MADE.as_json() | {"date": 5}).encode(),
        json.dumps(MADE.as_json() | {"command": ["rm"]}).encode(),
        json.dumps(MADE.as_json() | {"command": "two\nlines \x1b[31m"}).encode(),
        json.dumps({key: value for key, value in MADE.as_json().items() if key != "date"}).encode(),
    ],
)
def test_a_file_that_says_nothing_is_written_again(tmp_path, content):
    (tmp_path / HOW).write_bytes(content)
    later = replace(MADE, date="2026-02-01")
    assert later.kept(tmp_path) == later
    assert json.loads((tmp_path / HOW).read_text()) == later.as_json()


def test_the_date_is_utc_or_that_of_the_source(monkeypatch):
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    before, found, after = (datetime.now(timezone.utc).strftime("%Y-%m-%d"), today(), datetime.now(timezone.utc))
    assert found in (before, after.strftime("%Y-%m-%d"))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86399")
    assert today() == "1970-01-01"
    assert replace(MADE, date="").date == "1970-01-01"
    for wrong in ("yesterday", "", "1e9", "9" * 30):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", wrong)
        with pytest.raises(OptionError, match="SOURCE_DATE_EPOCH is"):
            today()


def test_what_is_told_is_one_line():
    assert one_line("concept-cam audit 'a\nb' \x1b[31m\udcff").isprintable()
    assert one_line("concept-cam audit birds --limit 5") == "concept-cam audit birds --limit 5"


# ---- from end to end --------------------------------------------------------------------------------------------------


def made_of(folder):
    return json.loads((folder / HOW).read_text())


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_an_audit_can_be_cited(command_line, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    arguments = ("audit", "world-birds", "--limit", 4)
    assert command_line(*arguments, "--out", "a")[0] == 0
    made, settings = made_of(tmp_path / "a"), json.loads((tmp_path / "a" / "run.json").read_text())
    assert made["command"] == "concept-cam audit world-birds --limit 4"
    assert made["date"] == "2023-11-14"
    assert (made["data"], made["images"], made["model"]) == ("world-birds", 4, "world")
    assert (made["method"], made["strength"], made["site"]) == (["class_stream"], [1.0], settings["site"])
    assert made["among"] == "48 of the 48 classes of the data set"
    assert made["templates"] == settings["templates"]
    assert made["model_digest"] == settings["model_digest"]
    assert made["data_digest"] == settings["images_digest"]
    assert made["versions"]["concept-cam"] == version("concept-cam")
    assert json.loads((tmp_path / "a" / "summary.json").read_text())["made"] == made
    assert made["cite"] in (tmp_path / "a" / "report.html").read_text()
    # Where results lie is no part of how they are made: elsewhere they are the same bytes, and told again on another day too.
    assert command_line(*arguments, "--out", "b")[0] == 0
    assert files(tmp_path / "a") == files(tmp_path / "b")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1800000000")
    assert command_line(*arguments, "--out=b")[0] == 0
    assert files(tmp_path / "a") == files(tmp_path / "b")
    # Other weights have another digest.
    assert command_line(*arguments, "--model", "world-shortcut", "--out", "c")[0] == 0
    other = made_of(tmp_path / "c")
    assert other["model_digest"] != made["model_digest"]
    assert other["data_digest"] == made["data_digest"]
    assert other["date"] == "2027-01-15"


@pytest.mark.slow
def test_part_sheets_can_be_cited(command_line, tmp_path):
    assert command_line("parts", "--count", 3, "--out", "out")[0] == 0
    made = made_of(tmp_path / "out")
    assert made["command"] == "concept-cam parts --count 3"
    assert (made["job"], made["images"], made["method"], made["strength"]) == ("parts", 3, ["class_stream"], [1.0])
    assert made["more"] == {"parts": "Embedded world parts"}
    sheets = list((tmp_path / "out").glob("sheet-*.html"))
    assert len(sheets) == 3
    for sheet in sheets:
        assert made["cite"] in sheet.read_text().replace("_<wbr>", "_")


@pytest.mark.slow
def test_an_evaluation_can_be_cited(command_line, tmp_path):
    arguments = ("evaluate", "world", "--limit", 2, "--methods", "grad_cam,hires_cam", "--strengths", "0.6")
    code, _, err = command_line(*arguments, "--out", "out")
    assert code == 0, err
    made = made_of(tmp_path / "out")
    assert made["command"] == "concept-cam evaluate world --limit 2 --methods grad_cam,hires_cam --strengths 0.6"
    assert (made["job"], made["method"], made["strength"]) == ("evaluation", ["grad_cam", "hires_cam"], [0.6])
    assert (tmp_path / "out" / "tables.md").read_text().endswith(f"To cite this: {made['cite']}\n")


def test_the_version_is_told(command_line):
    assert command_line("--version") == (0, f"concept-cam {version('concept-cam')}\n", "")


def test_the_citation_file_is_one():
    """Of version 1.2.0 of the format; its required keys, and no others than it knows."""
    held = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert held.keys() == {
        *("cff-version", "message", "type", "title", "abstract", "version", "license", "authors", "keywords", "references")
    }
    assert held["cff-version"] == "1.2.0"
    assert held["type"] == "software"
    assert held["version"] == version("concept-cam")
    assert held["authors"] == [{"name": "The concept-cam developers"}]
    (paper,) = held["references"]
    assert {"type", "title", "authors"} <= paper.keys()
    assert all(author.keys() == {"family-names", "given-names"} for author in paper["authors"])
    assert paper["identifiers"] == [{"type": "other", "value": "arXiv:2501.11309"}]
    assert all(isinstance(word, str) for word in held["keywords"])
    assert "CITATION.cff" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("kind", ["a file without end", "a pipe"])
def test_what_is_too_large_or_never_ends_is_not_read(tmp_path, kind):
    file = tmp_path / HOW
    if kind == "a pipe":
        os.mkfifo(file)
    else:
        file.touch()
        os.truncate(file, 3 << 30)
    later = replace(MADE, date="2026-02-01")
    tracemalloc.start()
    try:
        assert later.kept(tmp_path) == later
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    assert json.loads(file.read_bytes())["date"] == "2026-02-01"
