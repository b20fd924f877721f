"""Values that no set should hold, damage to files, and how a set is read to its end."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from concept_cam.datasets import read_dataset
from concept_cam.errors import ConceptCamError

TEXTS = (
    *("", " ", "nan", "inf", "-inf", "1e308", "-1e9", "1e-320", "9" * 500, "0x10", "1_000", "١٢", "-0.0", "None"),
    *("x" * 300 + ".jpg", "x" * 150_000, "../a.jpg", "/etc/passwd", "..", ".", "a\0.jpg", "a.jpg/", "./a.jpg", "~/a.jpg"),
    *("red\nfinch", "red\r\nfinch", "red\u2028finch", "red\x85finch", "\x0c", "\x1b[31mred", "=1+1", '"', "'", ",", ";", "\t"),
    *("\ufeff", "\u202e", "é" * 60, "#a", "a b  c", "%s{}", "\\", "C:\\a.jpg", "http://a/b.jpg", "loop", "fifo", "sub"),
)
"""What may stand where a text or a number is expected."""

NUMBERS = (0, -1, 1, 7, 39, 40, 41, 2**31, 2**63, 10**30, 10**400, 1e308, -1e308, float("nan"), float("inf"), 0.5, -0.4)
"""What may stand where a size, a side or a number is expected."""


def hostile(rng: random.Random) -> Any:
    """Any value that JSON knows."""
    kind = rng.randrange(8)
    if kind == 0:
        return rng.choice((None, True, False))
    if kind == 1:
        return rng.choice(([], {}, [[]], [{}], {"a": []}, [None], [1, 2, 3, 4, 5, 6, 7], ["1", "2", "3", "4"]))
    if kind == 2:
        return [rng.choice(NUMBERS) for _ in range(rng.randrange(9))]
    return rng.choice(TEXTS) if kind < 5 else rng.choice(NUMBERS)


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Some bytes of it others, or missing, or too many."""
    held = bytearray(content)
    for _ in range(rng.randrange(1, 6)):
        place, kind = rng.randrange(len(held) + 1), rng.randrange(6)
        if kind == 0:
            del held[place:]
        elif kind == 1:
            del held[place : place + rng.randrange(1, 40)]
        elif kind == 2:
            held[place:place] = rng.randbytes(rng.randrange(1, 40))
        elif kind == 3:
            held[place : place + 4] = rng.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80"))
        elif kind == 4:
            end = rng.randrange(len(held) + 1)
            held[place:place] = held[min(place, end) : max(place, end)][:2000]
        else:
            held[place : place + 1] = rng.randbytes(1)
    return bytes(held)


def misplace(file: Path, rng: random.Random) -> None:
    """Something else where a file was."""
    content = file.read_bytes()
    kind = rng.randrange(8)
    if kind == 0:
        file.write_bytes(b"")
        return
    if kind == 1:
        file.write_bytes(damaged(content, rng))
        return
    file.unlink()
    outside = file.parent.parent / f"outside-{file.name}"
    if kind == 2:
        file.symlink_to(file.name)
    elif kind == 3:
        file.symlink_to("/etc/hostname")
    elif kind == 4:
        file.mkdir()
    elif kind == 5:
        os.mkfifo(file)
    elif kind == 6:
        outside.write_bytes(content)
        file.symlink_to(outside)


def reader(path: Path, layout: str | None = None, root: Path | None = None) -> Callable[[], object]:
    """Reads a set, and all that its examples hold."""

    def read() -> object:
        found = read_dataset(path, layout, root)
        for problem in found.problems:
            check_line(problem)
        for examples in (found.examples, found.training):
            for index in range(len(examples)):
                use(examples[index])
        names = [(example.name, example.label) for example in found.examples]
        assert len(set(names)) == len(names), "two examples of one name and label"
        return found

    return read


def use(example: Any) -> None:
    """Read its image and its masks: each is as large as the image, or refused in one line."""
    size = None
    try:
        image = example.read()
        size = (image.height, image.width)
    except ConceptCamError as error:
        check_line(str(error))
    for region in (example.region, *(region for _, region in example.parts)):
        try:
            mask = region() if region else None
        except ConceptCamError as error:
            check_line(str(error))
        else:
            assert mask is None or size is None or tuple(mask.shape) == size, f"a mask of {mask.shape} for {size}"
    for left, top, right, bottom in example.boxes:
        assert size is None or (0 <= left < right <= size[1] and 0 <= top < bottom <= size[0]), example.boxes
    assert isinstance(example.label, str), example.label
    assert example.label


def check_line(text: str) -> None:
    """One line of printable text, not too long."""
    assert text, "an empty line"
    assert text.isprintable(), repr(text)
    assert len(text) <= 1000, f"{len(text)} letters"


def some(rng: random.Random, values: Sequence[Any], at_most: int) -> list[Any]:
    """A few of them."""
    return rng.sample(list(values), min(len(values), rng.randrange(at_most + 1)))
