"""What a shell may complete: names that are known without importing a model library."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def among(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """A completion of typer that offers some of the names.

    Example:
        >>> among(lambda: ["crop", "pad", "native"])("p")
        ['pad']
    """

    def complete(incomplete: str) -> list[str]:
        return [name for name in names() if name.startswith(incomplete)]

    return complete


def methods() -> list[str]:
    """The names of the methods, read from the source of their cards: to import it would import torch.

    Example:
        >>> methods()[:2]
        ['ablation_cam', 'class_stream']
    """
    tree = ast.parse((_PACKAGE / "methods" / "__init__.py").read_text(encoding="utf-8"))
    froms = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    imported = {one.name for node in froms if (node.module or "").startswith("concept_cam.methods.") for one in node.names}
    (cards,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "_cards")
    called = {node.func for node in ast.walk(cards) if isinstance(node, ast.Call)}
    return sorted({node.id for node in ast.walk(cards) if isinstance(node, ast.Name) and node not in called} & imported)


def models() -> list[str]:
    """The embedded encoders, the examples of ``concept-cam models``, and what open_clip has configurations of.

    Example:
        >>> "world" in models(), "ViT-B-16" in models()
        (True, True)
    """
    from concept_cam.families import FAMILIES
    from concept_cam.presets import PRESETS

    examples = (family.example for family in FAMILIES if "(" not in family.example)
    found = find_spec("open_clip")
    folders = [Path(place, "model_configs") for place in (found and found.submodule_search_locations) or ()]
    configured = sorted(file.stem for folder in folders for file in folder.glob("*.json"))
    return list(dict.fromkeys((*PRESETS, *examples, *configured)))


def vocabularies() -> list[str]:
    """The names of the vocabularies.

    Example:
        >>> "birds" in vocabularies()
        True
    """
    return _named("vocabularies")


def templates() -> list[str]:
    """The names of the templates.

    Example:
        >>> "photo" in templates()
        True
    """
    return _named("templates")


def _named(kind: str) -> list[str]:
    from concept_cam.prompts import prompts_folders

    return sorted({file.stem for folder in prompts_folders() for file in (folder / kind).iterdir()})
