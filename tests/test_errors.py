"""What an error says is one line that a terminal can be given."""

from __future__ import annotations

import pytest

from concept_cam import errors
from concept_cam.errors import LONGEST, ConceptCamError, OutputError, UnknownWord, one_line

HOSTILE = {
    "a\nb": "a b",
    "a\r\nb": "a b",
    "a\x1b[2Jb": r"a\x1b[2Jb",
    "a\x07\x08\x7fb": r"a\x07\x08\x7fb",
    "a\x9b31mb": r"a\x9b31mb",
    "a\u202egnp.exe": r"a\u202egnp.exe",
    "a\u2066b\u200f": r"a\u2066b\u200f",
    "a\u2028b\u2029c\u0085d": "a b c d",
    "a\tb\u00a0c": "a b c",
    "caf\udce9": r"caf\xe9",
    "\ud800": r"\ud800",
    "\U000e0041": r"\U000e0041",
    "Bläuling 鳥 🐦": "Bläuling 鳥 🐦",
    "back\\slash": "back\\slash",
}


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_a_text_becomes_one_line(text):
    assert one_line(text) == HOSTILE[text]
    assert one_line(text).isprintable()


@pytest.mark.parametrize("length", [1, LONGEST - 1, LONGEST, LONGEST + 1, 2 * LONGEST, 2 * LONGEST + 1, 10_000_000])
@pytest.mark.parametrize("letter", ["x", "\u202e", "\n"], ids=ascii)
def test_a_line_is_bounded(letter, length):
    line = one_line(f"<{letter * length}>")
    assert len(line) <= LONGEST
    assert line.isprintable()
    assert line[0] + line[-1] == "<>"  # what was given, and what to do next
    if letter == "x":
        assert (" ... " in line) == (length + 2 > LONGEST)


KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and kind.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_is_one_line(kind):
    assert issubclass(kind, ConceptCamError)
    assert str(kind("a\nb\x1b[31m")) == r"a b\x1b[31m"
    assert len(str(kind("x" * 100_000))) == LONGEST


def test_what_an_error_holds_is_not_changed():
    assert UnknownWord("no word", "a\nb").word == "a\nb"
    assert OutputError("a\nb").args == ("a\nb",)
    assert str(ConceptCamError()) == ""
