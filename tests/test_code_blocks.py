"""The code of the documentation: every block of Python and of the command line runs, or says in a comment why it does not."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from clis import RESULTS, Run, embedded, run  # noqa: F401  (fixtures)

from concept_cam import world

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
ELSEWHERE = {
    "README.md": "test_documents",
    "adapters.md": "test_documents",
    "extending.md": "test_extending",
    "from-other-packages.md": "test_other_packages",
    "models.md": "test_documents",
    "scale.md": "test_store",
}
"""Pages whose Python another test runs, and looks at what comes out."""
BLOCK = re.compile(r"(?:^<!-- (?P<note>[^\n]+) -->\n)?^```(?P<language>python|bash)\n(?P<code>.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    language: str
    code: str
    note: str

    @property
    def runs(self) -> bool:
        return not self.note.startswith("not run: ")

    @property
    def commands(self) -> list[str]:
        """Of bash: a command each, with continued lines joined, without comments."""
        return [line for line in self.code.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]


def blocks(page: Path) -> list[Block]:
    return [Block(found["language"], found["code"], found["note"] or "") for found in BLOCK.finditer(page.read_text("utf-8"))]


def to_run(page: Path) -> list[Block]:
    elsewhere = page.name in ELSEWHERE
    return [block for block in blocks(page) if block.runs and not (elsewhere and block.language == "python")]


def test_the_pages_that_other_tests_run_are_run_there():
    for name, module in ELSEWHERE.items():
        assert f'"{name}"' in (ROOT / "tests" / f"{module}.py").read_text("utf-8")
    found = blocks(ROOT / "docs" / "index.md")
    assert [block.language for block in found] == ["bash", "bash", "python", "bash", "python"]
    assert [block.runs for block in found] == [False, True, True, False, False]


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if to_run(page)], ids=lambda page: page.name)
def test_the_code_of_a_page_runs_from_top_to_bottom(page, run: Run, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    names = {"__name__": "page"}
    for block in to_run(page):
        if block.language == "python":
            with torch.random.fork_rng():
                exec(compile(block.code, page.name, "exec", dont_inherit=True), names)
            continue
        expected = int(block.note.removeprefix("ends with ") or 0)
        for command in block.commands:
            if command.startswith("concept-cam "):
                done = run(*shlex.split(command)[1:])
                assert done.code == expected, (command, done.err)
            else:
                subprocess.run(["bash", "-euc", command], check=True, cwd=tmp_path)


@pytest.mark.slow
def test_who_has_llms_txt_and_an_image_gets_a_map(run: Run, tmp_path):  # noqa: F811
    (line,) = re.findall(r"^concept-cam localize bird.png .*$", (ROOT / "docs" / "llms.txt").read_text("utf-8"), re.M)
    world.draw_species("ember finch", seed=3).image.save(tmp_path / "bird.png")
    assert run(*shlex.split(line)[1:]).code == 0
    for ending in RESULTS:
        assert (tmp_path / "concept-cam-out" / f"bird{ending}").is_file()


def lines_of_the_command_line(page: Path) -> list[str]:
    """In blocks of any kind, whether they run or not."""
    text = page.read_text("utf-8").replace("\\\n", " ")
    code = [*re.findall(r"^```\w*\n(.*?)^```$", text, re.M | re.S), *re.findall(r"^ {4}(.*)$", text, re.M)]
    return re.findall(r"^(?:- run: )?(concept-cam [a-z]+.*)$", "\n".join(code), re.M)


@pytest.mark.parametrize(
    "page",
    [page for page in (*PAGES, ROOT / "docs" / "llms.txt") if lines_of_the_command_line(page)],
    ids=lambda page: page.name,
)
def test_each_command_of_a_page_has_options_that_exist(page):
    """Those that are not run, too: they are parsed, and nothing else."""
    from typer.main import get_command

    from concept_cam.cli import app

    group = get_command(app)
    for line in lines_of_the_command_line(page):
        name, *arguments = shlex.split(line, comments=True)[1:]
        assert name in group.commands, line
        with group.commands[name].make_context(name, arguments):
            pass


def test_an_option_that_does_not_exist_is_found():
    from typer.main import get_command

    from concept_cam.cli import app

    with pytest.raises(Exception, match="No such option: --nonsense"):
        get_command(app).commands["localize"].make_context("localize", ["--nonsense"])
