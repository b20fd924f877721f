"""What a process of its own leaves when a signal ends it, or when nobody reads what it prints."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals of POSIX")

SIGNALS = {
    "INT": (signal.SIGINT, 130, "interrupted"),
    "TERM": (signal.SIGTERM, 143, "stopped by SIGTERM"),
    "HUP": (signal.SIGHUP, 129, "stopped by SIGHUP"),
}
WRITES = """
import sys, time
from pathlib import Path
from concept_cam import __main__, cli

def command(**_):
    from concept_cam.files import write_file
    rename = Path.replace
    def slow(self, target):
        print("writing", flush=True)
        {wait}
        return rename(self, target)
    Path.replace = slow
    write_file("out/result.png", b"x")

cli.main = command
__main__.main()
"""
SWALLOWS = "try:\n            time.sleep(60)\n        except BaseException:\n            time.sleep(60)"


USUAL = """
import signal
for name in ("SIGINT", "SIGTERM", "SIGHUP"):
    signal.signal(getattr(signal, name), signal.SIG_DFL)
"""
"""Whatever runs the tests may ignore signals, and a child takes that over."""


def start(code, folder, before=USUAL):
    command, environment = [sys.executable, "-c", before + code], {**os.environ, "OMP_NUM_THREADS": "1"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, **streams)


def end(process, number):
    """The exit code, and what was said on the error stream, after a signal."""
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    return process.returncode, err


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("wait", ["time.sleep(60)", SWALLOWS], ids=["as it is", "where exceptions are lost"])
def test_a_signal_is_one_line_and_leaves_no_unfinished_file(tmp_path, name, wait):
    number, code, what = SIGNALS[name]
    process = start(WRITES.format(wait=wait), tmp_path)
    assert process.stdout.readline() == "writing\n"
    assert len(list((tmp_path / "out").iterdir())) == 1
    assert end(process, number) == (code, f"concept-cam: {what}; what was finished is kept.\n")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_in_the_middle_of_an_import(tmp_path, name):
    """The command line's own, which takes a tenth of a second and more."""
    number, code, what = SIGNALS[name]
    slow = (
        "import sys\nprint('importing', flush=True)\nimport time\ntry:\n    time.sleep(60)\nexcept BaseException:\n    pass\n"
    )
    (tmp_path / "typer.py").write_text(slow)
    process = start("from concept_cam.__main__ import main; main()", tmp_path)
    assert process.stdout.readline() == "importing\n"
    assert end(process, number) == (code, f"concept-cam: {what}; what was finished is kept.\n")


def test_two_signals_are_one_line(tmp_path):
    process = start(WRITES.format(wait="time.sleep(60)"), tmp_path)
    process.stdout.readline()
    for _ in range(5):
        process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (143, "concept-cam: stopped by SIGTERM; what was finished is kept.\n")


def test_what_is_ignored_stays_ignored(tmp_path):
    """As nohup has it."""
    ignored = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    process = start(WRITES.format(wait="time.sleep(1)"), tmp_path, ignored)
    process.stdout.readline()
    assert end(process, signal.SIGHUP) == (0, "")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["result.png"]


@pytest.mark.slow
def test_a_signal_while_localizing_keeps_what_is_finished(tmp_path):
    from concept_cam import world
    from concept_cam.result import Localization

    (tmp_path / "birds").mkdir()
    for seed in range(16):
        world.draw_species("ember finch", seed, 120).image.save(tmp_path / "birds" / f"{seed:02}.png")
    arguments = ["concept-cam", "localize", "birds", "--target", "ember finch", "--batch-size", "1", "--out", "out"]
    process = start(f"import sys; sys.argv = {arguments}\nfrom concept_cam.__main__ import main; main()", tmp_path)
    until = time.monotonic() + 300
    while time.monotonic() < until and not (tmp_path / "out" / "batches" / "00000.json").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert err == "concept-cam: stopped by SIGTERM; 8 of 16 images are kept in out; the same command resumes there.\n"
    assert len((tmp_path / "out" / "rows.csv").read_text().splitlines()) == 9
    files = [file for file in (tmp_path / "out").iterdir() if file.name != "batches"]
    assert {file.suffix for file in files} == {".png", ".safetensors", ".json", ".csv"}
    assert not [file for file in files if file.name.startswith(".")]
    for file in (tmp_path / "out").glob("*.safetensors"):
        assert Localization.load(file).map.shape == (12, 12)


@pytest.mark.slow
@pytest.mark.parametrize(("command", "code"), [("methods", 141), ("--help", 141), ("nothing", 2)])
def test_nobody_reads_what_is_printed(tmp_path, command, code):
    """As before ``| head``, which has seen enough."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "concept_cam", command],
        cwd=tmp_path,
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)
    assert done.returncode == code
    assert len(done.stderr.splitlines()) == (code == 2)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_there_is_no_room_for_what_is_printed(tmp_path):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "concept_cam", "methods"],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (2, "concept-cam: OSError: [Errno 28] No space left on device\n")
