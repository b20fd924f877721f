"""Files from outside that are damaged at random; ``python tests/fuzz`` runs all that are promised."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.harness import Broken, run_case, run_cases
from fuzz.kinds import KINDS
from slow import by_default

from concept_cam.errors import ImageError


@pytest.mark.parametrize("kind", by_default(KINDS, *(kind for kind in KINDS if kind not in ("runs", "images"))))
def test_each_file_is_read_or_refused_in_one_line(kind):
    case, _, few = KINDS[kind]
    assert run_cases(kind, case, range(few)).total() == few


@pytest.mark.full
@pytest.mark.parametrize("kind", KINDS)
def test_each_of_many_files_is_read_or_refused_in_one_line(kind):
    case, promised, _ = KINDS[kind]
    assert run_cases(kind, case, range(promised)).total() == promised


def test_a_case_that_keeps_nothing_is_found():
    """What the harness is for."""

    def raising(error):
        def read():
            raise error

        return lambda rng, folder: read

    class Raw(ImageError):
        """As errors were before each message was made one line."""

        __str__ = Exception.__str__

    assert run_case("none", lambda rng, folder: lambda: 1, 0) == "result"
    assert run_case("none", raising(ImageError("one line")), 0) == "ImageError"
    for error in (KeyError("x"), Raw("two\nlines"), Raw("\x1b[31mred"), Raw("")):
        with pytest.raises(Broken):
            run_case("none", raising(error), 0)


INTERRUPTS = (sys.executable, str(Path(__file__).with_name("fuzz") / "interrupts.py"))


def interrupted(*arguments: str) -> str:
    done = subprocess.run([*INTERRUPTS, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_what_is_stopped_goes_on_to_the_same_bytes():
    """In a process of its own, which has run nothing before it is copied."""
    assert interrupted("--count", "2").count("2 cases of") == 5


@pytest.mark.slow
def test_what_is_killed_five_times_goes_on_to_the_same_bytes():
    assert interrupted("localize", "parts", "--count", "1", "--kills", "5").count("1 cases of") == 2


@pytest.mark.full
def test_what_is_stopped_often_goes_on_to_the_same_bytes():
    assert interrupted("--count", "30").count("30 cases of") == 5
