"""Labels are written in letters, whatever the script, and never in empty boxes."""

from __future__ import annotations

import time
import unicodedata

import numpy as np
import pytest
from PIL import Image, ImageDraw

from concept_cam import lettering
from concept_cam.lettering import Lettering, shortened

SCRIPTS = {
    "Latin": [*range(0x21, 0x7F), *range(0xA1, 0x250), *range(0x1E00, 0x1F00)],
    "Greek": [*range(0x370, 0x400), *range(0x1F00, 0x2000)],
    "Cyrillic": range(0x400, 0x526),
    "signs": [*range(0x2010, 0x2028), *range(0x2190, 0x219A), *map(ord, "♀♂\u00d7°½µ€\u2212≥≤…“”„«»†‰")],
}


def drawn(text: str, size: int = 20) -> np.ndarray:
    canvas = Image.new("L", (600, 40), 255)
    draw = ImageDraw.Draw(Image.new("RGB", canvas.size, "white"))
    image = draw._image
    Lettering(size).write(draw, (10, 5), text, (0, 0, 0))
    return np.asarray(image.convert("L"))


@pytest.fixture
def no_fonts_of_the_system(monkeypatch):
    lettering._covering.cache_clear()
    monkeypatch.setattr(lettering, "_system_fonts", lambda: ())
    monkeypatch.setattr(lettering, "_used", [lettering._OWN])
    monkeypatch.setattr(lettering, "_missed", set())
    yield
    lettering._covering.cache_clear()


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.usefixtures("no_fonts_of_the_system")
def test_our_own_font_has_the_letters(script):
    letters = [chr(code) for code in SCRIPTS[script]]
    letters = [c for c in letters if c.isprintable() and unicodedata.category(c) not in ("Mn", "Sk", "Cn")]
    # What came into Unicode after the font was drawn.
    lacking = [c for c in letters if not lettering._has(lettering._OWN, c)]
    assert len(letters) > 30
    assert len(lacking) <= 0.03 * len(letters), lacking


@pytest.mark.usefixtures("no_fonts_of_the_system")
def test_letters_with_and_without_an_accent_differ():
    shown = [
        drawn(text).tobytes() for text in ("finch u", "finch ü", "finch é", "finch ж", "finch ω", "finch ?", "finch \ufffd")
    ]
    assert len(set(shown)) == len(shown)
    assert drawn("Gru\u0308n").tobytes() == drawn("Grün").tobytes()


@pytest.mark.usefixtures("no_fonts_of_the_system")
def test_a_letter_that_no_font_has_is_its_number():
    assert drawn("麻雀 sparrow").tobytes() == drawn("U+9EBB U+96C0 sparrow").tobytes()
    assert Lettering(15).getlength("麻雀") == pytest.approx(Lettering(15).getlength("U+9EBB U+96C0"))


def test_fonts_of_the_system_serve_other_scripts():
    lettering._covering.cache_clear()
    found = {c: lettering._covering(c) for c in "雀スخصअกﻉԱგא참"}
    others = {c: file for c, file in found.items() if file is not None}
    assert lettering._OWN not in others.values()
    for letter, file in others.items():
        assert lettering._has(file, letter)
        assert drawn(letter).tobytes() != drawn(f"U+{ord(letter):04X}").tobytes()
    for letter in found.keys() - others.keys():
        assert drawn(letter).tobytes() == drawn(f"U+{ord(letter):04X}").tobytes()


def test_what_cannot_be_seen_is_not_drawn():
    assert drawn("red\nfinch").tobytes() == drawn("red finch").tobytes()
    assert drawn("red\x1b\u202e\x00 \udc80finch").tobytes() == drawn("red finch").tobytes()


def test_anchors():
    """At the right, what is written ends where it should; in the middle, it is as far above as below."""
    image = Image.new("RGB", (200, 60), "white")
    draw = ImageDraw.Draw(image)
    Lettering(20).write(draw, (150, 30), "xHx", (0, 0, 0), "rm")
    rows, columns = np.nonzero(np.asarray(image.convert("L")) < 128)
    assert columns.max() == pytest.approx(149, abs=2)
    assert columns.min() == pytest.approx(150 - Lettering(20).getlength("xHx"), abs=3)
    assert (rows.min() + rows.max()) / 2 == pytest.approx(30, abs=3)


@pytest.mark.parametrize("label", ["x" * 200_000, "麻" * 5000, "a " * 100_000, "".join(map(chr, range(0x4E00, 0x9000)))])
def test_labels_of_any_length_are_cut_at_once(label):
    begin = time.perf_counter()
    cut = shortened(label, Lettering(15), 200)
    assert time.perf_counter() - begin < 15
    assert cut.endswith(" ...")
    assert Lettering(15).getlength(cut) <= 200
    assert Lettering(15).getlength(label[: len(cut)] + " ...") > 200
