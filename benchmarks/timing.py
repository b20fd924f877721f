"""Times of contenders that take turns in one process, what each keeps in memory at most, and the machine."""

from __future__ import annotations

import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

# The profiler is asked for memory alone, and talks of much else.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

Contender = Callable[[], Any]


def alternate(contenders: Mapping[str, Contender], runs: int, device: str = "cpu") -> dict[str, float]:
    """Median seconds of each: all are run once to warm up, then all in turn, in another order each time.

    What ran before leaves memory that is warm, or given back, and nobody shall have the same one before them every time.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    with tqdm(total=(runs + 1) * len(contenders), disable=None, leave=False) as bar:
        for run in range(runs + 1):
            for name in random.Random(run).sample(list(contenders), len(contenders)):
                taken = _seconds(contenders[name], device)
                if run > 0:
                    seconds[name].append(taken)
                bar.update()
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def _seconds(contender: Contender, device: str) -> float:
    if not device.startswith("cuda"):
        start = time.perf_counter()
        contender()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    contender()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / 1000


def peak_memory(contender: Contender, device: str = "cpu") -> int:
    """Bytes of tensors alive at once, at most, over those that were there before: what torch's allocator has given out."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        contender()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        contender()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        seen.export_chrome_trace(str(path))
        events = [event for event in json.loads(path.read_text())["traceEvents"] if event["name"] == "[memory]"]
    changes = [event["args"]["Bytes"] for event in sorted(events, key=lambda event: float(event["ts"]))]
    alive = peak = 0
    for change in changes:
        alive += change
        peak = max(peak, alive)
    return peak


def resident() -> int:
    """Bytes that the process holds, as Linux counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def machine() -> str:
    """What it was measured on, in a line."""
    cpu, told = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if told.exists():
        names = [line for line in told.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    threads, python = torch.get_num_threads(), sys.version.split()[0]
    packages = [_version(name) for name in ("torch", "open_clip_torch", "timm", "torchcam", "grad-cam")]
    return f"{cpu}, {cores} cores, {threads} threads{gpu}; Python {python}, {', '.join(filter(None, packages))}"


def _version(name: str) -> str | None:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return None
