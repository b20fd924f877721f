"""Every option of every command, with values that nobody should give: one line, exit code 2, and no work before."""

from __future__ import annotations

import os
from typing import get_args, get_type_hints

import pytest
from typer.main import get_command

from concept_cam import cli, loading, world
from concept_cam.errors import LONGEST, BackboneError

COMMANDS = get_command(cli.app).commands
TEXTS = {
    "nothing": "",
    "a space": " ",
    "escape codes": "\x1b[31mred\x07",
    "line breaks": "a\nb\r\nc\u2028d",
    "a turned name": "photo\u202egnp.exe",
    "no UTF-8": "caf\udce9",
    "a null": "a\0b",
    "too long": "x" * 5000,
    "a path upwards": "../" * 50 + "nothing",
    "braces": "{}{0}{x}%s%d",
    "markup": "[bold]x[/nothing]",
    "a number": "-1",
    "no number": "nan",
    "too much": "9" * 400,
    "a list": ",,,",
    "a formula": "=cmd|' /C calc'!A0",
    "a device": "/dev/zero",
    "a pipe": "pipe",
    "a folder": "folder",
}
NUMBERS = ("", "nan", "inf", "-inf", "1e999", "-1", "-1e-9", "9" * 400, "0x10", "1_0_", "much", "1,2", "1\n2")
REFUSED_AT_ONCE = {"nothing", "a space", "a device", "a pipe"}
"""Texts that no option can mean."""


def options():
    """Each parameter of each command, but for flags and help."""
    for name, command in COMMANDS.items():
        for param in command.params:
            if param.name != "help" and not getattr(param, "is_flag", False):
                yield pytest.param(name, param, id=f"{name} {param.opts[0]}")


@pytest.fixture
def call(command_line, monkeypatch, tmp_path):
    """With everything that takes time refused in the place where it would begin."""

    def work(*_, **__):
        raise BackboneError("the work would begin")

    monkeypatch.setattr(loading, "load", work)
    monkeypatch.setattr(world, "localizer", work)
    monkeypatch.setattr(world, "draw_species", work)
    monkeypatch.setattr("concept_cam.world.heldout.write_set", work)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "photo.png").write_bytes(b"not looked at")
    return command_line


def line_of(ran):
    """The one line of a mistake."""
    code, out, err = ran
    assert (code, out) == (2, ""), ran
    (line,) = err.splitlines()
    assert line.startswith("concept-cam: ")
    assert line.isprintable()
    assert len(line) <= LONGEST + 20
    assert "Traceback" not in line
    assert "not foreseen" not in line
    return line


def arguments(command, param, *values):
    """With what the command needs besides."""
    needed = [p for p in COMMANDS[command].params if p.required and p is not param]
    given = ["photo.png" if p.name != "folder" else "new" for p in needed]
    if command in ("localize", "parts") and param.name not in ("images", "seed", "count"):
        given += ["photo.png"]  # else one would be drawn, which is work
    if command == "localize" and param.name not in ("target", "seed"):
        given += ["--target", "x"]
    if param.param_type_name == "argument":
        return [command, *given, "--", *values]
    return [command, *given, *(word for value in values for word in (param.opts[0], value))]


def is_number(command, param):
    kind = get_type_hints(getattr(cli, command))[param.name]
    return {int, float} & {kind, *get_args(kind)}


@pytest.mark.parametrize(("command", "param"), list(options()))
def test_no_value_makes_a_traceback(call, command, param):
    for name, text in TEXTS.items():
        line = line_of(call(*arguments(command, param, text)))
        assert "the work would begin" not in line or name not in REFUSED_AT_ONCE, (name, line)


@pytest.mark.parametrize(("command", "param"), [case for case in options() if is_number(*case.values)])
def test_no_number_is_taken_that_means_nothing(call, command, param):
    for text in NUMBERS:
        line = line_of(call(*arguments(command, param, text)))
        assert "the work would begin" not in line, (text, line)


@pytest.mark.parametrize(("command", "param"), list(options()))
def test_an_option_is_given_once(call, command, param):
    if param.param_type_name == "argument" or param.multiple:
        return
    line = line_of(call(*arguments(command, param, "a", "b")))
    assert line == f"concept-cam: {param.opts[0]} is given 2 times; give it once."
