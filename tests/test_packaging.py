"""What the wheel holds: prompts/ from beside the package, the checkpoint, the type marker."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from the source distribution as an installer from the registry would see it."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    return path


def test_the_wheel_holds_data_and_code(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    expected = {f"concept_cam/{path.relative_to(ROOT)}" for path in (ROOT / "prompts").rglob("*") if path.is_file()}
    checkpoint = ROOT / "concept_cam" / "world" / "checkpoint"
    expected |= {str(path.relative_to(ROOT)) for path in [*checkpoint.iterdir(), *checkpoint.parent.glob("*.safetensors")]}
    expected |= {f"concept_cam/fonts/{name}" for name in ("DejaVuSans-subset.ttf", "LICENSE")}
    pages = [ROOT / "concept_cam" / "explorer" / f"explorer.{ending}" for ending in ("css", "html.jinja", "js")]
    expected |= {str(path.relative_to(ROOT)) for path in pages}
    expected |= {f"concept_cam/demo/{name}" for name in ("demo.css", "figure.js")}
    assert expected <= names
    assert "concept_cam/py.typed" in names
    assert not [name for name in names if name.startswith(("tests/", "prompts/"))]
    # Three encoders of 6.8 MB, and little else.
    assert wheel.stat().st_size < 21_000_000
    # How the encoders were made is for those who change the world.
    assert not any("training" in name or name.startswith("workshop") for name in names), names


def test_the_installed_wheel_finds_its_prompts(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        "import concept_cam.prompts as p; print(*p.prompts_folders()); "
        "print(len(p.read_vocabulary('world-species').names), p.read_templates('photo'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
        env={"PYTHONPATH": str(tmp_path)},
    )
    assert done.stdout.splitlines() == [str(tmp_path / "concept_cam" / "prompts"), "48 ('a photo of a {}.',)"], done.stderr


def test_an_editable_install_reads_the_live_folder():
    from concept_cam.prompts import prompts_folders

    assert prompts_folders() == (ROOT / "prompts",)
