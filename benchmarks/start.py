"""What the first command takes: ``concept-cam localize`` as a process of its own, from its start to its end.

    python -m benchmarks.start                          this tree alone
    git worktree add ../before REVISION
    python -m benchmarks.start --reference ../before    side by side: both trees in turn, in an order that is drawn anew

Seconds of processor time on one thread, which other programs disturb less than the time that passes; the last row has that. A
function around ``import`` and a callback of the garbage collector measure the parts from inside. Both trees use the packages
of this Python.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.timing import machine

HERE = Path(__file__).parents[1]

PARTS = {
    "imports": "imports",
    "collections": "looking for garbage",
    "work": "the work: a plate, the model, its checks, a map, files",
    "end": "the end of the process",
    "processor": "in all",
    "passed": "time that passed",
}

_MEASURED = """
import atexit, builtins, gc, json, os, sys, time
spent, depth, since = {"imports": 0.0, "collections": 0.0}, 0, 0.0
real, now = builtins.__import__, time.process_time

def watched(*given, **named):
    global depth
    depth += 1
    begun, before = now(), spent["collections"]
    try:
        return real(*given, **named)
    finally:
        depth -= 1
        if depth == 0:
            spent["imports"] += now() - begun - (spent["collections"] - before)

def collecting(phase, _):
    global since
    if phase == "start":
        since = now()
    else:
        spent["collections"] += now() - since

builtins.__import__ = watched
gc.callbacks.append(collecting)
from concept_cam import __main__
sys.argv = ["concept-cam", "localize", "--out", sys.argv[2]]
try:
    getattr(__main__, "program", __main__.main)()
finally:
    gc.callbacks.remove(collecting)
    builtins.__import__ = real
    with open(os.environ["MEASURED"], "w") as file:
        json.dump({**spent, "until": now()}, file)
"""


def measure(tree: Path) -> dict[str, float]:
    """Seconds of each part of one run of the command from a tree."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "measured.json"
        environment = {**os.environ, "PYTHONPATH": str(tree.resolve()), "OMP_NUM_THREADS": "1", "MEASURED": str(told)}
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        command = [sys.executable, "-c", _MEASURED, "localize", folder]
        subprocess.run(command, check=True, cwd=folder, env=environment, stdout=subprocess.DEVNULL)  # noqa: S603
        passed, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
        found: dict[str, float] = json.loads(told.read_text())
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    until = found.pop("until")
    work = until - found["imports"] - found["collections"]
    return {**found, "work": work, "end": processor - until, "processor": processor, "passed": passed}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start", description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path, help="another tree of this repository, which is measured too")
    parser.add_argument("--runs", type=int, default=7)
    given = parser.parse_args()
    trees = {"this tree": HERE} if given.reference is None else {"reference": given.reference, "this tree": HERE}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in trees}
    for number in range(given.runs + 1):
        for name in random.Random(number).sample(list(trees), len(trees)):
            found = measure(trees[name])
            if number > 0:  # the first reads files that are on disk alone
                runs[name].append(found)
    columns = [f"{name}, {what}" for name in trees for what in ("median", "least")]
    print(f"{machine()}\n\n| seconds, {given.runs} runs | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for key, label in PARTS.items():
        values = [f"{of([run[key] for run in runs[name]]):.2f}" for name in trees for of in (statistics.median, min)]
        print(f"| {label} | {' | '.join(values)} |")
    if len(trees) == 2:
        for key in ("processor", "passed"):
            shares = [
                of([run[key] for run in runs["this tree"]]) / of([run[key] for run in runs["reference"]])
                for of in (statistics.median, min)
            ]
            print(f"\n{PARTS[key]}: {shares[0]:.3f} of the reference (medians), {shares[1]:.3f} (least)")


if __name__ == "__main__":
    main()
