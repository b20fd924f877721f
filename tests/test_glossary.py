"""One word for one thing: the words that the glossary replaced are in no identifier, docstring, message, help text or page."""

from __future__ import annotations

import ast
import re
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "concept_cam"
BESIDE = ("benchmarks", "docs", "examples", "workshop")
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "examples" / "README.md",
        ROOT / "prompts" / "README.md",
        *(ROOT / "docs").rglob("*.md"),
    ]
)
SOURCES = sorted([*PACKAGE.rglob("*.py"), *(path for name in BESIDE for path in (ROOT / name).glob("*.py"))])

WAITING: tuple[str, ...] = ()

WORDS = {
    "alpha": "strength (tolerance for PCK)",
    "distractor": "reference",
    "distractors": "references",
    "doppelganger": "sanity check",
    "doppelgangers": "sanity checks",
    "doubt": "test by masking",
    "doubts": "tests by masking",
    "fieldguide": "world",
    "finer": "contrastive",
    "judge": "class probabilities",
    "judges": "class probabilities",
    "looker": "examiner",
    "picture": "image",
    "pictures": "images",
    "rival": "twin (of a data set), runner_up, or one of rivals",
    "scoring": "rivals",
    "stranger": "randomized",
}
"""Parts of an identifier that are not to be used, and what to use."""

PHRASES = {
    r"sp(?:eak|eaks|eaking|oke) (?:for|against)": "is evidence for, is evidence against",
    r"(?:take|takes|taken|taking|took) for": "predicted as, confused with",
    r"(?:go|goes|going|went) by(?! one\b)": "relies on",
    r"(?:go|goes|going|gone|went) on with": "is resumed, continues with",
    r"left out": "is skipped, is removed",
    r"(?:is|are|was|were|be|been|being) covered": "is masked",
    r"(?:pixels?|parts?) (?:is|are) gone": "is masked",
    r"h(?:eld|old|olds|olding) against": "is compared with",
    r"of no meaning": "random",
    r"(?:base and )?finer (?:map|maps|form|one|ones)": "contrastive map",
    r"base and finer": "base and contrastive",
    r"what (?:the|a|an|each|your|its) \w+ makes of": "the output of",
    r"scoring:\w+": "rivals:",
    r"main category": "target",
    r"distractors?": "references",
    r"d(?:oubt|oppelg[aä]nger)s?": "test by masking, sanity check",
    r"looker": "examiner",
    r"Judge": "class probabilities",
    r"fieldguide": "world",
    r"field guide": "embedded world",
    r"pictures?": "image",
    r"rival": "twin, runner-up",
    r"in secret": "",
    r"are alike": "are similar",
    r"how alike": "how similar",
    r"tell(?:s)? (?:it|them|the \w+|each \w+) from": "distinguishes from",
    r"costs? what": "takes the time of",
    r"of the evidence for what": "share of the evidence for",
}
"""Phrases that are not to be used (whole words), and what to say."""

ALLOWED = {
    "concept_cam/world/captions.py": {"pictures?"},  # a sentence that the embedded encoder was trained on
    "concept_cam/datasets/table.py": {"pictures?"},  # a title of a column that people use
    "docs/evaluation.md": {"pictures?"},  # the same title
}

PATTERNS = {
    phrase: re.compile(rf"(?<![\w-]){phrase}(?![\w-])", 0 if phrase in ("Judge",) else re.IGNORECASE) for phrase in PHRASES
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def waits(path: Path) -> bool:
    return name_of(path).startswith(WAITING)


CHECKED = [path for path in SOURCES if not waits(path)]


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def identifiers(path: Path) -> set[str]:
    """What a file names: functions, classes, arguments, attributes and variables that it defines."""
    found = {path.stem}
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.id if isinstance(node, ast.Name) else node.attr)
        elif isinstance(node, ast.alias) and node.asname:
            found.add(node.asname)
    return found


def words_of(identifier: str) -> list[str]:
    """The words of a name in snake or camel case; Finer-CAM is one."""
    parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", re.sub(r"(?i)finer_?cam", "", identifier))
    return [part.lower() for part in parts]


def texts(path: Path) -> list[tuple[int, str]]:
    """All texts of a file with their lines: docstrings, messages, help texts; and comments."""
    found = [
        (node.lineno, node.value)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    lines = path.read_text(encoding="utf-8").splitlines()
    return found + [(k, line.partition("# ")[2]) for k, line in enumerate(lines, 1) if line.lstrip().startswith("# ")]


def said(name: str, found: list[tuple[int, str]]) -> list[str]:
    problems = []
    for line, text in found:
        flat = re.sub(r"\s+", " ", text)
        for phrase, pattern in PATTERNS.items():
            for match in pattern.finditer(flat):
                if phrase not in ALLOWED.get(name, ()):
                    problems.append(f"{name}:{line}: {match[0]!r} in {flat[max(0, match.start() - 40) : match.end() + 40]!r}")
                    problems[-1] += f"; say {PHRASES[phrase]}" if PHRASES[phrase] else ""
    return problems


@pytest.mark.parametrize("path", CHECKED, ids=name_of)
def test_identifiers_use_the_words_of_the_glossary(path):
    problems = [
        f"{identifier}: {word!r}; say {WORDS[word]}"
        for identifier in sorted(identifiers(path))
        for word in words_of(identifier)
        if word in WORDS
    ]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("path", CHECKED, ids=name_of)
def test_docstrings_and_messages_use_the_words_of_the_glossary(path):
    problems = said(name_of(path), texts(path))
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_pages_use_the_words_of_the_glossary(path):
    problems = said(name_of(path), [(1, path.read_text(encoding="utf-8"))])
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    "text",
    [
        "What speaks for the bird.",
        "the class it is taken for",
        "what a model goes by",
        "An interrupted run is gone on with.",
        "class Judge",
        "a Doubt",
        "Doppelgangers",
        "the Looker",
        "base and finer maps",
        "the picture",
        "--references scoring:3",
        "its rival",
    ],
)
def test_the_words_that_were_replaced_are_found(text):
    assert said("somewhere", [(1, text)])


@pytest.mark.parametrize("text", ["Finer-CAM", "the three rivals", "rivals:3", "a finer grid", "taken from it", "an image"])
def test_the_words_of_the_field_are_not(text):
    assert not said("somewhere", [(1, text)])


# ---- the glossary itself ----------------------------------------------------------------------------------------------


GLOSSARY = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
NAMED = {
    "Backbone": "concept_cam.Backbone",
    "ConceptBank": "concept_cam.ConceptBank",
    "ConceptField": "concept_cam.ConceptField",
    "Comparison.direction": "concept_cam.Comparison.direction",
    "Example.twin": "concept_cam.datasets.Example.twin",
    "Frame": "concept_cam.images.Frame",
    "Localization.base_map": "concept_cam.Localization.base_map",
    "Localization.heatmap": "concept_cam.Localization.heatmap",
    "Localization.map": "concept_cam.Localization.map",
    "Localization.peak": "concept_cam.Localization.peak",
    "Localizer.fields": "concept_cam.Localizer.fields",
    "PartVocabulary": "concept_cam.parts.PartVocabulary",
    "Placement": "concept_cam.images.Placement",
    "Site": "concept_cam.Site",
    "TokenLayout": "concept_cam.TokenLayout",
    "Vocabulary": "concept_cam.prompts.Vocabulary",
    "against=": "",
    "by_score": "concept_cam.by_score",
    "by_similarity": "concept_cam.by_similarity",
    "class_stream": "concept_cam.methods.class_stream",
    "explorer.write_explorer": "concept_cam.explorer.write_explorer",
    "load": "concept_cam.load",
    "nearest(k)": "concept_cam.nearest",
    "own_streams": "concept_cam.methods.own_streams",
    "read_image": "concept_cam.images.read_image",
    "relative_drop": "concept_cam.metrics.relative_drop",
    "rivals(k)": "concept_cam.rivals",
    "shares_of": "concept_cam.methods.shares_of",
    "store.Match": "concept_cam.store.Match",
    "store.Store": "concept_cam.store.Store",
    "trace": "concept_cam.trace",
    "uniform": "concept_cam.uniform",
    "world.Plate": "concept_cam.world.Plate",
    "wrap": "concept_cam.wrap",
}
"""Where the names in code of the glossary are."""


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_names_in_code_exist():
    for name, home in NAMED.items():
        assert f"`{name}`" in GLOSSARY
        if not home:
            continue
        module, _, rest = home.partition(".")
        found, parts = import_module(module), rest.split(".")
        for k, part in enumerate(parts):
            if not hasattr(found, part) and part in getattr(found, "__annotations__", ()):
                break
            if not hasattr(found, part):
                found = import_module(".".join([module, *parts[: k + 1]]))
                continue
            found = getattr(found, part)


def test_each_term_is_defined_in_one_sentence():
    entries = re.findall(r"^### (.+)\n((?:.+\n)+)", GLOSSARY, re.M)
    assert len(entries) >= 40
    assert len({term.casefold() for term, _ in entries}) == len(entries)
    for term, text in entries:
        assert text.strip().endswith((".", "`.")), term
        assert len(re.findall(r"\.\s+[A-Z]", text)) == 0, f"{term}: more than one sentence"


@pytest.mark.parametrize("path", [path for path in PAGES if path.parent in (ROOT, ROOT / "docs")], ids=name_of)
def test_pages_link_to_the_glossary(path):
    if path.name not in ("glossary.md", "CONTRIBUTING.md") and not waits(path):
        assert "glossary.md" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_to_headings_lead_somewhere(path):
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", path.read_text(encoding="utf-8")):
        page = path.parent / target if target else path
        assert anchor in anchors(page.read_text(encoding="utf-8")), f"{target}#{anchor}"
