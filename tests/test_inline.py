"""Maps in a terminal: the bytes of each protocol are decoded to the image again; a terminal is asked what it knows."""

from __future__ import annotations

import base64
import io
import os
import re
import sys
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from concept_cam.cli import inline
from concept_cam.comparison import Comparison
from concept_cam.evidence import EvidenceMap
from concept_cam.images import Placement
from concept_cam.result import Localization


@pytest.fixture
def drawn() -> Image.Image:
    """An image of more bytes than one piece of kitty's, with sharp edges."""
    pixels = np.random.default_rng(0).integers(0, 255, (61, 90, 3), dtype=np.uint8)
    pixels[10:30, 20:50] = (255, 250, 170)
    return Image.fromarray(pixels)


def equal(found: Image.Image, wanted: Image.Image) -> bool:
    return found.size == wanted.size and np.array_equal(np.asarray(found.convert("RGB")), np.asarray(wanted))


def test_kitty(drawn):
    code = inline.kitty(drawn, 33)
    pieces = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", code)
    assert "".join(f"\x1b_G{head};{piece}\x1b\\" for head, piece in pieces) == code
    assert len(pieces) > 2
    assert all(len(piece) <= 4096 for _, piece in pieces)
    assert pieces[0][0] == "a=T,f=100,q=2,c=33,m=1"
    assert [head for head, _ in pieces[1:]] == ["m=1"] * (len(pieces) - 2) + ["m=0"]
    assert equal(Image.open(io.BytesIO(base64.b64decode("".join(piece for _, piece in pieces)))), drawn)


def test_iterm2(drawn):
    about, content = re.fullmatch(r"\x1b\]1337;File=([^:]*):([^\a]*)\a", inline.iterm2(drawn, 33)).groups()
    told = dict(pair.split("=") for pair in about.split(";"))
    held = base64.b64decode(content)
    assert told == {"inline": "1", "size": str(len(held)), "width": "33", "preserveAspectRatio": "1"}
    assert equal(Image.open(io.BytesIO(held)), drawn)


def of_sixel(code: str) -> np.ndarray:
    """A decoder of sixel, written by its description: DEC's VT330/VT340 programmer reference."""
    body = re.fullmatch(r"\x1bP[\d;]*q(.*)\x1b\\", code, re.DOTALL)[1]
    width, height = map(int, re.match(r'"1;1;(\d+);(\d+)', body).groups())
    canvas, palette, colour, x, top = np.zeros((height, width, 3)), {}, None, 0, 0
    for token in re.findall(r'"[\d;]+|#\d+;2;\d+;\d+;\d+|#\d+|!\d+.|[$-]|[?-~]', body):
        if token[0] == "#" and ";" in token:
            number, _, *levels = map(int, token[1:].split(";"))
            palette[number] = np.array(levels) * 2.55
        elif token[0] == "#":
            colour = palette[int(token[1:])]
        elif token == "$":
            x = 0
        elif token == "-":
            x, top = 0, top + 6
        elif token[0] != '"':
            times, letter = (int(token[1:-1]), token[-1]) if token[0] == "!" else (1, token)
            for row in range(6):
                if (ord(letter) - 63) >> row & 1:
                    canvas[top + row, x : x + times] = colour
            x += times
    return canvas


@pytest.mark.parametrize("colours", [2, 100])
def test_sixel(colours):
    rng = np.random.default_rng(1)
    palette = rng.integers(0, 255, (colours, 3), dtype=np.uint8)
    pixels = palette[np.repeat(rng.integers(0, colours, (20, 10)), 7, 1)]  # 70 x 20: the last band has two rows
    assert np.abs(of_sixel(inline.sixel(Image.fromarray(pixels))) - pixels).max() <= 2  # of 100 levels


def test_blocks(drawn):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, color_system="truecolor", width=100)
    console.print(inline.blocks(drawn, 45), end="")
    rows = []
    for line in stream.getvalue().splitlines():
        cells = re.findall(r"\x1b\[38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m(▀+)\x1b\[0m", line)
        upper = [list(map(int, cell[:3])) for cell in cells for _ in cell[6]]
        lower = [list(map(int, cell[3:6])) for cell in cells for _ in cell[6]]
        rows += [upper, lower]
    assert np.array_equal(np.array(rows, dtype=np.uint8), np.asarray(drawn.resize((45, 30))))


def result(cells: torch.Tensor, window=(0.0, 0.0, 400.0, 200.0)) -> Localization:
    evidence = EvidenceMap(cells, Placement(window, (200, 400)))
    return Localization(evidence, evidence, Comparison("a finch", (), (), (), 0.0), {}, {})


@pytest.mark.parametrize(("encoding", "letters"), [("utf-8", " ░▒▓█"), ("ascii", " .:*#")])
def test_shades(encoding, letters, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    cells = torch.zeros(5, 10)
    cells[1, 7], cells[3, 2] = 4.0, -4.0
    rows = inline.shades(result(cells, (80.0, 0.0, 400.0, 200.0)), 40).split("\n")
    assert len(rows) == 10
    assert all(row.startswith("-" * 8) and row[8:9] != "-" for row in rows)  # 80 pixels are not seen
    assert {"-", letters[0], letters[-1]} < set("".join(rows)) <= {"-", *letters}
    dense = [(y, x) for y, row in enumerate(rows) for x, letter in enumerate(row) if letter == letters[-1]]
    assert np.mean(dense, 0) == pytest.approx((2.5, 8 + 7.5 / 10 * 32 - 0.5), abs=0.6)
    assert not rows[7][8:].strip()  # evidence against


def test_a_map_without_evidence_is_blank():
    assert not inline.shades(result(-torch.ones(5, 10)), 40).strip()


# ---- what a terminal takes --------------------------------------------------------------------------------------------


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


KITTY, ITERM = {"TERM": "xterm-kitty", "KITTY_WINDOW_ID": "1"}, {"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}


@pytest.mark.parametrize(
    ("environment", "sixel", "expected"),
    [
        (KITTY, True, "kitty"),
        ({"TERM": "xterm-ghostty"}, False, "kitty"),
        (ITERM, True, "iterm2"),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2", "SSH_TTY": "/dev/pts/1"}, False, "iterm2"),
        ({"TERM": "foot"}, True, "sixel"),
        ({"TERM": "xterm-256color"}, False, "blocks"),
        ({**KITTY, "TMUX": "/tmp/tmux", "TERM": "tmux-256color"}, False, "blocks"),
        ({**ITERM, "TERM": "screen.xterm"}, False, "blocks"),
        ({"TERM": "tmux-256color", "TMUX": "/tmp/tmux"}, True, "sixel"),
        ({"TERM": "dumb"}, True, "shades"),
        ({**KITTY, "NO_COLOR": "1"}, True, "shades"),
    ],
)
def test_protocols(environment, sixel, expected, monkeypatch):
    monkeypatch.setattr(inline, "knows_sixel", lambda *_: sixel)
    assert inline.protocol(Screen(), environment) == expected
    assert inline.protocol(io.StringIO(), environment) == "shades"  # a pipe


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pty")
@pytest.mark.parametrize(
    ("answer", "expected"),
    [(b"\x1b[?62;4;22c", True), (b"typed\x1b[?62;4c", True), (b"\x1b[?62;22;44c", False), (b"", False)],
    ids=["with", "after a key", "without", "no answer"],
)
def test_a_terminal_is_asked_for_sixel(answer, expected, monkeypatch):
    import pty
    import termios

    monkeypatch.setattr(inline, "_ANSWER", 0.3)
    controller, terminal = pty.openpty()
    asked = []

    def reply() -> None:
        asked.append(os.read(controller, 64))
        os.write(controller, answer)

    thread = threading.Thread(target=reply)
    with os.fdopen(terminal, "r+b", buffering=0) as held:
        screen = io.TextIOWrapper(held, write_through=True)
        before = termios.tcgetattr(terminal)
        thread.start()
        assert inline.knows_sixel(screen, screen) is expected
        thread.join(5)
        assert asked == [b"\x1b[c"]
        assert termios.tcgetattr(terminal) == before
        screen.detach()
    os.close(controller)


def test_nobody_is_asked_where_there_is_no_terminal():
    assert not inline.knows_sixel(io.StringIO(), io.StringIO())
