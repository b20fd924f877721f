"""What a docstring has to have: arguments from three parameters on, and an example where a function is exported."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from types import FunctionType

import pytest

ROOT = Path(__file__).parents[1]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


# A command's parameters are its options, which have help texts.
MODULES = sorted(module_of(path) for path in (ROOT / "concept_cam").rglob("*.py") if "cli" not in path.relative_to(ROOT).parts)
MODULES.remove("concept_cam.__main__")  # it hears signals from its first line on

WAITING_FOR_ARGUMENTS: tuple[str, ...] = ()
WAITING_FOR_EXAMPLES: tuple[str, ...] = ()
"""Packages and modules whose docstrings are being written; empty these, and the test names what is left to write."""


def public_functions(module: str) -> Iterator[tuple[str, FunctionType, tuple[type, ...]]]:
    """Functions and methods that a module defines, with the classes that a method may have its documentation from."""
    for name, found in vars(import_module(module)).items():
        if name.startswith("_") or getattr(found, "__module__", "") != module:
            continue
        if inspect.isfunction(found):
            yield name, found, ()
        elif inspect.isclass(found):
            for own, method in vars(found).items():
                function = getattr(method, "__func__", method)
                if not own.startswith("_") and inspect.isfunction(function):
                    yield f"{name}.{own}", function, found.__mro__[1:]


def parameters(function: FunctionType) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


def without_arguments(module: str) -> list[str]:
    found = []
    for name, function, bases in public_functions(module):
        texts = [function.__doc__, *(getattr(vars(base).get(function.__name__), "__doc__", "") for base in bases)]
        if len(parameters(function)) >= 3 and not any("Args:" in (text or "") for text in texts):
            found.append(name)
    return found


@cache
def exporting() -> list[str]:
    """Modules that say what they export."""
    return [module for module in MODULES if hasattr(import_module(module), "__all__")]


def without_example(module: str) -> list[str]:
    exported = {name: getattr(import_module(module), name) for name in import_module(module).__all__}
    return [name for name, found in exported.items() if inspect.isfunction(found) and ">>> " not in (found.__doc__ or "")]


def waits(module: str, waiting: tuple[str, ...]) -> bool:
    return f"{module}.".startswith(tuple(f"concept_cam.{name}." for name in waiting))


@pytest.mark.parametrize("module", MODULES)
def test_three_parameters_are_documented(module):
    if not waits(module, WAITING_FOR_ARGUMENTS):
        assert without_arguments(module) == []


@pytest.mark.parametrize("module", MODULES)
def test_every_argument_that_is_documented_is_a_parameter_and_the_other_way_round(module):
    """In the order of the parameters; two may share a line: ``first, second: ...``."""
    for name, function, _ in public_functions(module):
        doc = inspect.getdoc(function) or ""
        if "Args:" in doc:
            section = doc.split("Args:\n")[1].split("\n\n")[0]
            lines = [line[4:] for line in section.splitlines() if line[4:5].strip()]
            told = [word.strip(" *`") for line in lines for word in line.split(":")[0].split(",")]
            assert told == parameters(function), name


@pytest.mark.parametrize("module", MODULES)
def test_what_is_exported_has_an_example(module):
    if module in exporting() and not waits(module, WAITING_FOR_EXAMPLES):
        assert without_example(module) == []
