"""The layouts of published sets and of ``datasets``: files that are gone or elsewhere, and lines and bytes that are others."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from written import write_aircraft, write_cars, write_cub, write_fishvista, write_huggingface, write_pets

from fuzz.sets import NUMBERS, TEXTS, damaged, misplace, reader, some

_WRITERS = {
    "cub": write_cub,
    "pets": write_pets,
    "aircraft": write_aircraft,
    "cars": write_cars,
    "fishvista": write_fishvista,
    "huggingface": write_huggingface,
}
_PLAIN = {".txt", ".csv", ".json"}


def case(rng: random.Random, folder: Path) -> Callable[[], object]:
    """A small set, and something wrong with one to three of its files."""
    layout = rng.choice(list(_WRITERS))
    root = folder / "set"
    shutil.copytree(_whole(layout), root)
    (root / "loop").symlink_to("loop")
    (root / "sub").mkdir()
    os.mkfifo(root / "fifo")
    files = sorted(file for file in root.rglob("*") if file.is_file())
    # Lists decide more than images do.
    lists = [file for file in files if file.suffix not in (".jpg", ".png")]
    for file in {rng.choice(lists), *some(rng, files, 2)}:
        kind = rng.randrange(4)
        if kind < 2 and file.suffix in _PLAIN:
            file.write_text(_other(rng, file.read_text()), errors="replace")
        elif kind < 3:
            file.write_bytes(damaged(file.read_bytes(), rng))
        else:
            misplace(file, rng)
    return reader(root, rng.choice((layout, None)), rng.choice((None, None, folder)))


@cache
def _whole(layout: str) -> Path:
    """Written once in a process."""
    root = Path(tempfile.mkdtemp(prefix="fuzz-")) / layout
    return _WRITERS[layout](root)


def _other(rng: random.Random, text: str) -> str:
    """Some words of it others, or its lines in another order."""
    lines = text.split("\n")
    for _ in range(rng.randrange(1, 4)):
        place = rng.randrange(len(lines))
        words = lines[place].split(" ")
        kind = rng.randrange(5)
        if kind == 0:
            words[rng.randrange(len(words))] = rng.choice(TEXTS)
        elif kind == 1:
            words[rng.randrange(len(words))] = repr(rng.choice(NUMBERS))
        elif kind == 2:
            lines.append(lines[place])
        elif kind == 3:
            words.append(rng.choice(TEXTS))
        else:
            words = words[1:]
        lines[place] = " ".join(words)
    return "\n".join(lines)
