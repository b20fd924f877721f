"""Labels in any script: the package has a font for Latin, Greek and Cyrillic; others come from the system."""

from __future__ import annotations

import os
import sys
import unicodedata
from bisect import bisect_left
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import final

from PIL import ImageDraw, ImageFont

_OWN = Path(__file__).with_name("fonts") / "DejaVuSans-subset.ttf"

_LONGEST = 1000
"""Letters of a label that are looked at."""

_MISSES = 32
"""Letters for which all fonts of the system are searched in vain; labels come from outside, and a search takes time."""

_JOINERS = "\u200c\u200d"
"""Marks that tell letters of some scripts whether they join; others that cannot be seen are not drawn."""


@final
class Lettering:
    """Draws text of one size, each character in a font that has it; otherwise as its number, U+96C0.

    Example:
        >>> Lettering(15).getlength("Grünfink") > Lettering(15).getlength("Grün")
        True
    """

    def __init__(self, size: float) -> None:
        self._size = size

    def getlength(self, text: str) -> float:
        """The width of the drawn text in pixels."""
        return sum(font.getlength(run) for font, run in self._runs(text))

    def write(
        self, draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, fill: tuple[int, int, int], anchor: str = "la"
    ) -> None:
        """Draw a text on one line.

        Args:
            draw: what is drawn on.
            place: (x, y) of its anchor.
            text: the label.
            fill: its colour.
            anchor: as Pillow has it: ``l`` or ``r`` for the side, then ``a`` for the top, ``m`` for the middle.
        """
        ascent, descent = _font(_OWN, self._size).getmetrics()
        x = place[0] - (self.getlength(text) if anchor[0] == "r" else 0)
        y = place[1] + (ascent if anchor[1] == "a" else (ascent - descent) / 2)
        for font, run in self._runs(text):
            draw.text((x, y), run, fill=fill, font=font, anchor="ls")
            x += font.getlength(run)

    def _runs(self, text: str) -> Iterator[tuple[ImageFont.FreeTypeFont, str]]:
        """Pieces of a text, each with its font."""
        for file, run in _by_file(_visible(text)):
            numbers = (f"U+{ord(letter):04X}" for letter in run if not letter.isspace())
            yield _font(file or _OWN, self._size), run if file else " ".join(numbers)


def shortened(line: str, font: Lettering, width: float) -> str:
    """The line, shortened with an ellipsis to a width.

    Args:
        line: a text.
        font: measures it.
        width: largest width in pixels.

    Example:
        >>> shortened("a very long name of a species", Lettering(14), 100)
        'a very long ...'
    """
    if font.getlength(line) <= width:
        return line
    # The longest beginning that fits, by bisection: a label may have any length.
    fits = bisect_left(range(len(line)), True, key=lambda end: font.getlength(f"{line[: end + 1]} ...") > width)
    return f"{line[:fits].rstrip(', ')} ..."


def wrapped(text: str, font: Lettering, width: float, most: int = 100) -> list[str]:
    """The words of a text in lines no wider than a width; the last line, and a word that is too long, end in an ellipsis.

    Args:
        text: words.
        font: measures them.
        width: of a line, in pixels.
        most: lines.

    Example:
        >>> wrapped("a very long name of a species", Lettering(14), 100, 2)
        ['a very long', 'name of a ...']
    """
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > most:
        lines = [*lines[: most - 1], " ".join(lines[most - 1 :])]
    return [shortened(line, font, width) for line in lines]


def _visible(text: str) -> str:
    """A label without what cannot be seen, on one line, its accents on their letters."""
    kept = (c if c.isprintable() or c in _JOINERS else " " if c.isspace() else "" for c in text[:_LONGEST])
    return unicodedata.normalize("NFC", "".join(kept))


def _by_file(text: str) -> list[tuple[Path | None, str]]:
    runs: list[tuple[Path | None, str]] = []
    for letter in text:
        # Spaces and accents go with what stands before them, so that a phrase which runs from right to left stays whole.
        goes_along = letter.isspace() or letter in _JOINERS or unicodedata.category(letter).startswith("M")
        file = runs[-1][0] if runs and goes_along else _covering(letter)
        if runs and file == runs[-1][0]:
            runs[-1] = file, runs[-1][1] + letter
            continue
        if runs and runs[-1][0] != _OWN:
            # A space at the end of what runs from right to left would stand at its left.
            before, written = runs[-1]
            runs[-1] = before, written.rstrip()
            runs.append((_OWN, written[len(runs[-1][1]) :]))
        if runs and file == runs[-1][0]:
            runs[-1] = file, runs[-1][1] + letter
        else:
            runs.append((file, letter))
    return runs


_used: list[Path] = [_OWN]
_missed: set[str] = set()


@lru_cache(4096)
def _covering(letter: str) -> Path | None:
    """The font that has a letter: our own, one that is in use, or any of the system's."""
    if letter.isspace():
        return _OWN
    if found := next((file for file in _used if _has(file, letter)), None):
        return found
    if len(_missed) < _MISSES:
        for file in _system_fonts():
            if file not in _used and _has(file, letter):
                _used.append(file)
                return file
        _missed.add(letter)
    return None


def _has(file: Path, letter: str) -> bool:
    """Whether a font draws a letter otherwise than one that no font has."""
    try:
        font = _font(file, 20) if file in _used else ImageFont.truetype(file, 20)
        drawn, missing = font.getmask(letter), font.getmask("\U0010ffff")
    except Exception:  # noqa: BLE001 - a font of the system that cannot be loaded is none
        return False
    return drawn.getbbox() is not None and (drawn.size, bytes(drawn)) != (missing.size, bytes(missing))


@lru_cache(64)
def _font(file: Path, size: float) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)


@cache
def _system_fonts() -> tuple[Path, ...]:
    """Where systems keep their fonts; upright ones of usual weight first."""
    found: list[Path] = []
    for folder in _folders():
        for root, _, names in os.walk(folder):
            found += [Path(root, name) for name in names if name.lower().endswith((".ttf", ".otf", ".ttc", ".otc"))]
            if len(found) > 2000:
                break
    odd = ("bold", "italic", "oblique", "light", "thin", "black", "mono", "condensed", "math", "symbol", "emoji")
    return tuple(sorted(found, key=lambda file: (sum(word in file.name.lower() for word in odd), file.name)))


def _folders() -> list[Path]:
    home = Path("~").expanduser()
    if sys.platform == "win32":
        return [Path(os.environ.get("WINDIR", r"C:\Windows"), "Fonts"), home / "AppData/Local/Microsoft/Windows/Fonts"]
    if sys.platform == "darwin":
        return [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"]
    shared = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    return [home / ".local/share/fonts", home / ".fonts", *(Path(folder, "fonts") for folder in shared.split(":") if folder)]
