"""Files from outside that are damaged at random; ``python tests/fuzz`` runs all that are promised."""

from __future__ import annotations

import pytest
from fuzz.harness import Broken, run_case, run_cases
from fuzz.kinds import KINDS

from concept_cam.errors import PictureError


@pytest.mark.parametrize("kind", KINDS)
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

    class Raw(PictureError):
        """As errors were before each message was made one line."""

        __str__ = Exception.__str__

    assert run_case("none", lambda rng, folder: lambda: 1, 0) == "result"
    assert run_case("none", raising(PictureError("one line")), 0) == "PictureError"
    for error in (KeyError("x"), Raw("two\nlines"), Raw("\x1b[31mred"), Raw("")):
        with pytest.raises(Broken):
            run_case("none", raising(error), 0)
