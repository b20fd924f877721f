"""Vocabularies and templates: those shipped are clean, those of the user are read or refused with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from concept_cam.errors import PromptError
from concept_cam.prompts import check_templates, prompts_folders, read_templates, read_vocabulary
from concept_cam.world.birds import ATTRIBUTES

VOCABULARIES = sorted(file.stem for file in (prompts_folders()[0] / "vocabularies").iterdir())
TEMPLATES = sorted(file.stem for file in (prompts_folders()[0] / "templates").iterdir())


def test_something_is_shipped() -> None:
    assert "world-species" in VOCABULARIES
    assert {"world", "photo", "plain"} <= set(TEMPLATES)


@pytest.mark.parametrize("name", VOCABULARIES)
def test_shipped_vocabularies_are_clean(name: str) -> None:
    vocabulary = read_vocabulary(name)
    for about in (vocabulary.title, vocabulary.source, vocabulary.licence):
        assert about.strip()
        assert about != "None"
    folded = [" ".join(concept.casefold().split()) for concept in vocabulary.names]
    assert len(set(folded)) == len(folded) > 1
    assert all(name == " ".join(name.split()) for name in vocabulary.names)
    assert not any("{" in name or "}" in name for name in vocabulary.names)


@pytest.mark.parametrize("name", TEMPLATES)
def test_shipped_templates_are_clean(name: str) -> None:
    templates = read_templates(name)
    assert len(set(templates)) == len(templates) >= 1
    for template in templates:
        assert template.count("{}") == template.count("{") == template.count("}") == 1
        assert template == " ".join(template.split())


def test_every_card_of_the_field_guide_is_whole() -> None:
    concepts = read_vocabulary("world-species").concepts
    for concept in concepts:
        card = concept.notes["card"]
        assert set(card) == set(ATTRIBUTES), concept.name
        assert all(value in ATTRIBUTES[attribute] for attribute, value in card.items()), concept.name
    assert len({tuple(concept.notes["card"].values()) for concept in concepts}) == len(concepts)


# ---- files of the user's own ------------------------------------------------------------------------------------------


def test_a_text_file_holds_one_name_a_line(tmp_path: Path) -> None:
    path = tmp_path / "dogs.txt"
    # As editors leave it: a byte order mark, CRLF, blank lines, comments, spaces.
    path.write_bytes("\ufeffred setter\r\n\r\n# a comment\r\n  Löwchen \r\n".encode())
    vocabulary = read_vocabulary(path)
    assert vocabulary.names == ("red setter", "Löwchen")
    assert vocabulary.title == "dogs"
    assert vocabulary.source == str(path)
    assert read_vocabulary(str(path)) == vocabulary


@pytest.mark.parametrize("suffix", [".yaml", ".yml"])
def test_a_yaml_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"dogs{suffix}"
    path.write_text("title: Dogs\nlicence: CC0\nconcepts:\n  - setter\n  - name: ' pug '\n    size: small\n    id: 7\n")
    vocabulary = read_vocabulary(path)
    assert (vocabulary.title, vocabulary.source, vocabulary.licence) == ("Dogs", "", "CC0")
    assert vocabulary.names == ("setter", "pug")
    assert vocabulary.concepts[0].notes == {}
    assert vocabulary.concepts[1].notes == {"size": "small", "id": 7}


def test_templates_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("# for drawings\na sketch of a {}\n\n{} in ink\n")
    assert read_templates(path) == ("a sketch of a {}", "{} in ink")


NOT_A_VOCABULARY = {
    "not YAML": (".yaml", b"concepts: [a, b", "not YAML"),
    "no such date": (".yaml", b"title: 2020-99-99\nconcepts: [a]", "not YAML"),
    "a list": (".yaml", b"- a\n- b", "expected a mapping with a list of concepts"),
    "no concepts": (".yaml", b"title: x", "expected a mapping with a list of concepts"),
    "concepts in words": (".yaml", b"concepts: a, b", "expected a mapping with a list of concepts"),
    "an empty file": (".yaml", b"", "expected a mapping with a list of concepts"),
    "an empty list": (".yaml", b"concepts: []", "no concepts"),
    "a number": (".yaml", b"concepts: [a, 7]", "concept 7 has no name.*quote it"),
    "yes": (".yaml", b"concepts: [a, yes]", "concept True has no name.*quote it"),
    "null": (".yaml", b"concepts: [a, null]\n", "concept None has no name"),
    "blank": (".yaml", b"concepts: [a, ' ']\n", "concept ' ' has no name"),
    "no name": (".yaml", b"concepts: [{title: a}]\n", "concept {'title': 'a'} has no name"),
    "a list as a name": (".yaml", b"concepts: [[a]]\n", r"concept \['a'\] has no name"),
    "twice": (".yaml", b"concepts: [b, a, {name: a}, b, c]\n", r"listed twice: a, b\."),
    "twice in text": (".txt", b"a\nb\na \n", r"listed twice: a\."),
    "only comments": (".txt", b"# a\n\n", "no concepts"),
    "Latin-1": (".txt", "Löwchen".encode("latin-1"), "not UTF-8 text.*byte 1"),
}


@pytest.mark.parametrize("case", NOT_A_VOCABULARY)
def test_what_is_not_a_vocabulary(tmp_path: Path, case: str) -> None:
    suffix, content, words = NOT_A_VOCABULARY[case]
    path = tmp_path / f"mine{suffix}"
    path.write_bytes(content)
    with pytest.raises(PromptError, match=words) as caught:
        read_vocabulary(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


NOT_TEMPLATES = {
    "no place": ("a photo\n", "'a photo' has 0 places"),
    "two places": ("{}\na {} and a {}\n", "'a {} and a {}' has 2 places"),
    "another place": ("a photo of a {name}\n", "has 0 places"),
    "nothing": ("", "no templates"),
    "only comments": ("# {}\n", "no templates"),
}


@pytest.mark.parametrize("case", NOT_TEMPLATES)
def test_what_is_not_a_template(tmp_path: Path, case: str) -> None:
    content, words = NOT_TEMPLATES[case]
    path = tmp_path / "mine.txt"
    path.write_text(content)
    with pytest.raises(PromptError, match=words) as caught:
        read_templates(path)
    assert str(path) in str(caught.value)


def test_check_templates() -> None:
    assert check_templates(("a {}", "{}"), "mine") == ("a {}", "{}")
    with pytest.raises(PromptError, match=r"^mine: no templates"):
        check_templates((), "mine")
    with pytest.raises(PromptError, match=r"^mine: template 'a' has 0 places"):
        check_templates(("{}", "a"), "mine")


@pytest.mark.parametrize("read", [read_vocabulary, read_templates])
@pytest.mark.parametrize(("kind", "words"), [("missing", "cannot be read"), ("folder", "cannot be read")])
def test_files_that_cannot_be_read(tmp_path: Path, read, kind: str, words: str) -> None:
    path = tmp_path / "mine.txt"
    if kind == "folder":
        path.mkdir()
    with pytest.raises(PromptError, match=words) as caught:
        read(path)
    assert str(path) in str(caught.value)


# ---- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("read", "name", "suggestion"),
    [
        (read_vocabulary, "world-specis", "world-species"),
        (read_templates, "phot", "photo"),
        (read_templates, "Plain", "plain"),
    ],
)
def test_a_misspelt_name_gets_a_suggestion(read, name: str, suggestion: str) -> None:
    with pytest.raises(PromptError, match=f"{name!r}.*Did you mean {suggestion!r}") as caught:
        read(name)
    assert ".txt" in str(caught.value)


def test_an_unknown_name_gets_the_list() -> None:
    with pytest.raises(PromptError) as caught:
        read_templates("zzz")
    assert "Did you mean" not in str(caught.value)
    assert all(name in str(caught.value) for name in TEMPLATES)


def test_prompts_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vocabularies").mkdir()
    (tmp_path / "templates").mkdir()
    (tmp_path / "vocabularies" / "dogs.yaml").write_text("concepts: [pug, setter]\n")
    (tmp_path / "templates" / "photo.txt").write_text("my own {}\n")
    shipped = read_templates("photo")
    monkeypatch.setenv("CONCEPT_CAM_PROMPTS", str(tmp_path))
    assert read_vocabulary("dogs").names == ("pug", "setter")
    assert read_templates("photo") == ("my own {}",)
    # What ships stays within reach: the embedded world stands on it.
    assert "ember finch" in read_vocabulary("world-species").names
    with pytest.raises(PromptError, match=r"There are aircraft, .*dogs, .*world-attributes"):
        read_vocabulary("cats")
    monkeypatch.setenv("CONCEPT_CAM_PROMPTS", "")
    assert read_templates("photo") == shipped


def test_prompts_from_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong path in the variable is named: a list of nothing explains nothing."""
    folder = tmp_path / "nowhere"
    monkeypatch.setenv("CONCEPT_CAM_PROMPTS", str(folder))
    with pytest.raises(PromptError, match=r"CONCEPT_CAM_PROMPTS names .* not a folder") as caught:
        read_templates("photo")
    assert str(folder) in str(caught.value)
