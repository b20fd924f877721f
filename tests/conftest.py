"""Shapes in the package's signatures are checked while the tests run, and at no other time. The command line."""

from __future__ import annotations

import gc
import os
import random
import sys
import warnings
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch: workers share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import open_clip  # noqa: F401  (these before the hook: what is first imported within it is compiled anew in each process)
import pytest
import timm  # noqa: F401
import transformers  # noqa: F401
from jaxtyping import install_import_hook

# beartype looks at a random item of a container. It shall draw from a generator of its own: the tests watch the global one.
shared, random.getrandbits = random.getrandbits, random.Random(0).getrandbits
from beartype import BeartypeConf, beartype  # noqa: E402

# An int is a float to Python's typing, and to ours.
typechecked = beartype(conf=BeartypeConf(is_pep484_tower=True))
random.getrandbits = shared

# Modules without shapes are left to mypy: a check of each call of theirs is a third of the time of all tests.
ROOT = Path(__file__).parent.parent
SHAPED = [file for file in ROOT.glob("concept_cam/**/*.py") if "jaxtyping import" in file.read_text()]
install_import_hook([".".join(file.relative_to(ROOT).with_suffix("").parts) for file in SHAPED], "conftest.typechecked")


def pytest_collection_finish() -> None:
    """What was imported and collected stays: to look for garbage in it again and again is a tenth of the time of all tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def command_line(monkeypatch, capsys, tmp_path):
    """Run the command in this process, in a folder of its own; gives the exit code and what was said on either stream."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # main puts its own in its place
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        from concept_cam import cli

        monkeypatch.setattr(sys, "argv", ["concept-cam", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    return call
