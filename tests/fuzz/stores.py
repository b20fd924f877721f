"""Stores of fields that are damaged at random and then searched: an answer, or one line."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

from concept_cam import world
from concept_cam.store import Store, store_fields, write_matches
from fuzz.runs import DAMAGES

_SPECIES = ("ember finch", "frost finch", "royal jay", "misty heron", "copper finch")


def case(rng: random.Random, folder: Path) -> Callable[[], object]:
    """A store that one to three things have happened to, and a function that searches it and writes what it finds."""
    keep = rng.choice(("exact", "compact"))
    out = folder / "store"
    shutil.copytree(_whole() / keep, out)
    for _ in range(rng.randint(1, 3)):
        rng.choice(DAMAGES)(rng, out)

    def search() -> object:
        try:
            answers = Store.open(out).search(_localizer(), ["red crown", "blue wing"], "bird")
            return write_matches(answers, folder / "found").read_bytes()
        finally:
            for file in out.rglob("*"):
                if file.is_file() and not file.is_symlink():
                    file.chmod(0o600)

    return search


@cache
def _localizer() -> Any:
    return world.localizer()


_HOLDERS: list[tempfile.TemporaryDirectory[str]] = []


@cache
def _whole() -> Path:
    """A store of each kind, of three batches; it lies there until the process ends."""
    holder = tempfile.TemporaryDirectory()
    _HOLDERS.append(holder)
    folder = Path(holder.name)
    paths = [folder / f"{seed}.png" for seed in range(len(_SPECIES))]
    for seed, path in enumerate(paths):
        world.draw_species(_SPECIES[seed], seed, 96).image.save(path)
    for keep in ("exact", "compact"):
        with mock.patch("concept_cam.store.storing._BATCH", 2):
            store_fields(_localizer(), paths, folder / keep, keep, batch_size=2)
    return folder
