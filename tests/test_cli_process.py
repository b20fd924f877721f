"""The command line as a process: what it imports, and the last net for whatever is raised."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from clis import TWINS, Run, embedded, run

from concept_cam.errors import AuditFailed, ImageError

HEAVY = {"torch", "open_clip", "transformers", "torchvision", "timm", "numpy", "PIL"}


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment, timeout=120, check=False
    )


@pytest.mark.parametrize(
    "code",
    ["import concept_cam; dir(concept_cam)", "import concept_cam.cli", "from concept_cam.cli import main; main()"],
    ids=["import", "import cli", "--help"],
)
def test_nothing_heavy_is_imported_before_it_is_needed(code: str) -> None:
    watch = "import atexit, sys; atexit.register(lambda: print('modules:', *sys.modules))\n"
    done = python(watch + code, "--help")
    assert done.returncode == 0, done.stderr
    shown, _, modules = done.stdout.rpartition("modules:")
    assert "concept_cam" in modules.split()
    assert not HEAVY & set(modules.split())
    if "main" in code:
        assert "localize" in shown
        assert "world" in shown


def test_a_mistake_as_the_shell_sees_it(tmp_path: Path) -> None:
    done = python("from concept_cam.cli import main; main()", "localize", "--method", "hirescam", "--out", str(tmp_path))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("concept-cam: No method 'hirescam'.")
    assert len(done.stderr.splitlines()) == 1


# ---- the last net -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ZeroDivisionError("a\n\x1b[31mb"), 2, r"ZeroDivisionError: a \x1b[31mb (not foreseen; CONCEPT_CAM_TRACEBACK=1"),
        (KeyError("box"), 2, "KeyError: 'box' (not foreseen"),
        (RecursionError("too deep"), 2, "RecursionError: too deep (not foreseen"),
        (AssertionError(), 2, "AssertionError: no more is known (not foreseen"),
        (OSError(28, "No space left on device"), 2, "OSError: [Errno 28] No space left on device"),
        (MemoryError(), 2, "MemoryError: no more is known"),
        (RuntimeError("x" * 100_000), 2, "RuntimeError: xxx"),
        (SystemExit("their own end"), 2, "SystemExit: their own end"),
        (SystemExit(0), 2, "SystemExit: 0"),
        (ImageError("damaged"), 2, "damaged"),
        (AuditFailed("off_object is 0.4"), 1, "off_object is 0.4"),
        (KeyboardInterrupt(), 130, "interrupted; what was finished is kept."),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_whatever_is_raised_is_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, line: str
) -> None:
    def raised(*_: object) -> None:
        raise error

    monkeypatch.setattr("concept_cam.methods.method_named", raised)
    ran = run("localize", "photo.png", *TWINS, "--method", "hires_cam")
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (code, "", 1)
    assert ran.err.startswith(f"concept-cam: {line}")
    assert ran.err[:-1].isprintable()
    assert len(ran.err) < 1100


def test_a_traceback_for_who_asks_for_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def raised(*_: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("concept_cam.methods.method_named", raised)
    monkeypatch.setenv("CONCEPT_CAM_TRACEBACK", "1")
    ran = run("localize", "photo.png", *TWINS, "--method", "hires_cam")
    assert ran.code == 2
    first, *_, last = ran.err.splitlines()
    assert first == "Traceback (most recent call last):"
    assert last.startswith("concept-cam: ZeroDivisionError: ours")
