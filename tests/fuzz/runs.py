"""Folders of runs that are damaged at random and then resumed: the rows of a run that nobody damaged, or one line."""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

from concept_cam import world
from concept_cam.audit import audit
from concept_cam.evaluation import evaluate
from concept_cam.world.dataset import birds_dataset

_LARGE = 3 << 30
"""Bytes at least of a file with nothing in it, which takes no room on the disk and would take all of the memory."""


def case(rng: random.Random, folder: Path) -> Callable[[], object]:
    """A folder that one to three things have happened to, and a function that resumes the run in it."""
    work = rng.choice((_evaluate, _audit))
    whole = _whole(work)
    out = folder / "out"
    shutil.copytree(whole, out)
    for _ in range(rng.randint(1, 3)):
        rng.choice(DAMAGES)(rng, out)

    def resume() -> object:
        try:
            work(out)
        finally:
            for file in out.rglob("*"):
                if file.is_file() and not file.is_symlink():
                    file.chmod(0o600)
        held, expected = _content(out), _content(whole)
        if {name: held.get(name) for name in expected} != expected:
            other = [name for name in expected if held.get(name) != expected[name]]
            raise AssertionError(f"not what the run had: {', '.join(other)}")
        return held

    return resume


def _evaluate(out: Path) -> None:
    with mock.patch("concept_cam.evaluation.rows.BATCH", 1):
        evaluate(_localizer(), _data(), out, methods="grad_cam", references="twin", strengths=1.0)


def _audit(out: Path) -> None:
    with mock.patch("concept_cam.audit.run.BATCH", 1):
        audit(_localizer(), _data(), out)


@cache
def _localizer() -> Any:
    return world.localizer()


@cache
def _data() -> Any:
    from dataclasses import replace

    data = birds_dataset(3)
    return replace(data, examples=list(data.examples))


@cache
def _whole(work: Callable[[Path], None]) -> Path:
    """A finished run; it lies there until the process ends."""
    holder = tempfile.TemporaryDirectory()
    _HOLDERS.append(holder)
    folder = Path(holder.name) / "out"
    work(folder)
    return folder


_HOLDERS: list[tempfile.TemporaryDirectory[str]] = []


def _content(folder: Path) -> dict[str, bytes]:
    """The rows, and the maps of an audit."""
    files = [folder / "rows.csv", *sorted((folder / "batches").glob("0*"))]
    return {file.name: file.read_bytes() for file in files if file.is_file()}


def _files(out: Path) -> list[Path]:
    """Those that can be damaged further: links, files without end and those that nobody may read are left as they are."""
    files = (path for path in out.rglob("*") if path.is_file() and not path.is_symlink())
    return sorted(path for path in files if path.stat().st_size < _LARGE and os.access(path, os.R_OK))


def _some_file(rng: random.Random, out: Path) -> Path | None:
    files = _files(out)
    # The settings are one file of many, and the one that matters most.
    settings = [file for file in files if file.name == "run.json"]
    return rng.choice(settings if settings and rng.random() < 0.2 else files) if files else None


def _bytes(rng: random.Random, out: Path) -> None:
    """Other bytes: fewer, more, turned, of no meaning."""
    file = _some_file(rng, out)
    if file is None:
        return
    content = bytearray(file.read_bytes())
    place = rng.randrange(len(content) + 1)
    kind = rng.randrange(7)
    if kind == 0:
        content = bytearray()
    elif kind == 1:
        del content[place:]
    elif kind == 2:
        content[place:place] = rng.randbytes(rng.randint(1, 50))
    elif kind == 3 and content:
        content[place % len(content)] ^= 1 << rng.randrange(8)
    elif kind == 4:
        content += rng.choice((b"\n", b"\0" * 100, content[-50:], b"\x1a"))
    elif kind == 5:
        content[:0] = rng.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\n", b'"'))
    else:
        content = bytearray(rng.randbytes(rng.randint(1, 500)))
    file.write_bytes(content)


def _lines(rng: random.Random, out: Path) -> None:
    """Rows that are there twice, or not, or in another order."""
    tables = [file for file in _files(out) if file.suffix == ".csv"]
    if not tables:
        return
    file = rng.choice(tables)
    rows = file.read_bytes().splitlines(keepends=True)
    kind = rng.randrange(4)
    if kind == 0 and rows:
        rows.append(rng.choice(rows))
    elif kind == 1 and rows:
        rows.pop(rng.randrange(len(rows)))
    elif kind == 2:
        rng.shuffle(rows)
    else:
        rows += rng.choice([held for other in tables if (held := other.read_bytes().splitlines(keepends=True))] or [rows])
    file.write_bytes(b"".join(rows))


def _json(rng: random.Random, out: Path) -> None:
    """A value of another type, a key more or less, nesting without end."""
    files = [file for file in _files(out) if file.suffix == ".json"]
    if not files:
        return
    file = rng.choice(files)
    try:
        held = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return
    values = [None, True, 0, -1, 1e999, float("nan"), 2**70, "", "\x1b[31m\n", [], {}, [[]], {"a": {"b": None}}, [0] * 1000]
    spot = held
    while isinstance(spot, dict) and spot:
        key = rng.choice(list(spot))
        if isinstance(spot[key], dict) and rng.random() < 0.6:
            spot = spot[key]
            continue
        kind = rng.randrange(3)
        if kind == 0:
            spot[key] = rng.choice(values)
        elif kind == 1:
            del spot[key]
        else:
            spot[rng.choice((f"{key}_", "", "\x1b]0;x\x07", "../../run", "files", "z" * 5000))] = rng.choice(values)
        break
    text = json.dumps(held)
    if rng.random() < 0.2:
        depth = rng.choice((100, 900, 5000, 200_000))
        opening, closing = rng.choice((("[", "]"), ('{"a": ', "}")))
        text = rng.choice((opening * depth, '{"files": ' + opening * depth + "1" + closing * depth + "}"))
    if rng.random() < 0.1:
        text = text.replace("1", "9" * 5000, 1)
    file.write_text(text)


def _maps(rng: random.Random, out: Path) -> None:
    """A header of safetensors that says something else."""
    files = [file for file in _files(out) if file.suffix == ".safetensors"]
    if not files:
        return _bytes(rng, out)
    file = rng.choice(files)
    content = file.read_bytes()
    length = rng.choice((0, 1, 2**62, len(content), rng.randrange(2**32)))
    header = rng.choice((b'{"a":1}', b"[" * 1000, b"{}", content[8:200]))
    file.write_bytes(rng.choice((length.to_bytes(8, "little") + content[8:], len(header).to_bytes(8, "little") + header)))
    return None


def _kind(rng: random.Random, out: Path) -> None:
    """No file at all: a folder, a pipe, a link, a device, a file without end, one that nobody may read."""
    places = [*_files(out), out / "batches"]
    path = rng.choice(places)
    if not os.path.lexists(path):
        return
    kind = rng.randrange(9)
    if kind == 8 and path.is_file():
        path.chmod(0)
        return
    if kind == 7 and path.is_file():
        os.truncate(path, _LARGE)
        return
    other = rng.choice(_files(out) or [out])
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        (path / "inside").mkdir(parents=True)
    elif kind == 2:
        os.mkfifo(path)
    elif kind == 3:
        path.symlink_to(path.name)
    elif kind == 4:
        path.symlink_to("nothing at all")
    elif kind == 5:
        path.symlink_to(rng.choice(("/dev/zero", "/dev/null", "/dev/full", "/proc/self/mem", ".")))
    elif kind == 6:
        path.symlink_to(other)


def _places(rng: random.Random, out: Path) -> None:
    """Files in each other's places, gone, or those of another run."""
    files = _files(out)
    if len(files) < 2:
        return
    one, other = rng.sample(files, 2)
    kind = rng.randrange(5)
    if kind == 0:
        held = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(held)
    elif kind == 1:
        shutil.copy(one, other)
    elif kind == 2:
        one.unlink()
    elif kind == 3:
        # Two whole batches, each with its seal.
        stems = sorted({file.stem for file in files if file.parent.name == "batches"})
        if len(stems) > 1:
            first, second = rng.sample(stems, 2)
            for file in [file for file in files if file.stem == first and file.parent.name == "batches"]:
                twin = file.with_name(f"{second}{file.suffix}")
                if twin.is_file():
                    held = file.read_bytes()
                    file.write_bytes(twin.read_bytes())
                    twin.write_bytes(held)
    else:
        theirs = _whole(rng.choice((_evaluate, _audit)))
        file = rng.choice(_files(theirs))
        place = out / file.relative_to(theirs)
        if place.parent.is_dir() and (place.is_file() or not os.path.lexists(place)):
            place.unlink(missing_ok=True)
            shutil.copy(file, place)


def _more(rng: random.Random, out: Path) -> None:
    """Files that nobody asked for."""
    name = rng.choice(
        (".0123456789abcdef.concept-cam-tmp", "00003.csv", "00001.csv.bak", "rows.csv~", ".nfs000", "\x1b[31m\n")
    )
    place = rng.choice((out, out / "batches")) / name
    if place.parent.is_dir() and not os.path.lexists(place):
        rng.choice((lambda: place.write_bytes(rng.randbytes(20)), lambda: os.mkfifo(place), lambda: place.symlink_to(".")))()


DAMAGES = (_bytes, _bytes, _lines, _json, _json, _maps, _kind, _kind, _places, _places, _more)
