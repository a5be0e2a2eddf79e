"""What idle threads that spin cost: the same gradient rows in a fresh Python process, alone and beside busy processes.

    python benchmarks/threads.py [--rounds 3] [--rows 60] [--out benchmarks/results/threads.json]

Generated chats through the demo's model, untrained, on all threads that torch takes by itself. Three ways to start:
`library` imports gradsift first, which lets idle threads sleep; `active` is the same with OMP_WAIT_POLICY=active;
`torch first` imports torch before gradsift, which leaves OpenMP's own default. Each runs alone, then while as many
processes as there are cores spin; every round has all of them in a new random order. Seconds are of the rows, without
imports and reading. A ratio is the median over rounds of the ratio inside a round, to `library` under the same load.
What else the machine does is not controlled: `load_average` in the JSON is that before the first process.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

VARIABLE = "OMP_WAIT_POLICY"
STARTS = ("library", "active", "torch first")
LOADS = ("alone", "beside busy processes")
Case = tuple[str, str]  # start, load


def make_work(folder: Path, rows: int) -> None:
    """Data, model and recipe of the work, made in a process of its own: this one stays small."""
    from gradsift.pipelines.demo.data import write_demo_data
    from gradsift.pipelines.demo.model import demo_recipe, make_demo_model

    write_demo_data(folder / "data")
    make_demo_model(folder / "model", steps=1)
    pool = [{"path": "data/pool.jsonl", "rows": rows}]
    recipe = demo_recipe() | {"pool": pool, "warmup": None, "validate": None, "features": {"transform": "sgd"}}
    (folder / "recipe.json").write_text(json.dumps(recipe), "utf-8")


def do_work(folder: Path, torch_first: bool) -> dict[str, Any]:
    """The rows of the pool in a new store, timed."""
    if torch_first:
        import_module("torch")
    from gradsift.datastore.store import Store
    from gradsift.pipelines.features.gradients import dataset_rows
    from gradsift.pipelines.features.space import make_job
    from gradsift.pipelines.model.work import open_work
    from gradsift.pipelines.pool.ingest import ingest
    from gradsift.pipelines.recipe import parse_recipe
    from gradsift.pipelines.training.warmup import untrained

    recipe = parse_recipe(json.loads((folder / "recipe.json").read_text("utf-8")), folder=folder)
    with tempfile.TemporaryDirectory(dir=folder) as place, Store(Path(place) / "store") as store:
        work = open_work(store, recipe)
        pool, _ = ingest(store, "pool", recipe.name, recipe.pool, recipe.seed)
        job = make_job(work, untrained(work)[0])
        wall, cpu = time.perf_counter(), time.process_time()
        computed = dataset_rows(work, job, pool).computed
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    policy, threads = os.environ.get(VARIABLE), import_module("torch").get_num_threads()
    return {"wall": wall, "cpu": cpu, "rows": computed, "policy": policy, "torch_threads": threads}


def in_child(*arguments: str, policy: str | None = None) -> str:
    """What this script prints in a fresh process, with this policy in its environment or none."""
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[1]), "TRANSFORMERS_VERBOSITY": "error"}
    if policy:
        environment[VARIABLE] = policy
    child = subprocess.run(
        [sys.executable, __file__, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if child.returncode:
        raise SystemExit(child.stderr[-2000:])
    return child.stdout


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Processes that do nothing but use a core each."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def measure(case: Case, folder: Path) -> dict[str, Any]:
    """One process of one case."""
    start, load = case
    policy = "active" if start == "active" else None
    with busy(0 if load == "alone" else os.cpu_count() or 1):
        return json.loads(in_child("--work", str(folder), "--start", start, policy=policy).splitlines()[-1])


def interleaved(folder: Path, rounds: int) -> dict[Case, list[dict[str, Any]]]:
    """Measurements of every case, one for each round."""
    rng = random.Random(0)
    cases = [(start, load) for load in LOADS for start in STARTS]
    measured: dict[Case, list[dict[str, Any]]] = {case: [] for case in cases}
    for number in range(1, rounds + 1):
        for case in rng.sample(cases, len(cases)):
            measured[case].append(measure(case, folder))
            seconds = measured[case][-1]["wall"]
            print(f"round {number} of {rounds}: {case[0]}, {case[1]}: {seconds:.2f} s", file=sys.stderr, flush=True)
    return measured


def summary(case: Case, measured: dict[Case, list[dict[str, Any]]]) -> dict[str, Any]:
    """A case's line of the table."""
    start, load = case
    runs, library = measured[case], measured["library", load]
    ratios = [run["wall"] / other["wall"] for run, other in zip(runs, library, strict=True)]
    return {
        "start": start,
        "load": load,
        "policy": runs[0]["policy"],
        "torch_threads": runs[0]["torch_threads"],
        "rows": runs[0]["rows"],
        "wall": [round(run["wall"], 3) for run in runs],
        "wall_median": statistics.median(run["wall"] for run in runs),
        "cpu_median": statistics.median(run["cpu"] for run in runs),
        "times_library": statistics.median(ratios),
    }


def show(lines: list[dict[str, Any]]) -> None:
    """Print the table."""
    print(f"| start | load | {VARIABLE} | wall s | CPU s | × library |\n|---|---|---|---|---|---|")
    for line in lines:
        print(
            f"| {line['start']} | {line['load']} | {line['policy'] or 'not set'} | {line['wall_median']:.2f} "
            f"| {line['cpu_median']:.2f} | {line['times_library']:.2f} |"
        )


def main() -> None:
    """Measure, print, and keep as JSON with `--out`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--start", choices=STARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make:
        make_work(args.make, args.rows)
        return
    if args.work:
        print(json.dumps(do_work(args.work, args.start == "torch first")))
        return
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="gradsift-threads-") as folder:
        in_child("--make", folder, "--rows", str(args.rows))
        measured = interleaved(Path(folder), args.rounds)
    lines = [summary(case, measured) for case in measured]
    show(lines)
    if args.out:
        from measure import machine

        settings = {"rounds": args.rounds, "rows": args.rows, "busy_processes": os.cpu_count()}
        document = {"settings": settings, "machine": machine() | {"load_average": load_before}, "cases": lines}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
