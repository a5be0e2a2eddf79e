"""Interleaved timing and peak memory, for machines that are never quiet."""

import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path


def interleave(cases: dict[str, Callable[[], object]], rounds: int, seed: int = 0) -> dict[str, dict[str, list[float]]]:
    """Wall and CPU seconds of every case in every round, each round in a new random order; the first run of each
    (caches, lazy allocations) is not counted."""
    rng = random.Random(seed)
    for run in cases.values():
        run()
    seconds = {name: {"wall": [], "cpu": []} for name in cases}
    for number in range(rounds):
        order = list(cases)
        rng.shuffle(order)
        for name in order:
            wall, cpu = time.perf_counter(), time.process_time()
            cases[name]()
            seconds[name]["wall"].append(time.perf_counter() - wall)
            seconds[name]["cpu"].append(time.process_time() - cpu)
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return seconds


def ratio(seconds: dict[str, dict[str, list[float]]], name: str, floor: str, clock: str = "cpu") -> float:
    """Median over rounds of the ratio taken inside each round."""
    pairs = zip(seconds[name][clock], seconds[floor][clock], strict=True)
    return statistics.median(a / b for a, b in pairs)


def peak_bytes(run: Callable[[], object]) -> int:
    """Peak resident memory of one run above what was resident before it (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def peak_in_child(case: str) -> float | None:
    """Peak MB of one case in a process of its own: this script again, with `--peak CASE`."""
    command = [sys.executable, *sys.argv, "--peak", case]
    out = subprocess.run(command, capture_output=True, text=True, check=False)
    return json.loads(out.stdout.splitlines()[-1]) if out.returncode == 0 else None


def machine() -> dict[str, object]:
    """What the figures were taken on."""
    import torch

    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), ": ?")
    return {
        "cpu": cpu.split(":")[1].strip(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load_average": os.getloadavg()[0],
    }
