"""The promises of the layout: who may import what, where hooks live, what importing costs, which names are public."""

from __future__ import annotations

import ast
import importlib
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import concept_cam

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "concept_cam").rglob("*.py"))


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_import_contracts_hold():
    done = run(str(Path(sys.executable).with_name("lint-imports")), "--no-cache")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("command", [("check", "."), ("format", "--check", ".")], ids=["lint", "format"])
def test_the_linter_is_content(command):
    done = run(sys.executable, "-m", "ruff", *command)
    assert done.returncode == 0, done.stdout + done.stderr


def test_types_are_right_for_us_and_for_users(tmp_path, monkeypatch):
    """One run: the packages, and a module that imports every public name."""
    (tmp_path / "every_name.py").write_text(f"from concept_cam import {', '.join(concept_cam.__all__)}\n")
    monkeypatch.setenv("MYPYPATH", str(tmp_path))
    done = run(sys.executable, "-m", "mypy", "-p", "concept_cam", "-p", "workshop", "-p", "benchmarks", "-m", "every_name")
    assert done.returncode == 0, done.stdout + done.stderr


def hooks_and_gradients(tree: ast.AST) -> list[str]:
    """Calls that register hooks or take gradients."""
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = [ast.unparse(call) for call in calls]
    return [n for n in names if re.search(r"register_\w*hook|autograd\.|\.backward$|func\.(jvp|vjp|grad|jacrev)", n)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_hooks_and_gradients_live_in_one_place_each(path):
    found = hooks_and_gradients(ast.parse(path.read_text()))
    if path.name in ("hooks.py", "jacobian.py", "pixels.py"):
        kind = "hook" if path.name == "hooks.py" else r"autograd|func\.jvp"
        assert found
        assert all(re.search(kind, call) for call in found)
    else:
        assert not found


RUNNING = {
    "trace": ("passes.py", "gradients/"),
    "at_size": ("passes.py", "gradients/", "backbones/"),
    # The guard of a model reads and measures it in its own precision; a check plays the caller.
    "autocast": ("passes.py", "gradients/", "backbones/", "checks.py"),
}
"""Who may run the model, choose its size, and switch off the caller's autocast."""


def calls(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_model_is_run_in_passes_alone(path):
    own = str(path.relative_to(ROOT / "concept_cam"))
    called = {re.split(r"\W", ast.unparse(call.func))[-1] for call in calls(path)}
    elsewhere = {name for name, homes in RUNNING.items() if name in called and not own.startswith(homes)}
    assert not elsewhere, f"{own} calls {elsewhere}; ask a Pass"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_peak_of_a_map_is_found_in_one_place(path):
    """An argmax over all of a map, be it called a map, a grid or a heat map."""
    found = [ast.unparse(call.func) for call in calls(path)]
    over_maps = [name for name in found if name.endswith(".argmax") and re.search(r"map|grid|heat|visible", name)]
    divided = [
        ast.unparse(call) for call in calls(path) if ast.unparse(call.func) == "divmod" and "argmax" in ast.unparse(call)
    ]
    # Of several heat maps the one that is largest at each pixel is no peak.
    over_maps = [name for name in over_maps if path.name != "drawing.py"]
    if path.name == "evidence.py":
        assert len(over_maps) == len(divided) == 1
    else:
        assert not over_maps + divided


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_is_one_noun(path):
    assert len(path.read_text().splitlines()) <= 325


@pytest.mark.parametrize(
    "code", ["import concept_cam", "import concept_cam.cli", "import sys; sys.argv = ['concept-cam', '--help']"]
)
def test_importing_and_help_load_nothing_heavy(code):
    if "argv" in code:
        code += "; from concept_cam.cli import main\ntry:\n    main()\nexcept SystemExit: pass"
    heavy = ("torch", "open_clip", "transformers", "timm", "numpy", "PIL")
    done = run(sys.executable, "-c", f"{code}\nimport sys\nprint([m for m in {heavy!r} if m in sys.modules])")
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


EXPORTING = sorted(module_of(path) for path in SOURCES if re.search(r"^__all__\b", path.read_text(), re.M))


def test_public_names():
    """``surface.txt`` lists what the package and each sub-package export; a change of it is a change of what users see."""
    names = {module: sorted(importlib.import_module(module).__all__) for module in EXPORTING}
    assert [f"{module}.{name}" for module in EXPORTING for name in names[module]] == (
        (ROOT / "tests" / "surface.txt").read_text().split()
    )
    for module, listed in names.items():
        assert len(set(listed)) == len(listed)
        assert all(getattr(importlib.import_module(module), name) is not None for name in listed)
    assert set(names["concept_cam"]) <= set(dir(concept_cam))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = concept_cam.nonsense


def test_every_package_says_what_it_exports():
    packages = {module_of(path) for path in SOURCES if path.name == "__init__.py"}
    # A command line, and adapters that are found by their families.
    assert packages - set(EXPORTING) == {"concept_cam.cli", "concept_cam.backbones.towers"}


def test_one_version_everywhere():
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert newest is not None
    assert newest[1] == version("concept-cam")


def test_nothing_names_a_machine_or_a_registry():
    if shutil.which("git") is None:
        pytest.skip("git is not there")
    tracked = run("git", "ls-files", "--cached", "--others", "--exclude-standard").stdout.split()
    if not tracked:
        pytest.skip("not a git checkout")
    for name in tracked:
        path = ROOT / name
        if path.suffix in {".safetensors", ".png", ".ttf"} or path == Path(__file__) or not path.is_file():
            continue
        assert not re.search(r"/(root|work|home)/|pypi\.org|files\.pythonhosted", path.read_text()), name
