"""Tables (CSV as spreadsheets write it, Parquet) and folders of classes."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from PIL import Image
from written import write_folders, write_table

from fuzz.sets import NUMBERS, TEXTS, damaged, misplace, reader

_HEADERS = ("file", "image", "Image", "path", "file_name", "label", "class", "Species", "target", "twin", "twin", "mask")
_MORE = ("left", "top", "right", "bottom", "xmin", "site", "energy", "image", "", " ", "label ", "\x1b[31m", "x" * 300)


def case(rng: random.Random, folder: Path) -> Callable[[], object]:
    """A set of three images, and something wrong with it."""
    kind = rng.randrange(10)
    if kind < 2:
        return _folders(rng, folder)
    root = folder / "set"
    root.mkdir()
    write_table(root)
    _surroundings(rng, folder, root)
    rows = [list(row) for row in _rows(root / "set.csv")]
    for _ in range(rng.randrange(5)):
        _change(rng, rows)
    if kind < 4:
        return _parquet(rng, root, rows)
    text = _csv(rng, rows)
    encoding = rng.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1"))
    content = text.encode(encoding, errors="replace")
    file = root / rng.choice(("set.csv", "set.tsv", "set", "set.CSV"))
    file.write_bytes(damaged(content, rng) if rng.random() < 0.3 else content)
    if rng.random() < 0.1:
        misplace(file, rng)
    return reader(file, "table", rng.choice((None, None, folder, root, folder / "nothing")))


def _rows(file: Path) -> list[list[str]]:
    return [line.split(",") for line in file.read_text().split("\n") if line]


def _surroundings(rng: random.Random, folder: Path, root: Path) -> None:
    (root / "loop").symlink_to("loop")
    (root / "sub").mkdir()
    os.mkfifo(root / "fifo")
    (folder / "a.jpg").write_bytes((root / "a.jpg").read_bytes())
    for name in ("a.jpg", "b.jpg", "c.jpg", "a-mask.png"):
        if rng.random() < 0.1:
            misplace(root / name, rng)
        elif rng.random() < 0.2 and name.endswith("jpg"):
            exif = Image.Exif()
            exif[274] = rng.randrange(10)
            with Image.open(root / name) as image:
                image.save(root / name, exif=exif)


def _change(rng: random.Random, rows: list[list[str]]) -> None:
    kind, row = rng.randrange(9), rng.choice(rows)
    if kind == 0 and row:
        row[rng.randrange(len(row))] = rng.choice(TEXTS)
    elif kind == 1 and row:
        row[rng.randrange(len(row))] = repr(rng.choice(NUMBERS))
    elif kind == 2:
        rows[0][rng.randrange(len(rows[0]))] = rng.choice((*_HEADERS, *_MORE))
    elif kind == 3:
        rows.append([rng.choice(rng.choice(rows) or [""]) for _ in rows[0]])
    elif kind == 4:
        row.append(rng.choice(TEXTS))
    elif kind == 5 and row and row is not rows[0]:
        row.pop()
    elif kind == 6:
        rows.append(list(row))
    elif kind == 7:
        place = rng.randrange(len(rows[0]))
        for one in rows:
            if place < len(one) and len(rows[0]) > 1:
                del one[place]
    else:
        for place, one in enumerate(rows):
            one.append(rng.choice(("site", "energy", "right", "group")) if place == 0 else rng.choice(TEXTS))


def _csv(rng: random.Random, rows: list[list[str]]) -> str:
    separator, end = rng.choice(",,,;\t|"), rng.choice(("\n", "\r\n", "\r"))
    quote = rng.choice((True, True, False))

    def cell(value: str) -> str:
        doubled = value.replace('"', '""')
        return f'"{doubled}"' if quote and any(c in value for c in f'{separator}"\r\n\u2028') else value

    text = end.join(separator.join(map(cell, row)) for row in rows) + rng.choice((end, "", end * 3, '"'))
    return rng.choice(("", "", "", "sep=;\n", f"sep={separator}{end}", "\n\n", "# a remark\n")) + text


def _parquet(rng: random.Random, root: Path, rows: list[list[str]]) -> Callable[[], object]:
    import pyarrow
    import pyarrow.parquet

    header, *body = rows
    columns = {name: [row[place] if place < len(row) else None for row in body] for place, name in enumerate(header)}
    for name in list(columns):
        if rng.random() < 0.3:
            kinds = ([1, 2.5], [None], [b"\xff\xfe"], [{"a": 1}], [[1, 2]], [float("nan")], [True], ["x" * 200_000], [10**12])
            values = rng.choice(kinds)
            columns[name] = [
                values[row % len(values)] if type(values[0]) is type(values[-1]) else 1.5 for row in range(len(body))
            ]
    try:
        file = root / "set.parquet"
        pyarrow.parquet.write_table(pyarrow.table(columns), file, compression=rng.choice(("snappy", "zstd", "none", "gzip")))
    except (pyarrow.ArrowException, TypeError, ValueError, UnicodeError):
        file.write_bytes(b"PAR1PAR1")
    if rng.random() < 0.6:
        file.write_bytes(damaged(file.read_bytes(), rng))
    return reader(file, None, rng.choice((None, root)))


def _folders(rng: random.Random, folder: Path) -> Callable[[], object]:
    root = write_folders(folder / "set")
    inside = root / "red_finch"
    whole = (inside / "a.png").read_bytes()
    for _ in range(rng.randrange(4)):
        kind = rng.randrange(9)
        if kind == 0:
            (root / f"loop{rng.random()}").symlink_to(root)
        elif kind == 1:
            (inside / f"again{rng.random()}").symlink_to(root)
        elif kind == 2:
            here = os.open(inside, os.O_RDONLY)
            # Deeper than Python calls itself, or with a path that is longer than any may be.
            name, levels = rng.choice((("d", 60), ("d", 1100), ("d" * 200, 30)))
            for _ in range(levels):
                with suppress(FileExistsError):
                    os.mkdir(name, dir_fd=here)
                deeper = os.open(name, os.O_RDONLY, dir_fd=here)
                os.close(here)
                here = deeper
            with os.fdopen(os.open("a.png", os.O_CREAT | os.O_WRONLY, dir_fd=here), "wb") as stream:
                stream.write(whole)
            os.close(here)
        elif kind == 3:
            os.mkfifo(inside / f"fifo{rng.random()}.png")
        elif kind == 4:
            (root / ("n" * 250)).mkdir(exist_ok=True)
            (root / ("n" * 250) / f"{'m' * 240}{rng.randrange(9)}.jpg").write_bytes(whole)
        elif kind == 5:
            Path(os.fsdecode(os.fsencode(inside) + b"/\xff\x1b[31m\n.png")).write_bytes(whole)
        elif kind == 6:
            (inside / f"{rng.random()}{rng.choice(('.heic', '', '.jpg.txt', '.PNG'))}").write_bytes(b"no image")
        elif kind == 7:
            (root / f"{rng.random()}.png").write_bytes(whole)
        else:
            files = [file for file in inside.iterdir() if file.is_file() and not file.is_symlink()]
            misplace(rng.choice(files), rng)
    read = reader(root, rng.choice(("folders", None)), rng.choice((None, None, folder)))

    def read_and_remove() -> object:
        try:
            return read()
        finally:
            # Python's own way of removing a folder does not reach so deep.
            subprocess.run(["rm", "-r", str(root)], check=True)

    return read_and_remove
