"""TEXT IN: templates and vocabularies, plain data from ``prompts/`` or from files of the user."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from concept_cam.errors import PromptError, did_you_mean, one_line, refused_as
from concept_cam.plainyaml import read_yaml
from concept_cam.textfiles import lines_of, table_of, text_of

_MAX_BYTES = 2**24
"""Largest size of a file of a vocabulary or of templates."""

_NAMES = ("name", "label", "class", "class_name", "species", "concept", "text")
"""Accepted titles of the column of names; of several the first counts."""

_SHOWN = 80
"""Largest number of characters of a file that a message quotes."""


@dataclass(frozen=True)
class Concept:
    """A name with the notes of its vocabulary.

    Attributes:
        name: of the concept.
        notes: further columns or keys of its entry.
    """

    name: str
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Vocabulary:
    """A named list of concepts with its source.

    Attributes:
        title: of the list.
        source: where it comes from.
        licence: of the list.
        concepts: in their order.
        parent: the whole, if the concepts are parts of one: "bird" for beak and wing.
    """

    title: str
    source: str
    licence: str
    concepts: tuple[Concept, ...]
    parent: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the concepts, in their order."""
        return tuple(concept.name for concept in self.concepts)


def prompts_folders() -> tuple[Path, ...]:
    """The folders of templates and vocabularies: that of ``CONCEPT_CAM_PROMPTS``, if it is set, then that of the package.

    Raises:
        PromptError: the environment variable does not name a folder.

    Example:
        >>> from concept_cam.prompts import prompts_folders
        >>> prompts_folders()[-1].name
        'prompts'
    """
    installed = Path(str(files("concept_cam"))) / "prompts"
    # An editable install runs from the source tree, where prompts/ lies beside the package.
    shipped = installed if installed.is_dir() else Path(__file__).parents[1] / "prompts"
    own = os.environ.get("CONCEPT_CAM_PROMPTS")
    if own and not Path(own).is_dir():
        raise PromptError(f"CONCEPT_CAM_PROMPTS names {own}, which is not a folder; unset it or correct it.")
    return (Path(own), shipped) if own else (shipped,)


def read_vocabulary(name: str | os.PathLike[str]) -> Vocabulary:
    """Read a vocabulary by the name of a file in ``prompts/vocabularies/``, or from a ``.yaml``, ``.csv`` or ``.txt`` file.

    A text file has one name per line. A CSV file has a column ``name`` (or ``label``, ``class``, ``species``); its other
    columns become the notes of the concept. With a column ``parent``, the other columns are attributes of parts, each with a
    list of values separated by semicolons. A YAML file has ``title``, ``source``, ``licence`` and ``concepts``, each a name or
    a mapping with a ``name``; aliases and tags are not allowed.

    Raises:
        PromptError: there is no such vocabulary, or the file is not in that form; the message says where.

    Example:
        >>> from concept_cam import read_vocabulary
        >>> read_vocabulary("world-species").names[:2]
        ('ember finch', 'frost finch')
    """
    path = _find("vocabularies", name, ".yaml")
    with refused_as(PromptError, path):
        text = text_of(path, _MAX_BYTES)
        if path.suffix.lower() == ".txt":
            return Vocabulary(path.stem, str(path), "", _concepts(path, list(_lines(text))))
        if path.suffix.lower() == ".csv":
            return _of_table(path, text)
        return _of_yaml(path, text)


@lru_cache(maxsize=4)
def _of_yaml(path: Path, text: str) -> Vocabulary:
    data = read_yaml(text)
    if not isinstance(data, dict) or not isinstance(data.get("concepts"), list):
        raise PromptError(f"{path}: expected a mapping with a list of concepts.")
    about = {key: data.get(key) or "" for key in ("title", "source", "licence", "parent")}
    for key, value in about.items():
        if isinstance(value, list | dict):
            raise PromptError(f"{path}: {key} is {one_line(repr(value), _SHOWN)}; expected a text.")
    concepts = _concepts(path, [_with_values(path, entry, data.get("values")) for entry in data["concepts"]])
    return Vocabulary(**{key: str(value) for key, value in about.items()}, concepts=concepts)


def _with_values(path: Path, entry: Any, shared: Any) -> Any:
    """An entry in which the names of shared lists of ``values`` are replaced by the lists."""
    if not isinstance(entry, dict) or not isinstance(entry.get("attributes"), dict):
        return entry
    lists = shared if isinstance(shared, dict) else {}
    attributes = dict(entry["attributes"])
    for attribute, values in attributes.items():
        if isinstance(values, str):
            if values not in lists:
                hint = did_you_mean(values, map(str, lists))
                told = f"{one_line(repr(values), _SHOWN)}, which is not a list of `values`"
                raise PromptError(
                    f"{path}: {one_line(attribute, _SHOWN)} of {one_line(entry.get('name'), _SHOWN)} is {told}.{hint}"
                )
            attributes[attribute] = lists[values]
    return {**entry, "attributes": attributes}


def _of_table(path: Path, text: str) -> Vocabulary:
    found = table_of(text)
    named = {column.casefold(): column for column in reversed(found.header)}
    name = next((named[column] for column in _NAMES if column in named), None)
    if name is None:
        header = one_line(", ".join(found.header), 200)
        raise PromptError(f"{path}: no column of names, such as {', '.join(_NAMES[:4])}; it has the columns {header}.")
    if found.problems:
        raise PromptError(f"{path}: {found.problems[0]}.")
    about: dict[str, str] = {}
    for key in ("title", "source", "licence", "parent"):
        told = {row[named[key]].strip() for _, row in found.rows if key in named and named[key] in row}
        if len(told) > 1:
            raise PromptError(f"{path}: the column {key} says {one_line(', '.join(sorted(told)), _SHOWN)}; expected one.")
        about[key] = told.pop() if told else ""
    own = [column for column in found.header if column and column != name and column.casefold() not in about]
    entries: list[dict[str, Any]] = []
    for number, row in found.rows:
        if name not in row:
            raise PromptError(f"{path}: line {number} has no {name}; expected one in each row.")
        notes: dict[str, Any] = {column: row[column] for column in own if column in row}
        if about["parent"]:
            values = {column: [value.strip() for value in text.split(";")] for column, text in notes.items()}
            notes = {"attributes": {column: [value for value in of_one if value] for column, of_one in values.items()}}
        entries.append({**notes, "name": row[name]})
    about |= {"title": about["title"] or path.stem, "source": about["source"] or str(path)}
    return Vocabulary(**about, concepts=_concepts(path, entries))


def read_templates(name: str | os.PathLike[str]) -> tuple[str, ...]:
    """Read templates by the name of a file in ``prompts/templates/``, or from a file: one sentence per line, with one ``{}``.

    Raises:
        PromptError: there are no such templates, or a line does not have exactly one ``{}``.

    Example:
        >>> from concept_cam import read_templates
        >>> read_templates("photo")
        ('a photo of a {}.',)
    """
    path = _find("templates", name, ".txt")
    with refused_as(PromptError, path):
        return check_templates(_lines(text_of(path, _MAX_BYTES)), str(path))


def check_templates(templates: tuple[str, ...], source: str) -> tuple[str, ...]:
    """The templates, after a check.

    Args:
        templates: sentences.
        source: where they come from, for the message.

    Raises:
        PromptError: there are no templates, or one does not have exactly one ``{}``.

    Example:
        >>> from concept_cam.prompts import check_templates
        >>> check_templates(("a photo of a {}.",), "mine")
        ('a photo of a {}.',)
    """
    for template in templates:
        if template.count("{}") != 1:
            shown, count = one_line(repr(template), _SHOWN), template.count("{}")
            raise PromptError(f"{source}: template {shown} has {count} places {{}}; expected one.")
    if not templates:
        raise PromptError(f"{source}: no templates; expected one sentence a line, with {{}} for the concept.")
    return templates


def _find(kind: str, name: str | os.PathLike[str], suffix: str) -> Path:
    path = Path(name)
    endings = (".txt", ".csv", ".yaml", ".yml") if suffix == ".yaml" else (".txt",)
    if path.suffix.lower() in endings:
        return path
    found = {file.stem: file for folder in reversed(prompts_folders()) for file in (folder / kind).glob(f"*{suffix}")}
    if str(name) not in found:
        hint = did_you_mean(str(name), found)
        raise PromptError(
            f"No {kind} {one_line(repr(str(name)), _SHOWN)}.{hint} There are {', '.join(sorted(found))}; "
            f"or give a file ({', '.join(endings)})."
        )
    return found[str(name)]


def _lines(text: str) -> tuple[str, ...]:
    stripped = (line.strip() for line in lines_of(text))
    return tuple(line for line in stripped if line and not line.startswith("#"))


def _concepts(path: Path, entries: list[Any]) -> tuple[Concept, ...]:
    concepts = []
    for entry in entries:
        notes = dict(entry) if isinstance(entry, dict) else {"name": entry}
        name = notes.pop("name", None)
        if not isinstance(name, str) or not name.strip():
            shown = one_line(repr(entry), _SHOWN)
            raise PromptError(
                f"{path}: concept {shown} has no name; a name is text (quote it if YAML reads a number or yes/no)."
            )
        concepts.append(Concept(name.strip(), notes))
    counts = Counter(concept.name for concept in concepts)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise PromptError(f"{path}: listed twice: {one_line(', '.join(twice), 3 * _SHOWN)}.")
    if not concepts:
        raise PromptError(f"{path}: no concepts.")
    return tuple(concepts)
