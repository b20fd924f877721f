"""What a command answers: ten lines for nothing, objects for scripts, the next command, how an extra is installed."""

from __future__ import annotations

import builtins
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from clis import TWINS, Run, embedded, finch, plate, run

from concept_cam import cli
from concept_cam.cli import candidates
from concept_cam.cli.answers import Answers
from concept_cam.errors import ConceptCamError, missing
from concept_cam.methods import CARDS

ROOT = Path(__file__).parents[1]


def objects(out: str) -> list[dict]:
    return [json.loads(line) for line in out.splitlines()]


def next_of(out: str) -> list[str]:
    """The words of the command that the last line names."""
    start, *words = shlex.split(out.splitlines()[-1].removeprefix("next: "))
    assert start == "concept-cam"
    return words


# ---- nothing is asked -------------------------------------------------------------------------------------------------


def test_alone_it_says_what_it_can_do_in_ten_lines(run: Run) -> None:
    ran = run()
    assert (ran.code, ran.err) == (0, "")
    assert len(ran.out.splitlines()) == 10
    named = set(re.findall(r"[a-z]+", " ".join(re.findall(r"concept-cam (.*?)(?:  |$)", ran.out, re.MULTILINE))))
    commands = {(one.name or one.callback.__name__) for one in cli.app.registered_commands}
    assert commands - {"report", "world"} <= named


# ---- objects ----------------------------------------------------------------------------------------------------------


def test_localize_gives_an_object_of_each_image(run: Run, finch: Path) -> None:
    Path("bad.png").write_text("no image")
    ran = run("localize", finch, "bad.png", *TWINS, "--sweep", "--json", "--out", "found")
    good, bad = objects(ran.out)
    assert ran.code == 2
    assert bad.keys() == {"image", "problem"}
    assert bad["image"] == "bad.png"
    assert "not an image" in bad["problem"]
    assert (good["image"], good["problem"]) == (str(finch), None)
    kept = json.loads(Path("found/finch.json").read_text())
    assert {key: good[key] for key in ("comparison", "scores", "peak", "boxes")} == {
        key: kept[key] for key in ("comparison", "scores", "peak", "boxes")
    }
    assert sorted(good["files"]) == sorted(str(file) for file in Path("found").glob("finch*"))


def test_one_image_that_fails_is_an_object_too(run: Run) -> None:
    Path("bad.png").write_text("no image")
    ran = run("localize", "bad.png", *TWINS, "--json", "--out", "found")
    assert ran.code == 2
    assert [one["image"] for one in objects(ran.out)] == ["bad.png"]
    assert "not an image" in ran.line()


@pytest.mark.slow
def test_parts_gives_an_object_of_each_image(run: Run, finch: Path) -> None:
    ran = run("parts", finch, "--json", "--out", "found")
    (one,) = objects(ran.out)
    assert (one["image"], one["problem"], one["parent"]) == (str(finch), None, "bird")
    crown = next(part for part in one["parts"] if part["name"] == "crown")
    assert crown["visible"] is True
    assert crown["attributes"]["colour"]["value"] == "red"
    assert len(crown["keypoint"]) == 2
    assert len(crown["box"]) == 4
    assert all(Path(file).is_file() for file in one["files"])
    assert len(one["files"]) == 2


def test_lists_are_objects(run: Run) -> None:
    assert [one["method"] for one in objects(run("methods", "--json").out)] == list(CARDS)
    assert all(one["default"] for one in objects(run("models", "--json").out))


@pytest.mark.slow
def test_checks_are_objects(run: Run) -> None:
    checks = objects(run("check", "world", "--json").out)
    assert all(one["passed"] is True for one in checks)


@pytest.mark.slow
def test_search_gives_an_object_of_each_match(run: Run, finch: Path) -> None:
    stored = run("fields", finch, "--out", "store")
    assert next_of(stored.out)[:2] == ["search", "store"]
    ran = run("search", "store", "red crown", "blue crown", "--json", "--out", "found")
    found = objects(ran.out)
    assert [one["comparison"]["target"] for one in found] == ["red crown", "blue crown"]
    assert {one["image"] for one in found} == {str(finch)}
    assert found[0]["peak"]


# ---- the next command -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_next_command_of_a_first_map_runs(run: Run) -> None:
    ran = run("localize", "--out", "my maps")
    assert next_of(ran.out) == ["explore", str(Path("my maps", "ember-finch-0.png"))]
    assert run(*next_of(ran.out)).code == 0


@pytest.mark.slow
def test_what_was_cut_off_is_shown_next(run: Run, plate, tmp_path: Path) -> None:
    plate.crop((0, 20, 120, 90)).save("wide.png")
    ran = run("localize", "wide.png", *TWINS, "--fit", "crop", "--out", "found")
    assert "--sweep" in next_of(ran.out)  # the fit was chosen
    for given in (["wide.png"], ["./wide.png"], [*TWINS, "--out", "again", "--", "wide.png"]):
        words = [*given, *TWINS, "--out", "again"] if "--" not in given else given
        following = next_of(run("localize", *words).out)
        assert following[following.index("--fit") + 1] == "native"
        assert run(*following).code == 0, following


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ("localize", "finch.png", *TWINS),
        ("localize", "finch.png", *TWINS, "--sweep"),
        ("localize", "finch.png", "--target", "ember finch", "--method", "rollout"),
        ("parts", "finch.png"),
        ("fields", "finch.png"),
        ("explore", "finch.png"),
        ("explore", "finch.png", "--vocabulary", "world-habitats"),
        ("world", "set", "--count", "6", "--size", "96"),
        ("evaluate", "set", "--methods", "grad_cam"),
        ("audit", "--limit", "4"),
        ("models",),
        ("methods",),
        ("check", "world"),
    ],
    ids=" ".join,
)
@pytest.mark.filterwarnings("ignore")
def test_every_next_command_runs(run: Run, finch: Path, command: tuple[str, ...]) -> None:
    if command[:2] == ("evaluate", "set"):
        assert run("world", "set", "--count", "6", "--size", "96").code == 0
    ran = run(*command)
    assert ran.code == 0, ran.err
    words = next_of(ran.out)
    for _ in range(2):
        ran = run(*words)
        assert ran.code == 0, (words, ran.err)
        if not ran.out.splitlines()[-1].startswith("next: "):
            break
        words = next_of(ran.out)


def test_a_command_that_cannot_be_pasted_is_not_named(capsys: pytest.CaptureFixture[str]) -> None:
    Answers().next("localize", *["a.png"] * 2000)
    assert capsys.readouterr().out == ""
    Answers().next("localize", "my image.png")
    assert capsys.readouterr().out == "next: concept-cam localize 'my image.png'\n"
    Answers().next("localize", "at 1.23\u202fPM.png")  # a terminal would show another space
    assert capsys.readouterr().out == ""
    Answers().next("localize", Path("-dash.png"))
    assert capsys.readouterr().out == "next: concept-cam localize ./-dash.png\n"


# ---- completion -------------------------------------------------------------------------------------------------------


def test_methods_are_read_from_their_source() -> None:
    assert candidates.methods() == sorted(CARDS)


def completed(shell: str, words: str, **more: str) -> tuple[list[str], float]:
    asked = {"_CONCEPT_CAM_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": words, "COMP_WORDS": words}
    asked |= {"COMP_CWORD": str(len(words.split(" ")) - 1), "_TYPER_COMPLETE_FISH_ACTION": "get-args", **more}
    code = "import sys; from concept_cam.cli import main; sys.argv = ['concept-cam']\ntry: main()\n"
    code += "finally: print('heavy:', [one for one in ('torch', 'numpy', 'open_clip') if one in sys.modules])"
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    *lines, heavy = done.stdout.splitlines()
    assert heavy == "heavy: []"
    return lines, time.monotonic() - begun


@pytest.mark.parametrize(
    ("shell", "words", "expected"),
    [
        ("bash", "concept-cam loc", ["localize"]),
        ("bash", "concept-cam localize --method hir", ["hires_cam"]),
        ("fish", "concept-cam parts --parts world-p", ["world-parts"]),
        ("zsh", "concept-cam localize --model ViT-B-16-qui", ["_arguments '*: :((\"ViT-B-16-quickgelu\"))'"]),
        ("bash", "concept-cam localize photo.png --target x --fit n", ["native"]),
    ],
)
def test_shells_are_told_names_without_a_model_library(shell: str, words: str, expected: list[str]) -> None:
    assert completed(shell, words)[0] == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell(shell: str, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["concept-cam", "--show-completion", shell])
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    monkeypatch.setattr(cli, "_whole", lambda: cli.get_command(cli.app))
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    assert "_CONCEPT_CAM_COMPLETE" in capsys.readouterr().out


# ---- extras -----------------------------------------------------------------------------------------------------------


def of_parquet() -> None:
    from concept_cam.writers import Table

    Table("rows.parquet")


def of_parquet_read() -> None:
    from concept_cam.datasets import read_dataset

    Path("rows.parquet").write_bytes(b"PAR1")
    read_dataset(Path("rows.parquet"))


def of_huggingface() -> None:
    from concept_cam.datasets.huggingface import read_huggingface

    read_huggingface(Path())


def of_s3() -> None:
    from concept_cam.remote import information

    information("s3://bucket/image.png")


def of_supervision() -> None:
    from concept_cam.writers import to_supervision

    to_supervision(None)


def of_ray() -> None:
    from concept_cam.runs.crew import check_engine

    check_engine("ray")


NEEDS = {
    "parquet": (of_parquet, of_parquet_read),
    "huggingface": (of_huggingface,),
    "s3": (of_s3,),
    "supervision": (of_supervision,),
    "ray": (of_ray,),
}
MODULES = {"parquet": "pyarrow", "huggingface": "datasets", "s3": "s3fs"}


@pytest.mark.parametrize(("extra", "need"), [(extra, need) for extra, needs in NEEDS.items() for need in needs])
def test_an_extra_that_is_missing_is_named_with_its_install_line(extra, need, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    real, wanted = builtins.__import__, MODULES.get(extra, extra)

    def absent(name, *rest, **more):
        if name.partition(".")[0] == wanted:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", absent)
    monkeypatch.setattr("concept_cam.runs.crew.find_spec", lambda name: None)
    monkeypatch.setattr("fsspec.filesystem", lambda protocol: absent(wanted))
    with pytest.raises(ConceptCamError) as caught:
        need()
    assert str(caught.value).endswith(missing(extra, "").removeprefix("To "))
    assert f"pip install 'concept-cam[{extra}]'" in str(caught.value)


def test_every_extra_is_named_by_one_function() -> None:
    told = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    extras = set(re.findall(r"^(\w+) = ", told, re.MULTILINE)) - {"dev", "docs", "demo"}
    assert extras == set(NEEDS)
    for file in (ROOT / "concept_cam").rglob("*.py"):
        for line in re.findall(r".*concept-cam\[\w+\].*", file.read_text()):
            assert re.search(r"""pip install ["']concept-cam\[""", line), (file, line)
