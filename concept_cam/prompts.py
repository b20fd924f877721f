"""TEXT IN: templates and vocabularies, plain data from ``prompts/`` or from files of the user's own."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from concept_cam.errors import PromptError, did_you_mean


@dataclass(frozen=True)
class Concept:
    """A name, and whatever else its vocabulary says about it."""

    name: str
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Vocabulary:
    """Concepts that belong together, with where they come from; ``parent`` is what they are parts of, if they are."""

    title: str
    source: str
    licence: str
    concepts: tuple[Concept, ...]
    parent: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The names alone, in their order."""
        return tuple(concept.name for concept in self.concepts)


def prompts_folders() -> tuple[Path, ...]:
    """Where the data lies: in ``CONCEPT_CAM_PROMPTS`` first, if that is set, then in the package or beside its source.

    Raises:
        PromptError: the variable names something that is no folder.
    """
    installed = Path(str(files("concept_cam"))) / "prompts"
    # An editable install runs from the source tree, where prompts/ lies beside the package.
    shipped = installed if installed.is_dir() else Path(__file__).parents[1] / "prompts"
    own = os.environ.get("CONCEPT_CAM_PROMPTS")
    if own and not Path(own).is_dir():
        raise PromptError(f"CONCEPT_CAM_PROMPTS names {own}, which is no folder; unset it or set it right.")
    return (Path(own), shipped) if own else (shipped,)


def read_vocabulary(name: str | os.PathLike[str]) -> Vocabulary:
    """Read a vocabulary by the name of a file in ``prompts/vocabularies/``, or from a ``.yaml`` or ``.txt`` file.

    A text file holds one name a line. A YAML file holds ``title``, ``source``, ``licence`` and ``concepts``, each a name or a
    mapping with a ``name``.

    Raises:
        PromptError: there is no such vocabulary, or it is not of that form; the message says where.

    Example:
        >>> from concept_cam import read_vocabulary
        >>> read_vocabulary("fieldguide-species").names[:2]
        ('ember finch', 'frost finch')
    """
    path = _find("vocabularies", name, ".yaml")
    text = _read_text(path)
    if path.suffix == ".txt":
        return Vocabulary(path.stem, str(path), "", _concepts(path, list(_lines(text))))
    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise PromptError(f"{path}: not YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(data, dict) or not isinstance(data.get("concepts"), list):
        raise PromptError(f"{path}: expected a mapping with a list of concepts.")
    about = {key: str(data.get(key) or "") for key in ("title", "source", "licence", "parent")}
    return Vocabulary(**about, concepts=_concepts(path, data["concepts"]))


def read_templates(name: str | os.PathLike[str]) -> tuple[str, ...]:
    """Read templates by the name of a file in ``prompts/templates/``, or from a file: one sentence a line, with one ``{}``.

    Raises:
        PromptError: there are no such templates, or a line has not exactly one ``{}``.

    Example:
        >>> from concept_cam import read_templates
        >>> read_templates("photo")
        ('a photo of a {}.',)
    """
    path = _find("templates", name, ".txt")
    return check_templates(_lines(_read_text(path)), str(path))


def check_templates(templates: tuple[str, ...], source: str) -> tuple[str, ...]:
    """The templates, if there are any and each has exactly one ``{}``."""
    for template in templates:
        if template.count("{}") != 1:
            raise PromptError(f"{source}: template {template!r} has {template.count('{}')} places {{}}; expected one.")
    if not templates:
        raise PromptError(f"{source}: no templates; expected one sentence a line, with {{}} for the concept.")
    return templates


def _find(kind: str, name: str | os.PathLike[str], suffix: str) -> Path:
    path = Path(name)
    if path.suffix in (".txt", ".yaml", ".yml"):
        return path
    found = {file.stem: file for folder in reversed(prompts_folders()) for file in (folder / kind).glob(f"*{suffix}")}
    if str(name) not in found:
        hint = did_you_mean(str(name), found)
        endings = ".txt or .yaml" if suffix == ".yaml" else suffix
        raise PromptError(f"No {kind} {str(name)!r}.{hint} There are {', '.join(sorted(found))}; or give a file ({endings}).")
    return found[str(name)]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise PromptError(f"{path}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise PromptError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}).") from error


def _lines(text: str) -> tuple[str, ...]:
    stripped = (line.strip() for line in text.splitlines())
    return tuple(line for line in stripped if line and not line.startswith("#"))


def _concepts(path: Path, entries: list[Any]) -> tuple[Concept, ...]:
    concepts = []
    for entry in entries:
        notes = dict(entry) if isinstance(entry, dict) else {"name": entry}
        name = notes.pop("name", None)
        if not isinstance(name, str) or not name.strip():
            raise PromptError(
                f"{path}: concept {entry!r} has no name; a name is text (quote it if YAML reads a number or yes/no)."
            )
        concepts.append(Concept(name.strip(), notes))
    counts = Counter(concept.name for concept in concepts)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise PromptError(f"{path}: listed twice: {', '.join(twice)}.")
    if not concepts:
        raise PromptError(f"{path}: no concepts.")
    return tuple(concepts)
