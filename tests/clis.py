"""What several tests of the command line need; fixtures are imported by name."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from concept_cam import cli, loading, world
from concept_cam.world.checkpoint import FOLDER

RESULTS = ("-overlay.png", "-compared.png", ".safetensors", ".json")
TWINS = ("--target", "ember finch", "--against", "frost finch")


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    def line(self) -> str:
        """The one line of a mistake."""
        assert self.code == 2, self
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("concept-cam: ")
        assert "Traceback" not in self.err
        return lines[0]


Run = Callable[..., Ran]


@pytest.fixture(scope="module")
def embedded():
    return world.localizer().backbone


@pytest.fixture
def run(embedded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run the command in this process, in a folder of its own, with the embedded model loaded once."""
    real, held = loading.load, f"local-dir:{FOLDER}"
    load = lambda name, *rest, **named: embedded if name == held else real(name, *rest, **named)  # noqa: E731
    monkeypatch.setattr(loading, "load", load)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # main replaces it
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["concept-cam", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return Ran(caught.value.code, out, err)

    return call


@pytest.fixture(scope="module")
def plate() -> Image.Image:
    return world.draw_species("ember finch", seed=3, size=120).image


@pytest.fixture
def finch(plate: Image.Image, tmp_path: Path) -> Path:
    path = tmp_path / "finch.png"
    plate.save(path)
    return path


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


RUN = {"batches", "how.json", "rows.csv", "run.json"}
"""What a run of several images has besides."""


def summaries(folder: Path) -> list[Path]:
    """The JSON file of each image."""
    return [file for file in folder.glob("*.json") if file.name not in RUN]


def results(*stems: str) -> set[str]:
    return {f"{stem}{suffix}" for stem in stems for suffix in RESULTS}
