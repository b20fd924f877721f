"""COCO's JSON: any value of it another, odd outlines, and damaged bytes."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from written import HEIGHT, WIDTH, write_coco

from fuzz.sets import NUMBERS, TEXTS, damaged, hostile, misplace, reader


def case(rng: random.Random, folder: Path) -> Callable[[], object]:
    """A file of two images and four annotations, and something wrong with it."""
    file = write_coco(folder / "set")
    (folder / "set" / "loop").symlink_to("loop")
    (folder / "set" / "sub").mkdir()
    os.mkfifo(folder / "set" / "fifo")
    held = json.loads(file.read_text())
    for _ in range(rng.randrange(1, 5)):
        _change(rng, held)
    content = _deep(rng) if rng.random() < 0.03 else json.dumps(held).encode("utf-8", errors="surrogatepass")
    file.write_bytes(damaged(content, rng) if rng.random() < 0.2 else content)
    if rng.random() < 0.05:
        misplace(rng.choice((file, folder / "set" / "images" / "one.jpg")), rng)
    return reader(file, None, rng.choice((None, None, folder, folder / "set")))


def _change(rng: random.Random, held: Any) -> None:
    kind = rng.randrange(4)
    lists = [held.get(name) for name in ("images", "annotations", "categories")] if isinstance(held, dict) else []
    entries = [entry for one in lists if isinstance(one, list) for entry in one if isinstance(entry, dict)]
    if kind == 0 or not entries:
        _anywhere(rng, held)
        return
    entry = rng.choice(entries)
    if kind == 1:
        # Of annotations alone.
        entry["segmentation"] = _outline(rng)
        entry["bbox"] = rng.choice((None, [10, 10, 10, 5], [rng.choice(NUMBERS) for _ in range(4)], hostile(rng)))
        if entry["bbox"] is None:
            del entry["bbox"]
    elif kind == 2:
        entry["height"], entry["width"] = rng.choice(NUMBERS), rng.choice(NUMBERS)
        entry["file_name"] = rng.choice((*TEXTS, "one.jpg", "two.jpg", 7))
    else:
        of_all = rng.choice([one for one in lists if isinstance(one, list)])
        of_all.append(rng.choice((dict(entry), hostile(rng))))


def _outline(rng: random.Random) -> Any:
    side = rng.choice((1.0, 40.0, 1e6, -30.0))
    polygon = [rng.random() * side for _ in range(rng.choice((0, 2, 4, 6, 7, 8, 12, 400)))]
    if rng.random() < 0.2 and polygon:
        polygon[rng.randrange(len(polygon))] = rng.choice((*NUMBERS, None, "5", [1], True))
    letters = "".join(chr(rng.randrange(40, 120)) for _ in range(rng.choice((0, 3, 30, 20_000))))
    counts = rng.choice(
        (
            letters,
            letters.encode().hex(),
            [HEIGHT * WIDTH],
            [rng.choice(NUMBERS) for _ in range(rng.randrange(6))],
            [1] * (HEIGHT * WIDTH),
            hostile(rng),
        )
    )
    size = rng.choice(([HEIGHT, WIDTH], [HEIGHT, WIDTH], [WIDTH, HEIGHT], [10**9, 10**9], hostile(rng)))
    return rng.choice(
        ([polygon], polygon, [polygon, polygon], {"size": size, "counts": counts}, {"counts": counts}, hostile(rng))
    )


def _anywhere(rng: random.Random, held: Any) -> None:
    """One value, wherever it is, another or gone or twice."""
    places = list(_places(held))
    if not places:
        return
    within, key = rng.choice(places)
    kind = rng.randrange(4)
    if kind == 0:
        del within[key]
    elif kind == 1 and isinstance(within, list):
        within.append(within[key])
    else:
        within[key] = hostile(rng)


def _places(held: Any) -> Any:
    keys = held.keys() if isinstance(held, dict) else range(len(held)) if isinstance(held, list) else ()
    for key in keys:
        yield held, key
        yield from _places(held[key])


def _deep(rng: random.Random) -> bytes:
    count = rng.choice((500, 5_000, 100_000))
    return rng.choice((b"[" * count, b"[" * count + b"]" * count, b'{"images":' * count, b'{"images": ' + b"[" * count))
