"""Images in a terminal: as kitty, iTerm2 or sixel have them, else as half blocks in colour, and in a pipe as shades."""

from __future__ import annotations

import base64
import io
import os
import re
import select
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Literal, TextIO

import typer

if TYPE_CHECKING:
    from PIL import Image
    from rich.text import Text

    from concept_cam.result import Localization

Protocol = Literal["kitty", "iterm2", "sixel", "blocks", "shades"]

_WIDEST, _LOWEST = 60, 8
"""Columns of an image at most, and lines at least."""

_PIXELS = 640
"""The longer side of an image that is sent, at most."""

_CHUNK = 4096
_ANSWER = 1.0
"""Seconds that a terminal may take to say what it can do: over a slow line, a late answer would stand in the next prompt."""


def show(result: Localization, image: Image.Image, how: Protocol) -> None:
    """Print the map of a result on its image, and what its colours mean.

    Args:
        result: to show.
        image: of the result.
        how: the terminal takes images; see ``protocol``.
    """
    from concept_cam.cli.terminal import console, say
    from concept_cam.heat import blend, resized, upright
    from concept_cam.legend import lines_of, meaning

    columns, lines = _room()
    image, placement = upright(image, result.placement), result.placement
    image, placement = resized(image, placement, min(_PIXELS, max(image.size)))
    wide = max(1, min(columns, round(2 * lines * image.width / image.height)))
    sentences = lines_of(meaning(result.comparison), placement, result.map)
    if how == "shades":
        typer.echo(shades(result, wide))
        sentences = [sentence.replace("Bright:", "Dense:").replace("Dark:", "-:") for sentence in sentences]
    elif how == "blocks":
        console().print(blocks(blend(image, placement, result.map), wide), end="")
    else:
        drawn = blend(image, placement, result.map)
        typer.echo(sixel(drawn) if how == "sixel" else kitty(drawn, wide) if how == "kitty" else iterm2(drawn, wide))
    for sentence in sentences:
        say(sentence)


def protocol(stream: TextIO, environment: Mapping[str, str]) -> Protocol:
    """How a stream takes images: what a terminal says of itself, else whether it answers that it knows sixel.

    Within tmux and screen, which pass on no other images, sixel alone is asked for. What is no terminal, or shall have no
    colours, gets shades.
    """
    told, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if not stream.isatty() or told == "dumb" or environment.get("NO_COLOR"):
        return "shades"
    if "TMUX" not in environment and not told.startswith(("screen", "tmux")):
        if "KITTY_WINDOW_ID" in environment or told in ("xterm-kitty", "xterm-ghostty"):
            return "kitty"
        if program in ("iTerm.app", "WezTerm") or environment.get("LC_TERMINAL") == "iTerm2":
            return "iterm2"
    return "sixel" if knows_sixel(sys.stdin, stream) else "blocks"


def knows_sixel(asked: TextIO, stream: TextIO) -> bool:
    """Whether the terminal has sixel among its attributes, which it is asked for as VT terminals are (DA1).

    Args:
        asked: where the answer comes from.
        stream: where the question goes to.
    """
    if sys.platform == "win32" or not asked.isatty():
        return False
    import termios
    import tty

    source = asked.fileno()
    try:
        before = termios.tcgetattr(source)
    except termios.error:
        return False
    found: re.Match[bytes] | None = None
    answer, until = b"", time.monotonic() + _ANSWER
    try:
        tty.setcbreak(source, termios.TCSADRAIN)
        stream.write("\x1b[c")
        stream.flush()
        while (left := until - time.monotonic()) > 0 and not (found := re.search(rb"\x1b\[\?([\d;]*)c", answer)):
            if select.select([source], [], [], left)[0]:
                answer += os.read(source, 64)
    finally:
        termios.tcsetattr(source, termios.TCSADRAIN, before)
    return found is not None and b"4" in found[1].split(b";")


def kitty(image: Image.Image, columns: int) -> str:
    """An image in kitty's graphics protocol: PNG in pieces, of so many columns; no answer is wanted."""
    content = base64.b64encode(_png(image)).decode()
    pieces = [content[start : start + _CHUNK] for start in range(0, len(content), _CHUNK)]
    heads = [f"a=T,f=100,q=2,c={columns},", *[""] * (len(pieces) - 1)]
    more = [1] * (len(pieces) - 1) + [0]
    return "".join(f"\x1b_G{head}m={m};{piece}\x1b\\" for head, m, piece in zip(heads, more, pieces, strict=True))


def iterm2(image: Image.Image, columns: int) -> str:
    """An image in iTerm2's protocol, of so many columns."""
    content = _png(image)
    about = f"inline=1;size={len(content)};width={columns};preserveAspectRatio=1"
    return f"\x1b]1337;File={about}:{base64.b64encode(content).decode()}\a"


def sixel(image: Image.Image) -> str:
    """An image as sixel, in 128 colours: bands of six rows, in each band a line for each of its colours."""
    import numpy as np

    flat = image.quantize(128)
    palette = np.array(flat.getpalette(), dtype=int).reshape(-1, 3)
    pixels = np.asarray(flat)
    colours = "".join(f"#{k};2;{r};{g};{b}" for k, (r, g, b) in enumerate((palette * 100 / 255).round().astype(int)))

    def of_band(band: np.ndarray) -> Iterator[str]:
        weights = 1 << np.arange(len(band))[:, None]
        for colour in np.unique(band):
            bits = ((band == colour) * weights).sum(0) + 63
            runs = ((chr(bit), len(list(same))) for bit, same in groupby(bits.tolist()))
            yield f"#{colour}" + "".join(f"!{times}{bit}" if times > 3 else bit * times for bit, times in runs)

    bands = ("$".join(of_band(pixels[top : top + 6])) for top in range(0, len(pixels), 6))
    return f'\x1bP0;1;0q"1;1;{image.width};{image.height}{colours}{"-".join(bands)}\x1b\\'


def blocks(image: Image.Image, columns: int) -> Text:
    """An image as half blocks for rich, which knows how many colours there are: two pixels in each letter."""
    import numpy as np
    from rich.text import Text

    rows = 2 * max(1, round(columns * image.height / image.width / 2))
    small = np.asarray(image.resize((columns, rows)))
    text = Text(no_wrap=True)
    for upper, lower in zip(small[::2], small[1::2], strict=True):
        for above, below in zip(upper, lower, strict=True):
            text.append("▀", f"#{above.tobytes().hex()} on #{below.tobytes().hex()}")
        text.append("\n")
    return text


def shades(result: Localization, columns: int) -> str:
    """The map in letters: the denser, the stronger; a dash where the model did not see the image."""
    import numpy as np

    height, width = result.placement.image_size
    size = max(1, round(columns * height / width / 2)), columns
    heat = result.placement.scaled(size).project(result.map.float().cpu()).numpy()
    strength = heat / (max(float(np.nanmax(heat, initial=0.0)), 0.0) or 1.0)
    letters = " ░▒▓█" if _spells("░▒▓█") else " .:*#"
    steps = np.ceil(np.nan_to_num(strength).clip(0, 1) * 4 - 0.5).astype(int)
    drawn = np.where(np.isnan(strength), "-", np.array(list(letters))[steps])
    return "\n".join("".join(row).rstrip() for row in drawn)


def _spells(letters: str) -> bool:
    try:
        letters.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _room() -> tuple[int, int]:
    """Columns and lines for an image."""
    found = shutil.get_terminal_size()
    return min(_WIDEST, found.columns), max(_LOWEST, found.lines - 6)


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
