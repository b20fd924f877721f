"""Vocabularies from outside: plain data of bounded size, or one short line; tables with a column of names."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from concept_cam.errors import PromptError
from concept_cam.parts import read_parts
from concept_cam.plainyaml import read_yaml
from concept_cam.prompts import read_templates, read_vocabulary

# Each list holds the one before nine times: a thousand million texts in nine lines.
LINES = [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
BOMB = "\n".join(["a: &a [x, x, x, x, x, x, x, x, x]", *LINES, "concepts: *i"])

REFUSED = {
    "nine lines of aliases": (BOMB, r"the alias \*a; .*line 2"),
    "an alias of itself": ("concepts: &c [*c]", r"the alias \*c"),
    "a merge": ("x: &x {a: b}\nconcepts: [{<<: *x, name: y}]", r"the alias \*x"),
    "a tag of Python": ("concepts: [!!python/object/apply:os.system ['true']]", "the tag tag:yaml.org,2002:python/object"),
    "a tag of YAML": ("concepts: !!binary aGVsbG8=", "the tag tag:yaml.org,2002:binary"),
    "a tag of one's own": ("concepts: [!mine x]", "the tag !mine"),
    "many levels": ("concepts: " + "[" * 5000, "more than 12 levels|maximum nesting depth"),
    "many levels, closed": ("concepts: " + "[" * 50 + "]" * 50, "more than 12 levels"),
    "a number of many letters": ("concepts: [a, " + "9" * 5000 + "]", "a number of 5000 letters"),
    "a number by sixties": ("concepts: [a, 1" + ":1" * 100_000 + "]", "a number of 200001 letters"),
    "a key twice": ("concepts: [a]\nconcepts: [b]", "the key concepts twice"),
    "a list for a key": ("? [a, b]\n: c\nconcepts: [a]", "not YAML: .*unhashable"),
    "two documents": ("--- a\n--- b", "not YAML: expected a single document"),
    "too much": ("concepts:\n" + "- a\n" * 300_000, "letters of YAML; at most 1,048,576 are read"),
    "a control character": ("concepts: [a\x07]", "not YAML: .*(special|control) characters"),
    "a list for a title": ("title: [" + "x, " * 9999 + "]\nconcepts: [a]", r"title is \['x', 'x'"),
    "a long name twice": (f"concepts: [{'x' * 9999}, {'x' * 9999}]", "listed twice: xxx"),
    "a long list for a name": ("concepts: [[" + "x, " * 9999 + "]]", r"concept \['x', 'x'.* has no name"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_yaml_that_is_more_than_plain_data(tmp_path: Path, case: str) -> None:
    text, words = REFUSED[case]
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    before = time.monotonic()
    with pytest.raises(PromptError, match=words) as caught:
        read_vocabulary(path)
    assert str(caught.value).startswith(str(path))
    assert str(caught.value).isprintable()
    # The path is repeated nowhere, and of the file little is quoted.
    assert len(str(caught.value)) < len(str(path)) + 350
    assert time.monotonic() - before < 20


def test_what_plain_yaml_is() -> None:
    assert read_yaml("a: &unused [1, 2.5, yes, null, 'x']\nb: {c: d}") == {"a": [1, 2.5, True, None, "x"], "b": {"c": "d"}}


def test_lists_that_parts_share_go_by_their_names(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    beak = "{name: beak, attributes: {colour: colour, shape: [long, short]}}"
    whole = f"parent: bird\nvalues:\n  colour: [red, blue]\nconcepts:\n  - {beak}\n"
    path.write_text(whole)
    assert read_parts(path).parts[0].attributes == {"colour": ("red", "blue"), "shape": ("long", "short")}
    assert read_vocabulary(path).concepts[0].notes == {"attributes": {"colour": ["red", "blue"], "shape": ["long", "short"]}}
    path.write_text(whole.replace("{colour: colour", "{colour: color"))
    with pytest.raises(
        PromptError, match=r"colour of beak is 'color', which is not a list of `values`\. Did you mean 'colour'\?"
    ):
        read_parts(path)
    many = ", ".join(f"v{k}" for k in range(2000))
    concepts = "".join(f"  - {{name: n{k}, attributes: {{x: many}}}}\n" for k in range(60))
    path.write_text(f"parent: bird\nvalues: {{many: [{many}]}}\nconcepts:\n{concepts}")
    with pytest.raises(PromptError, match="120,000 phrases; at most 100,000 are read"):
        read_parts(path)


def test_a_table_holds_names_in_a_column(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_bytes('\ufeffid;Species;family\r\n7;Löwchen;dog\r\n8;"red; setter";\r\n'.encode())
    vocabulary = read_vocabulary(path)
    assert vocabulary.names == ("Löwchen", "red; setter")
    assert [concept.notes for concept in vocabulary.concepts] == [{"id": "7", "family": "dog"}, {"id": "8"}]
    assert (vocabulary.title, vocabulary.source, vocabulary.parent) == ("mine", str(path), "")
    path.write_text("title,licence,name\nDogs,CC0,pug\nDogs,CC0,setter\n")
    assert read_vocabulary(str(path)).title == "Dogs"
    assert read_vocabulary(path).licence == "CC0"


def test_a_table_of_parts(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("name,parent,colour,shape\nbeak,bird,red; blue,long; short\ntail,bird,,\n")
    parts = read_parts(path)
    assert parts.parent == "bird"
    assert [(part.name, dict(part.attributes)) for part in parts.parts] == [
        ("beak", {"colour": ("red", "blue"), "shape": ("long", "short")}),
        ("tail", {}),
    ]
    path.write_text("name,parent,colour\nbeak,bird,red\n")
    with pytest.raises(PromptError, match=r"colour of 'beak' is \['red'\]; expected a list of two words or more"):
        read_parts(path)


NO_TABLES = {
    "no names": ("id,family\n7,dog\n", "no column of names, such as name, label, class.*it has the columns id, family"),
    "no header": ("pug\nsetter\n", "no column of names.*it has the columns pug"),
    "a row without a name": ("name,family\n,dog\n", "line 2 has no name"),
    "a name twice": ("name\npug\npug\n", "listed twice: pug"),
    "no rows": ("name,family\n", "no concepts"),
    "two parents": ("name,parent\na,bird\nb,fish\n", "the column parent says bird, fish; expected one"),
    "a comma too many": ("name,family\na,b,c\n", "line 2: 3 values, where the header names 2"),
    "quotes that do not end": ('name\n"a\n', "line 2: unexpected end of data"),
    "nothing": ("", "it has no header"),
}


@pytest.mark.parametrize("case", NO_TABLES)
def test_tables_that_are_no_vocabularies(tmp_path: Path, case: str) -> None:
    text, words = NO_TABLES[case]
    (tmp_path / "mine.csv").write_text(text)
    with pytest.raises(PromptError, match=words) as caught:
        read_vocabulary(tmp_path / "mine.csv")
    assert str(caught.value).isprintable()


def test_no_name_in_a_text_file_is_cut(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("red\u2028setter\npug\x0cdog\n")
    assert read_vocabulary(tmp_path / "mine.txt").names == ("red\u2028setter", "pug\x0cdog")
    (tmp_path / "mine.txt").write_text("a {}\u2028{}\n")
    with pytest.raises(PromptError, match="has 2 places"):
        read_templates(tmp_path / "mine.txt")


@pytest.mark.parametrize("read", [read_vocabulary, read_templates])
def test_files_that_are_none(tmp_path: Path, read) -> None:
    os.mkfifo(tmp_path / "fifo.txt")
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    (tmp_path / "large.txt").write_bytes(b"x" * (2**24 + 1))
    for name in ("fifo.txt", "loop.txt", "large.txt", "/dev/zero.txt", "x" * 300 + ".txt", "a\0.txt", "x" * 99_999):
        with pytest.raises(PromptError) as caught:
            read(tmp_path / name if "/" not in name and len(name) < 9999 else name)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) <= 1000
