"""Result files: a Localization, a ConceptField or a PartFinding as it is saved, then damaged somewhere, read and used."""

from __future__ import annotations

import json
import os
import random
import struct
import tempfile
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import torch

from concept_cam import ConceptField, Localization, world
from concept_cam.decoding import MAX_PIXELS
from concept_cam.parts import PartFinding, find_parts, read_parts, summary
from concept_cam.writers import to_coco, to_csv, to_cub

_PAIR = "ember finch", "frost finch"

HOSTILE: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    0.5,
    2**31,
    2**63,
    10**400,
    1e308,
    -0.0,
    float("nan"),
    float("inf"),
    "",
    "nan",
    "a\nb\x1b[31m",
    "\ud800",
    "x" * 5000,
    [],
    {},
    [[1]],
    {"a": 1},
    [200_000, 200_000],
    [1, MAX_PIXELS],
    [13_000, 13_000],
    [0, 0],
    [-5, 7],
    [1.5, 2],
    [0, 0, 0, 0],
    [5, 5, 1, 1],
    [0, 0, 1e-300, 1e-300],
    [-1e300, -1e300, 1e300, 1e300],
    [1e9, 1e9, 2e9, 2e9],
)


@cache
def _whole() -> tuple[bytes, bytes, bytes]:
    """A localization, a field, and a field of low rank, as they are on disk."""
    localizer, plate = world.localizer(), world.draw_species(_PAIR[0], seed=3)
    (field,) = localizer.fields([plate.image])

    def saved(save: Callable[[Path], Path]) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            return save(Path(folder) / "a.safetensors").read_bytes()

    result = localizer(plate.image, *_PAIR)
    return saved(result.save), saved(field.save), saved(lambda path: field.save(path, rank=8))


@cache
def _bank() -> Any:
    return world.localizer().bank(_PAIR)


def case(rng: random.Random, folder: Path) -> Callable[[], object]:
    """A damaged file; it is read as what it was, and used."""
    which = rng.randrange(3)
    path = folder / "found.safetensors"
    content = (_about if rng.random() < 0.4 else damaged)(rng, _whole()[which])
    if rng.random() < 0.02:
        os.mkfifo(path)
    else:
        path.write_bytes(content)

    def read() -> object:
        if which == 0:
            result = Localization.load(path)
            result.summary()
            return result.heatmap(), result.mask(), result.boxes(), result.peak()
        field = ConceptField.load(path)
        maps = field(_bank()) if field.vectors.shape[-1] == 192 else field(torch.ones(field.vectors.shape[-1]))
        return maps, field.localize(_bank(), *_PAIR).heatmap() if field.vectors.shape[-1] == 192 else None

    return read


@cache
def _finding() -> bytes:
    plate = world.draw_species(_PAIR[0], seed=3, size=96)
    found = find_parts(world.localizer(), plate.image, read_parts("world-parts"))
    with tempfile.TemporaryDirectory() as folder:
        return found.save(Path(folder) / "a.safetensors").read_bytes()


def case_of_findings(rng: random.Random, folder: Path) -> Callable[[], object]:
    """A damaged file of a finding of parts."""
    path = folder / "found.safetensors"
    path.write_bytes((_about if rng.random() < 0.6 else damaged)(rng, _finding()))

    def read() -> object:
        found = {"a.png": PartFinding.load(path)}
        return json.dumps(to_coco(found)), to_csv(found), to_cub(found), summary(found["a.png"])

    return read


def damaged(rng: random.Random, content: bytes) -> bytes:
    """A safetensors file that is none, or another."""
    return rng.choice((_bytes, _header, _numbers, _tail))(rng, content)


def _parts(content: bytes) -> tuple[dict[str, Any], bytes]:
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def _joined(header: Any, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _bytes(rng: random.Random, content: bytes) -> bytes:
    """Some bytes are others, most of them in the header."""
    found = bytearray(content)
    for _ in range(rng.choice((1, 2, 8, 64))):
        found[rng.randrange(min(len(found), rng.choice((8, 3000, len(found)))))] = rng.randrange(256)
    return bytes(found)


def _header(rng: random.Random, content: bytes) -> bytes:
    """The table of contents says something else, or is no table."""
    header, data = _parts(content)
    if rng.random() < 0.2:
        text = rng.choice(("[" * 100_000, '{"a":' * 5000, "{}", "[]", "1", '{"__metadata__":{}}', "{", " " * 1000)).encode()
        return struct.pack("<Q", rng.choice((len(text), 2**62, 2**64 - 1, 0))) + text + data
    name = rng.choice([name for name in header if name != "__metadata__"])
    entry = header[name]
    change = rng.randrange(6)
    if change == 0:
        entry["dtype"] = rng.choice(("F64", "F32", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "C64", "\x1b[0m", "", 7))
    elif change == 1:
        entry["shape"] = rng.choice(([200_000, 200_000], [12], [], [1, 144], [12, 12, 1], [0, 12], [-1, 2], [2**63], "12"))
    elif change == 2:
        entry["data_offsets"] = rng.choice(([0, 0], [0, 2**62], [576, 0], [-1, 575], [0, 575], [1, 577], None))
    elif change == 3:
        header[rng.choice(("map", "vectors", "\x1b[31m", "a" * 5000))] = header.pop(name)
    elif change == 4:
        del header[name]
    else:
        header["__metadata__"] = rng.choice([one for one in HOSTILE if one != "\ud800"])
    return _joined(header, data)


def _about(rng: random.Random, content: bytes) -> bytes:
    """What is said of the tensors is something else, at some place."""
    header, data = _parts(content)
    (key,) = header["__metadata__"]
    about = json.loads(header["__metadata__"][key])
    for _ in range(rng.choice((1, 1, 1, 3))):
        held: Any = about
        while True:
            keys = list(held) if isinstance(held, dict) else list(range(len(held)))
            if not keys:
                break
            one = rng.choice(keys)
            if isinstance(held[one], dict | list) and held[one] and rng.random() < 0.7:
                held = held[one]
                continue
            if isinstance(held, dict) and rng.random() < 0.2:
                held.pop(one)
            else:
                held[one] = deepcopy(rng.choice(HOSTILE))
            break
    text = json.dumps(about)
    if rng.random() < 0.1:
        text = rng.choice(
            ("[" * 100_000, "", "null", text[:-1], text.replace("{", "{{"), text * 2, '{"a":' * 3000 + "1" + "}" * 3000)
        )
    header["__metadata__"][key] = text
    return _joined(header, data)


def _numbers(rng: random.Random, content: bytes) -> bytes:
    """Numbers of the tensors are not finite, huge or tiny."""
    header, data = _parts(content)
    found = bytearray(data)
    for _ in range(rng.choice((1, 5, 100))):
        place = rng.randrange(max(1, len(found) // 4)) * 4
        found[place : place + 4] = rng.choice(
            (b"\xff" * 4, b"\x00\x00\x80\x7f", b"\x00\x7c\x00\xfc", b"\x01\x00\x00\x00", b"\xff\xff\x7f\x7f")
        )
    return _joined(header, bytes(found))


def _tail(rng: random.Random, content: bytes) -> bytes:
    """Cut short, or longer."""
    cut = rng.choice((0, 1, 7, 8, 9, rng.randrange(len(content)), len(content) - 1))
    return content[:cut] if rng.random() < 0.5 else content + rng.randbytes(rng.choice((1, 8, 4096)))
