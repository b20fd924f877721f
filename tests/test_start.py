"""How a command starts and ends: what it does not load, when garbage is looked for, and what its end waits for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from slow import by_default, cases

from benchmarks import start


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, env=environment, timeout=120, check=False
    )


LOCALIZED = """
import sys
import torch
disable = torch.compiler.disable
sys.argv = ["concept-cam", "localize", "--out", "out"]
from concept_cam.cli import main
try:
    main()
except SystemExit as ended:
    assert ended.code == 0
assert not {"torch._dynamo", "torch._dynamo.utils", "sympy"} & set(sys.modules)
assert torch.compiler.disable is disable
"""

AND_THEN = {
    "the function that torchvision asks for": """
from torchvision.ops import roi_align
from torchvision.ops.roi_align import is_compile_supported
from torch._dynamo import utils
print(is_compile_supported("cpu") == utils.is_compile_supported("cpu"))
""",
    "what timm excludes": """
from timm.layers import disable_compiler
excluded = disable_compiler(lambda x: x + 1)
inner = torch.compile(lambda x: excluded(x * 2) * 3, backend="eager")
print(inner(torch.ones(1)).item() == 9.0 and "torch._dynamo" in sys.modules)
""",
}


@pytest.mark.parametrize("used", by_default(AND_THEN))
def test_torchs_compiler_is_loaded_when_it_is_used(used: str, tmp_path: Path) -> None:
    done = python(LOCALIZED + AND_THEN[used] + "sys.stdout.flush()\n__import__('os')._exit(0)", tmp_path)
    assert done.stdout.endswith("True\n"), done.stderr


STANDS_IN = """
import sys
import torch
from concept_cam.backbones.compiler import loaded_when_used

try:
    with loaded_when_used():
        from torch._dynamo.utils import is_compile_supported
        held = sys.modules["torch._dynamo.utils"]
        assert not hasattr(held, "__file__") and "torch._dynamo" not in sys.modules
        {}
        raise KeyError
except KeyError:
    pass
print("torch._dynamo.utils" in sys.modules)
from torch._dynamo import utils
print(utils is not held and utils.is_compile_supported("cpu") == is_compile_supported("cpu"))
with loaded_when_used():
    print(sys.modules["torch._dynamo.utils"] is utils)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("inside", "loaded"),
    [
        ("pass", False),
        ("from torch._dynamo.utils import counters; assert counters is sys.modules['torch._dynamo.utils'].counters", True),
        ("torch.compile(lambda x: x + 1, backend='eager')(torch.ones(1))", True),
    ],
    ids=["named alone", "something else is asked for", "used"],
)
def test_nothing_of_it_remains(inside: str, loaded: bool, tmp_path: Path) -> None:
    done = python(STANDS_IN.format(inside), tmp_path)
    assert done.stdout.split() == [str(loaded), "True", "True"], done.stderr


# ---- garbage ----------------------------------------------------------------------------------------------------------


LOOKS = """
import gc, sys
from concept_cam import __main__, world
from concept_cam.cli import answers

real, seen = world.localizer, []

def loaded(**options):
    seen.append(gc.isenabled())
    return real(**options)

def printed(*_):
    seen.append(gc.isenabled())
    seen.append(gc.get_freeze_count() > 1000)

world.localizer, answers.Answers.show = loaded, printed
sys.argv = ["concept-cam", "localize", "--out", "out"]
{before}
try:
    __main__.main({alone})
finally:
    print(seen, gc.isenabled())
"""


@pytest.mark.parametrize(
    ("before", "alone", "seen"),
    cases(
        [
            ("", "alone=True", "[False, True, True] True"),
            ("", "", "[True, True, False] True"),  # a program that calls us has garbage of its own
            ("gc.disable()", "", "[False, False, False] False"),
        ],
        ("", "alone=True", "[False, True, True] True"),
    ),
)
def test_garbage_is_looked_for_once_the_model_is_there(before: str, alone: str, seen: str, tmp_path: Path) -> None:
    done = python(LOOKS.format(before=before, alone=alone), tmp_path)
    assert done.stdout.splitlines()[-1] == seen, done.stderr


# ---- the end ----------------------------------------------------------------------------------------------------------

ENDS = """
import atexit, sys, threading, time, types
from concept_cam import __main__
{before}
def command(**_):
    atexit.register(print, "registered later")
    threading.Thread(target=lambda: (time.sleep(0.3), print("thread"))).start()
    print("command")
    {end}
sys.modules["concept_cam.cli"] = types.SimpleNamespace(main=command)  # the real one is first imported within main
{call}
"""
KEPT = "class Kept:\n    def __del__(self): print('taken apart', flush=True)\nkept = Kept()\n"


@pytest.mark.parametrize(
    ("end", "code"),
    [("sys.exit(0)", 0), ("sys.exit()", 0), ("sys.exit(3)", 3), ("return", 0), ("sys.exit('why')", 1), ("1 / 0", 1)],
)
@pytest.mark.parametrize("before", ["", "atexit.register(print, 'registered before')"], ids=["at once", "as Python ends"])
def test_the_end_waits_for_all_who_asked(before: str, end: str, code: int, tmp_path: Path) -> None:
    done = python(KEPT + ENDS.format(before=before, end=end, call="__main__.program()"), tmp_path)
    said = ["command", "thread", "registered later", *["registered before", "taken apart"] * bool(before)]
    assert (done.returncode, done.stdout.splitlines()) == (code, said)
    assert ("why" in done.stderr, "ZeroDivisionError" in done.stderr) == ("why" in end, "/ 0" in end)


@pytest.mark.parametrize("end", ["sys.exit(0)", "sys.exit('why')", "return"])
def test_a_program_goes_on_after_the_command_that_it_calls(end: str, tmp_path: Path) -> None:
    call = "try:\n    __main__.main()\nexcept SystemExit:\n    pass\nsys.exit(3)"
    done = python(KEPT + ENDS.format(before="", end=end, call=call), tmp_path)
    assert (done.returncode, done.stdout.splitlines()) == (3, ["command", "thread", "registered later", "taken apart"])


def test_the_script_and_the_module_are_such_programs(tmp_path: Path) -> None:
    assert 'concept-cam = "concept_cam.__main__:program"' in (start.HERE / "pyproject.toml").read_text().splitlines()
    run = "import runpy; runpy.run_module('concept_cam', run_name='__main__')"
    done = python(KEPT + f"import sys; sys.argv = ['concept-cam', '--version']; {run}", tmp_path)
    assert (done.returncode, "taken apart" in done.stdout) == (0, False), done.stderr


@pytest.mark.slow
def test_the_benchmark_measures_all_parts() -> None:
    found = start.measure(start.HERE)
    assert set(found) == set(start.PARTS)
    assert all(found[part] > 0 for part in ("imports", "collections", "work", "end"))
    assert found["imports"] > found["end"]
    assert found["passed"] > 0
