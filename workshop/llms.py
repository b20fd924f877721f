"""Writes docs/llms.txt and docs/llms-full.txt, which the site serves to language models: ``python -m workshop.llms``.

The first is enough to make a map, in the format of llmstxt.org. The second has all pages but those of the API.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from typer.main import get_command

from concept_cam import ConceptField, Localization, Localizer, drawing, errors, load, nearest, rivals, wrap
from concept_cam.cli import app
from concept_cam.images import read_image

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

COMMANDS: dict[str, Any] = vars(get_command(app))["commands"]

CALLS: dict[str, Callable[..., Any]] = {
    "load": load,
    "wrap": wrap,
    "read_image": read_image,
    "Localizer": Localizer.__init__,
    "localizer": Localizer.__call__,
    "localizer.batch": Localizer.batch,
    "localizer.stream": Localizer.stream,
    "localizer.sweep": Localizer.sweep,
    "localizer.fields": Localizer.fields,
    "nearest": nearest,
    "rivals": rivals,
    "result.heatmap": Localization.heatmap,
    "result.mask": Localization.mask,
    "result.boxes": Localization.boxes,
    "result.peak": Localization.peak,
    "result.save": Localization.save,
    "field": ConceptField.__call__,
    "drawing.overlay": drawing.overlay,
    "drawing.side_by_side": drawing.side_by_side,
}
"""What is needed for a first map, as it is called."""


def navigation() -> list[tuple[str, Path]]:
    """Section and file of each page, in the order of mkdocs.yml."""
    found: list[tuple[str, Path]] = []
    for entry in yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"]:
        sections = entry if isinstance(entry, dict) else {"Start": [entry]}
        found += [(section, DOCS / page) for section, listed in sections.items() for page in listed]
    return found


def title(path: Path) -> str:
    """The heading of a page."""
    return path.read_text("utf-8").partition("\n")[0].removeprefix("# ")


def call(name: str, function: Callable[..., Any]) -> str:
    """A function as it is called: name, arguments with their defaults, and what comes back."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assert isinstance(tree, ast.FunctionDef)
    arguments = re.sub(r"^(self|cls)(, )?", "", ast.unparse(tree.args))
    returned = "" if tree.returns is None or name == "Localizer" else f" -> {ast.unparse(tree.returns)}"
    return f"{name}({arguments}){returned}"


def summary(path: Path) -> str:
    """The first sentence of a page."""
    text = re.sub(r"^#.*\n|^\*.*\*\n|^<!--.*\n", "", path.read_text("utf-8"), flags=re.M).strip().split("\n\n")[0]
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(text.split()))
    return re.split(r"(?<=[.?])\s+(?=[A-Z`])", text)[0]


def code_of(page: Path) -> list[str]:
    """The blocks of code of a page, as they stand."""
    return re.findall(r"^```(?:python|bash)\n.*?^```$", page.read_text("utf-8"), re.M | re.S)


def mistakes() -> str:
    """The exceptions of the library and what each means."""
    kinds = [kind for kind in vars(errors).values() if inspect.isclass(kind) and kind.__module__ == errors.__name__]
    return "\n".join(f"- `{kind.__name__}`: {str(inspect.getdoc(kind)).splitlines()[0]}" for kind in kinds)


def commands() -> str:
    """The commands, and what each does."""
    return "\n".join(f"- `{name}`: {one.get_short_help_str(200)}" for name, one in COMMANDS.items())


def options(command: str) -> str:
    """The options of a command, and what each does."""
    found = []
    for one in COMMANDS[command].params:
        if not one.opts[0].startswith("--") or one.name == "help":
            continue
        told = " ".join((one.help or "").split())
        if one.is_flag:
            told = f"(no value) {told}"
        elif one.default is not None and "[default" not in told:
            told += f" [default: {one.default}]"
        found.append(f"- {', '.join(f'`{name}`' for name in (*one.opts, *one.secondary_opts))}: {told}")
    return "\n".join(found)


def short() -> str:
    """The text of llms.txt."""
    install, first, python, real, real_python = code_of(DOCS / "index.md")
    lists: dict[str, list[str]] = {}
    for section, path in navigation():
        link = path.relative_to(DOCS).with_suffix(".html").as_posix()
        lists.setdefault(section, []).append(f"- [{title(path)}]({link}): {summary(path)}")
    signatures = "\n".join(call(name, function) for name, function in CALLS.items())
    template = (Path(__file__).parent / "llms.template.md").read_text("utf-8")
    filled = template.format(
        install=install,
        first=first,
        python=python,
        real=real,
        real_python=real_python,
        signatures=signatures,
        commands=commands(),
        options=options("localize"),
        errors=mistakes(),
    )
    return filled + "".join(f"\n## {section}\n\n" + "\n".join(links) + "\n" for section, links in lists.items())


def full() -> str:
    """The text of llms-full.txt."""
    told = [path for _, path in navigation() if path.parent == DOCS]
    return "\n".join(f"<!-- {path.name} -->\n\n{path.read_text('utf-8')}" for path in told)


def main() -> None:
    """Write both files."""
    (DOCS / "llms.txt").write_text(short(), "utf-8")
    (DOCS / "llms-full.txt").write_text(full(), "utf-8")


if __name__ == "__main__":
    main()
