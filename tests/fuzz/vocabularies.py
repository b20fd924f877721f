"""Vocabularies and templates as YAML, as tables and as text."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from concept_cam.parts import read_parts
from concept_cam.prompts import prompts_folders, read_templates, read_vocabulary
from fuzz.sets import TEXTS, damaged

_BOMBS = (
    "a: &a [x, x]\n" + "".join(f"{chr(98 + k)}: &{chr(98 + k)} [{','.join([f'*{chr(97 + k)}'] * 9)}]\n" for k in range(9)),
    "concepts: &c [*c]\n",
    "concepts: [&c {name: a, more: *c}]\n",
    "x: &x {<<: *x}\n",
    "concepts: [!!python/object/apply:os.system ['true']]\n",
    "concepts: [!!python/name:os.system x]\n",
    "concepts: !!set {a, b}\n",
    "concepts: !!binary aGVsbG8=\n",
    "concepts: [a, 1:1" + ":1" * 20_000 + "]\n",
    "concepts: [a, " + "9" * 20_000 + "]\n",
    "concepts: [a, 0b" + "1" * 20_000 + "]\n",
    "concepts: [a, 2020-99-99, 1e999, .nan, .inf]\n",
    "concepts: " + "[" * 5_000 + "\n",
    "concepts: " + "[" * 50 + "]" * 50 + "\n",
    "concepts:\n" + "".join(" " * k + "- a:\n" for k in range(2, 400)),
    "? [a, b]\n: c\n? {a: b}\n: d\n",
    "concepts: [{name: a}, {name: b}]\nconcepts: [c]\n",
    "%YAML 9.9\n---\nconcepts: [a]\n",
    "--- a\n--- b\n",
    "concepts: [" + "a, " * 20_000 + "]\n",
    "concepts: |\n" + "  x\n" * 10_000,
    "title: [" + "x, " * 1_000 + "]\nconcepts: [a, b]\n",
    "values: {many: ["
    + ", ".join(f"v{k}" for k in range(3_000))
    + "]}\nparent: a\nconcepts:\n"
    + "".join(f"- {{name: n{k}, attributes: {{x: many}}}}\n" for k in range(200)),
    "values: {a: b}\nparent: x\nconcepts: [{name: y, attributes: {z: a}}]\n",
    "values: 7\nparent: x\nconcepts: [{name: y, attributes: {z: a}}]\n",
)

_TABLE = "name,parent,colour,shape\nbeak,bird,red; blue,long; short\ntail,bird,,\neye,bird,black; brown,\n"


def case(rng: random.Random, folder: Path) -> Callable[[], object]:
    """A file of the user's own, and something wrong with it."""
    shipped = sorted((prompts_folders()[0] / "vocabularies").glob("*.yaml"))
    kind = rng.randrange(8)
    if kind < 2:
        text = rng.choice(_BOMBS)
        text = text if rng.random() < 0.6 else text + rng.choice(shipped).read_text()
    elif kind < 6:
        text = rng.choice(shipped).read_text()[:4_000]
    else:
        text = rng.choice((_TABLE, "a photo of a {}.\n{} in ink\n", "red setter\npug\n# a remark\n"))
    for _ in range(rng.randrange(3)):
        place = rng.randrange(len(text) + 1)
        new = rng.choice(
            (*TEXTS, "*a", "&a ", "!!int ", "- ", ": ", "{", "[", "]", "}", "\n", "|", ">", "? ", "<<: ", "no", "7")
        )
        text = text[:place] + new + text[place + rng.choice((0, 0, 1, 8)) :]
    content = text.encode(rng.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1")), errors="replace")
    ending = (
        rng.choice((".csv", ".yaml", ".txt")) if kind > 5 else rng.choice((".yaml", ".yaml", ".yml", ".YAML", ".txt", ".csv"))
    )
    file = folder / f"mine{ending}"
    file.write_bytes(damaged(content, rng) if rng.random() < 0.1 else content)
    return lambda: rng.choice((read_vocabulary, read_vocabulary, read_parts, read_templates))(file)
