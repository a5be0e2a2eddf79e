"""Peak memory and seconds of rules that look at rows, over generated int8 rows that lie in a file.

    python benchmarks/memory.py [--rows N] [--dims D] [--only omp gio …] [--memory 8GiB] [--out FILE]

Each rule runs as a method runs it (`make_room`, then the rule), in a process of its own, on the same N × D rows and 200
target rows, and chooses 1 % of N; `k_center`, which reads all rows at each pick, `facility_location`, which computes
many similarities for each, and `gip`, whose products come in batches, choose 20. `--iterations` shortens k-means, whose
memory does not depend on it (default: 20, as methods have it). A line as JSON for each, as it is done: what is
declared, the highest anonymous memory above the process's own (sampled), the highest resident memory of the whole
process, pages of the file included (VmHWM), and seconds.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from measure import _status, machine

from gradsift.datastore.blocks import Laid
from gradsift.pipelines.memory import parse_size
from gradsift.pipelines.methods import registry, row_rules
from gradsift.pipelines.methods.registry import rules
from gradsift.pipelines.methods.room import make_room
from gradsift.scorers.rows import Rows, block_rows, unit_rows

CASES = {
    "omp": {},
    "gip": {},
    "kmeans_quota": {},
    "gio": {},
    "gio_exact": {"mode": "exact", "quantise": 0},
    "gio_knn": {"mode": "knn", "quantise": 0},
    "facility_location": {},
    "k_center": {},
    "tsds_uniform": {"density": "uniform"},
    "tsds": {"neighbours": 100},
}
TARGETS = 200
FEW = ("gip", "k_center", "facility_location")


def picks(case, rows):
    """How many a case chooses."""
    return 20 if case in FEW else rows // 100


class Generated:
    """Evidence of generated rows: what a rule asks of it, and no store."""

    def __init__(self, folder, rows, dims, memory):
        vectors = np.memmap(folder / "rows", np.int8, "r", shape=(rows, dims))
        laid = Laid(vectors, np.load(folder / "scale.npy"))
        self.laid = Rows((rows, dims), laid.decode, block_rows(dims))
        self.target_rows = np.load(folder / "target.npy")
        self.ids = [f"{k:032x}" for k in range(rows)]
        self.seed, self.memory, self.room, self.pairs = 0, memory, 0, [None]
        self.target = type("Target", (), {"example_ids": self.ids[:TARGETS], "subtasks": [""] * TARGETS})

    def dims(self, _represent):
        return self.laid.shape[1]

    def rows(self, _represent, *, unit=False):
        return (self.laid.each(unit_rows) if unit else self.laid).within(self.room)

    def queries(self, _represent):
        return self.target_rows, [""] * TARGETS


def generate(folder, rows, dims):
    """Rows about 50 centres, int8 with a scale, and a target near the first."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(50, dims)).astype(np.float32)
    vectors = np.memmap(folder / "rows", np.int8, "w+", shape=(rows, dims))
    scale = np.empty(rows, np.float32)
    for start in range(0, rows, 8192):
        part = slice(start, min(start + 8192, rows))
        size = part.stop - start
        block = centers[rng.integers(50, size=size)] + 2 * rng.standard_normal((size, dims), np.float32)
        vectors[part] = np.rint(block * (127 / np.abs(block).max(axis=1, keepdims=True)))
        scale[part] = 1 / np.linalg.norm(vectors[part].astype(np.float32), axis=1)
    np.save(folder / "scale.npy", scale)
    np.save(folder / "target.npy", unit_rows(centers[0] + 2 * rng.normal(size=(TARGETS, dims))))


def run(case, folder, rows, dims, memory, iterations):
    """One case in this process."""
    import faiss
    import torch

    torch.zeros(8) @ torch.zeros(8)  # libraries take what they take
    faiss.IndexFlatL2(8).search(np.zeros((32, 8), np.float32), 1)
    if iterations:
        kmeans = row_rules.kmeans
        row_rules.kmeans = lambda r, k, seed, n=20, **more: kmeans(r, k, seed, min(n, iterations), **more)
    name, options = case.split("_")[0] if case.startswith(("gio", "tsds")) else case, CASES[case]
    base, peak, done = _status("RssAnon"), [0], threading.Event()

    def watch():
        while not done.wait(0.02):
            peak[0] = max(peak[0], _status("RssAnon"))

    threading.Thread(target=watch, daemon=True).start()
    chosen = picks(case, rows)
    e = Generated(folder, rows, dims, memory)
    start, cpu = time.perf_counter(), time.process_time()
    make_room(e, "none", name, options, chosen)
    declared = memory - e.room
    scores = np.zeros(rows)
    order = rules()[name].run(e, scores, chosen, **options).order
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    done.set()
    return {
        "case": case, "rows": rows, "dims": dims, "chosen": len(order), "kmeans_iterations": iterations or 20,
        "rows_held": e.room >= 4 * rows * dims, "declared_mib": round(declared / 2**20),
        "anonymous_peak_mib": round((peak[0] - base) / 2**20), "resident_peak_mib": round(_status("VmHWM") / 2**20),
        "seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dims", type=int, default=1024)
    parser.add_argument("--only", nargs="*", choices=CASES, default=CASES)
    parser.add_argument("--memory", default="")
    parser.add_argument("--iterations", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--case")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.case:
        memory = parse_size(args.memory)
        print(json.dumps(run(args.case, args.folder, args.rows, args.dims, memory, args.iterations)))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        generate(folder, args.rows, args.dims)
        for case in args.only:
            # as much as the rule declares, so that no row is held, unless an amount is given
            memory = args.memory or str(least(case, args.rows, args.dims))
            command = [sys.executable, __file__, "--case", case, "--folder", name, "--rows", str(args.rows)]
            command += ["--dims", str(args.dims), "--memory", memory, "--iterations", str(args.iterations)]
            out = subprocess.run(command, capture_output=True, text=True, check=False)
            line = {"case": case, "failed": out.stderr.strip().splitlines()[-1:]}
            if out.returncode == 0:
                line = json.loads(out.stdout) | {"machine": machine()}
            print(json.dumps(line), flush=True)
            if args.out:
                with args.out.open("a") as handle:
                    handle.write(json.dumps(line) + "\n")


def least(case, rows, dims):
    """Bytes that a case declares."""
    from gradsift.pipelines.methods.memory import Sizes

    name = case.split("_")[0] if case.startswith(("gio", "tsds")) else case
    chosen = picks(case, rows)
    return int(registry.memory_of("none", name, CASES[case], Sizes(rows, dims, TARGETS, 1, chosen))) + 1


if __name__ == "__main__":
    main()
