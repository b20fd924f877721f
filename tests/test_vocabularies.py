"""Every vocabulary and every template that ships reads well, says nothing twice and is in the table; each rule can fail."""

from __future__ import annotations

import re
from itertools import combinations

import pytest
import yaml

from concept_cam import world
from concept_cam.errors import UnknownWord
from concept_cam.prompts import prompts_folders, read_templates
from concept_cam.world.birds import ATTRIBUTES, PARTS, part_of
from concept_cam.world.renderer import HABITATS

PROMPTS = prompts_folders()[0]
VOCABULARIES = sorted((PROMPTS / "vocabularies").glob("*.yaml"))
TEMPLATES = sorted((PROMPTS / "templates").glob("*.txt"))
OF_THE_FIELD_GUIDE = [path for path in VOCABULARIES if path.stem.startswith("world-")]
ROW = re.compile(r"^\| `((?:templates|vocabularies)/[^`]+)` \| ([^|]+) \| ([^|]*) \| ([^|]*) \|$", re.M)


def stem(path):
    return path.stem


def parsed(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


# ---- the rules --------------------------------------------------------------------------------------------------------


def parts_of(data):
    """Each concept's name with its attributes, lists of ``values`` in the place of their names: None if it has no such key."""
    concepts = [c if isinstance(c, dict) else {"name": c} for c in data["concepts"]]
    shared = data.get("values", {})
    return [
        (c["name"], {a: shared[vs] if isinstance(vs, str) else vs for a, vs in c["attributes"].items()})
        if c.get("attributes")
        else (c["name"], c.get("attributes"))
        for c in concepts
    ]


def phrases_of(data):
    """All that a part can look like, in words: "red crown"."""
    return [f"{v} {name}" for name, attributes in parts_of(data) for vs in (attributes or {}).values() for v in vs or ()]


def twice(texts):
    return sorted({text for text in texts if texts.count(text) > 1})


def wording(text):
    if not isinstance(text, str):
        return [f"{text!r} is no text"]
    broken = {
        "begins with an article": re.match(r"(a|an|the)\b", text, re.I),
        "has capitals": text != text.lower(),
        "has spaces to spare": text != " ".join(text.split()),
        "begins or ends with punctuation": not (text.strip()[:1].isalnum() and text.strip()[-1:].isalnum()),
    }
    return [f"{text!r} {what}" for what, is_so in broken.items() if is_so]


def vocabulary_complaints(data):
    parts = parts_of(data)
    names = [name for name, _ in parts]
    values = [v for _, attributes in parts for vs in (attributes or {}).values() for v in vs or ()]
    parent = [data["parent"]] if "parent" in data else []
    found = [complaint for text in dict.fromkeys([*names, *values, *parent]) for complaint in wording(text)]
    found += [f"{text!r} is said twice" for text in twice([*names, *phrases_of(data)])]
    for name, attributes in parts:
        if attributes is not None and not attributes:
            found.append(f"{name!r} has no attributes; leave the key out")
        found += [f"{a!r} of {name!r} leaves no choice" for a, vs in (attributes or {}).items() if len(vs or ()) < 2]
    if parent and parent[0] in names:
        found.append("the parent is one of the parts")
    if not parent and any(attributes is not None for _, attributes in parts):
        found.append("parts without a parent")
    if parent:
        keys = {key for concept in data["concepts"] if isinstance(concept, dict) for key in concept}
        found += [f"{key!r} is no key of a part" for key in sorted(keys - {"name", "attributes"})]
    return found


def template_complaints(templates):
    """Beyond what every reader of templates checks: "a {}." is a sentence's end, "a {}!" is not."""
    found = [f"{t!r} has capitals" for t in templates if t != t.lower()]
    found += [f"{t!r} ends with punctuation" for t in templates if not re.search(r"[\w}]\.?$", t)]
    found += [f"{t!r} suits few names" for t in templates if re.search(r"\ban \{\}", t)]
    return found + [f"{t!r} is said twice" for t in twice([t.removesuffix(".") for t in templates])]


def table_complaints(folder):
    rows = {path: (source, licence) for path, _, source, licence in ROW.findall((folder / "README.md").read_text())}
    files = {str(path.relative_to(folder)): path for path in folder.glob("*/*.*")}
    found = [f"{name} is not in the table" for name in sorted(files.keys() - rows.keys())]
    found += [f"{name} is in the table alone" for name in sorted(rows.keys() - files.keys())]
    for name in sorted(files.keys() & rows.keys()):
        said = parsed(files[name]) if files[name].suffix == ".yaml" else {}
        for key, cell in zip(("source", "licence"), rows[name], strict=True):
            if not cell.strip():
                found.append(f"{name} has no {key} in the table")
            elif said.get(key, cell) != cell:
                found.append(f"{name} has another {key} in the table")
    return found


def embedding_complaints(guide, texts):
    vectors = guide.bank(texts).vectors
    cosines = vectors @ vectors.T
    pairs = combinations(range(len(texts)), 2)
    return [f"{texts[i]!r} and {texts[j]!r} look the same to the encoder" for i, j in pairs if cosines[i, j] > 0.999]


# ---- what ships keeps them --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guide():
    return world.localizer(vocabulary=["bird"], templates="plain")


@pytest.mark.parametrize("path", VOCABULARIES, ids=stem)
def test_vocabularies(path):
    assert vocabulary_complaints(parsed(path)) == []


@pytest.mark.parametrize("path", TEMPLATES, ids=stem)
def test_templates(path):
    assert template_complaints(read_templates(path)) == []


def test_the_table():
    assert table_complaints(PROMPTS) == []


@pytest.mark.parametrize("path", OF_THE_FIELD_GUIDE, ids=stem)
def test_the_embedded_encoder_tells_all_apart(guide, path):
    data = parsed(path)
    names = [name for name, _ in parts_of(data)]
    assert embedding_complaints(guide, [*names, *phrases_of(data), *([data["parent"]] if "parent" in data else [])]) == []


def test_the_field_guides_parts_are_those_of_the_renderer():
    expected = {part: {} for part in PARTS}
    for attribute, values in ATTRIBUTES.items():
        part = part_of(attribute)
        expected[part][attribute.removeprefix(part).strip() or "colour"] = [v for v in values if v != "none"]
    data = parsed(PROMPTS / "vocabularies" / "world-parts.yaml")
    assert parts_of(data) == list(expected.items())
    assert data["parent"] == "bird"


def test_the_field_guides_habitats_are_those_of_the_renderer():
    names = [name for name, _ in parts_of(parsed(PROMPTS / "vocabularies" / "world-habitats.yaml"))]
    assert names == [f"bird in {habitat}" for habitat in HABITATS]


# ---- and each can fail ------------------------------------------------------------------------------------------------

SOUND = """
title: Parts of birds
source: written for concept-cam
licence: MIT
parent: bird
values:
  colour: [red, blue]
concepts:
  - name: beak
    attributes:
      colour: colour
      shape: [long, short]
  - name: tail
  - eye
"""

BROKEN = {
    "an article before a name": ("name: tail", "name: the tail", "'the tail' begins with an article"),
    "an article before a value": ("[long, short]", "[a long, short]", "'a long' begins with an article"),
    "an article before the parent": ("parent: bird", "parent: a bird", "'a bird' begins with an article"),
    "a capital in a name": ("name: tail", "name: Tail", "'Tail' has capitals"),
    "a capital in a value": ("[long, short]", "[long, SHORT]", "'SHORT' has capitals"),
    "two spaces": ("name: tail", "name: tail  feathers", "'tail  feathers' has spaces to spare"),
    "a space before a value": ("[long, short]", "[long, ' short']", "' short' has spaces to spare"),
    "punctuation": ("name: tail", "name: tail.", "'tail.' begins or ends with punctuation"),
    "an empty value": ("[long, short]", "[long, '']", "'' begins or ends with punctuation"),
    "what YAML reads as no": ("[long, short]", "[long, no]", "False is no text"),
    "a name twice": ("- eye", "- tail", "'tail' is said twice"),
    "a value twice": ("[long, short]", "[long, short, long]", "'long beak' is said twice"),
    "a value in two attributes": ("[long, short]", "[long, red]", "'red beak' is said twice"),
    "a phrase that is a name": ("- eye", "- long beak", "'long beak' is said twice"),
    "a phrase of two parts": (
        "- eye",
        "- {name: eye, attributes: {look: [big blue, small]}}\n  - {name: blue eye, attributes: {size: [big, small]}}",
        "'big blue eye' is said twice",
    ),
    "no attributes": ("name: tail", "name: tail\n    attributes: {}", "'tail' has no attributes"),
    "no values": ("[long, short]", "[]", "'shape' of 'beak' leaves no choice"),
    "nothing for values": ("[long, short]", "", "'shape' of 'beak' leaves no choice"),
    "one value": ("[long, short]", "[long]", "'shape' of 'beak' leaves no choice"),
    "a parent that is a part": ("parent: bird", "parent: tail", "the parent is one of the parts"),
    "no parent": ("parent: bird", "", "parts without a parent"),
    "a key misspelt": ("name: tail", "name: tail\n    atributes: {}", "'atributes' is no key of a part"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_vocabulary(tmp_path, case):
    old, new, words = BROKEN[case]
    path = tmp_path / "mine.yaml"
    path.write_text(SOUND)
    assert vocabulary_complaints(parsed(path)) == []
    assert SOUND.count(old) == 1
    path.write_text(SOUND.replace(old, new))
    complaints = vocabulary_complaints(parsed(path))
    assert len(complaints) == 1
    assert words in complaints[0]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("A {}", "has capitals"),
        ("a photo of a {}!", "ends with punctuation"),
        ("a photo of a {} ...", "ends with punctuation"),
        ("a photo of an {}", "suits few names"),
        ("the {}", "'the {}' is said twice"),
    ],
)
def test_a_broken_template(tmp_path, line, words):
    path = tmp_path / "mine.txt"
    path.write_text("{}\nthe {}.\n")
    assert template_complaints(read_templates(path)) == []
    path.write_text(f"{{}}\nthe {{}}.\n{line}\n")
    complaints = template_complaints(read_templates(path))
    assert len(complaints) == 1
    assert words in complaints[0]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("| `templates/mine.txt` | three sentences | me | CC0 |", "", "templates/mine.txt is not in the table"),
        ("templates/mine.txt", "templates/yours.txt", "templates/yours.txt is in the table alone"),
        ("| me | CC0 |", "| me |  |", "templates/mine.txt has no licence in the table"),
        ("| me | CC0 |", "|  | CC0 |", "templates/mine.txt has no source in the table"),
        ("concept-cam | MIT |", "concept-cam | CC0 |", "vocabularies/mine.yaml has another licence in the table"),
        ("written for concept-cam", "found", "vocabularies/mine.yaml has another source in the table"),
    ],
)
def test_a_broken_table(tmp_path, old, new, words):
    for name, text in {"templates/mine.txt": "{}\n", "vocabularies/mine.yaml": SOUND}.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    table = "| file | what | source | licence |\n|---|---|---|---|\n"
    table += "| `templates/mine.txt` | three sentences | me | CC0 |\n"
    table += "| `vocabularies/mine.yaml` | parts | written for concept-cam | MIT |\n"
    (tmp_path / "README.md").write_text(table)
    assert table_complaints(tmp_path) == []
    assert table.count(old) == 1
    (tmp_path / "README.md").write_text(table.replace(old, new))
    assert words in table_complaints(tmp_path)


def test_two_texts_with_one_embedding(guide):
    (complaint,) = embedding_complaints(guide, ["red crown", "blue crown", "red crown."])
    assert complaint == "'red crown' and 'red crown.' look the same to the encoder"


def test_a_word_that_the_encoder_does_not_know(guide):
    with pytest.raises(UnknownWord, match="mossy"):
        embedding_complaints(guide, ["red crown", "mossy crown"])
