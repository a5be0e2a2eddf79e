"""What a second worker gives, and what a unit of work costs beyond its rows.

    python benchmarks/scaling.py [--rounds 3] [--rows 1500] [--out benchmarks/results/scaling.json]

Generated chats through an untrained Llama of 19 M parameters (tens of milliseconds a row), in units of 40 rows, with
one thread of torch for each worker; runs of one and of two worker processes in turn, each a whole run under Prefect in
a process and store of its own. All is of the later half of the pool's units, by the times of their commits: workers
start in the earlier one. `rate` is rows a second of wall time; `cpu` is milliseconds of processor time of the workers
for each row, which other work on the machine changes little. A ratio is the median over rounds of the ratio inside a
round: `wall_ratio` is what the second worker gave; `cpu_ratio` is 2 · cpu(1) / cpu(2), what it gives at most where each
has a core to itself.

`unit` is what a unit takes beyond its rows, in milliseconds: its lease, ids, file, commit and the lease back, of 512
rows of 1024 numbers that are there already, on SQLite and a local folder; `task` is one task of Prefect's that does
nothing, in the run's own process.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

UNIT_ROWS = 40
TASKS = 40


def make_work(folder: Path, rows: int) -> None:
    """Data, model and recipe of the runs."""
    from gradsift.pipelines.demo.data import write_demo_data
    from gradsift.pipelines.demo.model import demo_recipe, make_demo_model

    write_demo_data(folder / "data")
    make_demo_model(folder / "small", steps=0)
    make_larger(folder / "small", folder / "model")
    features = {"transform": "sgd", "unit_rows": UNIT_ROWS}
    pool = [{"path": "data/pool.jsonl", "rows": rows}]
    recipe = demo_recipe() | {"pool": pool, "warmup": None, "validate": None, "features": features}
    (folder / "recipe.json").write_text(json.dumps(recipe), "utf-8")


def make_larger(small: Path, folder: Path) -> None:
    """A Llama with the tokenizer of `small` whose rows cost tens of milliseconds."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(small)
    config = LlamaConfig.from_pretrained(
        small,
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=8,
    )
    config.head_dim = 64
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def do_run(folder: Path, workers: int) -> dict[str, Any]:
    """One run in a new store."""
    import numpy as np

    from gradsift.datastore.place import Place
    from gradsift.datastore.store import Store
    from gradsift.flows.curate import curate_with_prefect
    from gradsift.flows.runners import workers_of
    from gradsift.pipelines.recipe import Runner, parse_recipe

    recipe = parse_recipe(json.loads((folder / "recipe.json").read_text("utf-8")), folder=folder)
    task_runner = workers_of(Runner(kind="process"), workers).runner  # OMP_NUM_THREADS=1 says how many threads
    with tempfile.TemporaryDirectory(dir=folder) as place:
        with cpu_of_workers() as used:
            result = curate_with_prefect(recipe, Place(Path(place)), task_runner=task_runner)
        (pool,) = (made for made in result.rows if made.role == "pool")
        with Store(Path(place)) as store:
            units = store.catalog.rows(
                "SELECT s.created, u.examples FROM unit AS u JOIN shard AS s USING (shard_id) WHERE u.space_id=? "
                "ORDER BY s.created",
                (pool.space_id,),
            )
    units = units[len(units) // 2 :]
    first, last = units[0]["created"], units[-1]["created"]
    rows = sum(unit["examples"] for unit in units[1:])
    samples = np.array(used)
    cpu = float(np.diff(np.interp([first, last], samples[:, 0], samples[:, 1]))[0])
    return {"rate": rows / (last - first), "cpu": 1e3 * cpu / rows}


@contextmanager
def cpu_of_workers() -> Iterator[list[tuple[float, float]]]:
    """(time, processor seconds of this process's workers until then), as a block goes on."""
    used: list[tuple[float, float]] = []
    over = threading.Event()

    def watch() -> None:
        tick = os.sysconf("SC_CLK_TCK")
        while not over.wait(0.02):
            seconds = 0.0
            for child in multiprocessing.active_children():
                with suppress(OSError):
                    fields = Path(f"/proc/{child.pid}/stat").read_text("utf-8").rpartition(")")[2].split()
                    seconds += (int(fields[11]) + int(fields[12])) / tick
            used.append((time.time(), seconds))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield used
    finally:
        over.set()
        watcher.join()


def unit_costs(folder: Path) -> dict[str, float]:
    """Milliseconds of a unit and of a task beyond what they do."""
    import numpy as np
    import pyarrow as pa

    from gradsift.datastore import examples, features, leases
    from gradsift.datastore.examples import Example
    from gradsift.datastore.identity import example_id
    from gradsift.datastore.rows import make_block
    from gradsift.datastore.store import Store
    from gradsift.flows.runners import Workers
    from gradsift.flows.tasks import as_task, in_flow

    with Store(folder / "units") as store:
        chats = [[{"role": "user", "content": f"{k}"}, {"role": "assistant", "content": "yes"}] for k in range(20_000)]
        named = [Example(example_id(chat), chat, "made", "made.jsonl", k + 1) for k, chat in enumerate(chats)]
        examples.add(store, named)
        pool = examples.define_dataset(store, "pool", "p", {one.example_id: "" for one in named})
        space = features.define_space(store, {"model": "m", "transform": "sgd", "projector": {"dim": 1024, "seed": 0}})
        features.plan(store, space, pool.example_ids, {}, 512)
        vectors = np.random.default_rng(0).normal(size=(512, 1024)).astype(np.float32)

        units = features.open_units(store, space, pool.dataset_id)
        start = time.perf_counter()
        for number in units:
            with leases.held(store, f"unit/{number}") as lease:
                assert features.is_open(store, number)
                ids = features.unit_ids(store, number)
                signals = pa.table({"loss": pa.array(np.ones(len(ids), np.float32))})
                block = make_block(ids, vectors[: len(ids)], signals, "int8")
                features.commit_unit(store, space, number, block, {}, lease)
        unit = (time.perf_counter() - start) / len(units)

    def tasks(_spread: Any) -> float:
        as_task("first", int)
        start = time.perf_counter()
        for number in range(TASKS):
            as_task(f"task {number}", int)
        return (time.perf_counter() - start) / TASKS

    return {"unit": 1e3 * unit, "task": 1e3 * in_flow("tasks", "tasks", tasks, Workers())}


def in_child(*arguments: str) -> Any:
    """What this script prints in a fresh process with one thread."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    environment |= {"TRANSFORMERS_VERBOSITY": "error", "PREFECT_LOGGING_LEVEL": "CRITICAL"}
    child = subprocess.run(
        [sys.executable, __file__, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if child.returncode:
        raise SystemExit(child.stderr[-2000:])
    return json.loads(child.stdout.splitlines()[-1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=1500)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", nargs=2, metavar=("FOLDER", "WORKERS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        folder, workers = Path(args.child[0]), int(args.child[1])
        print(json.dumps(do_run(folder, workers) if workers else unit_costs(folder)))
        return
    with tempfile.TemporaryDirectory() as place:
        folder, load = Path(place), os.getloadavg()[0]
        make_work(folder, args.rows)
        costs = in_child("--child", place, "0")
        measured: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
        for number in range(args.rounds):
            for workers in (1, 2) if number % 2 == 0 else (2, 1):
                measured[workers].append(in_child("--child", place, str(workers)))
    pairs = list(zip(measured[1], measured[2], strict=True))
    document = {
        "load_average": load,
        "unit_ms": round(costs["unit"], 2),
        "task_ms": round(costs["task"], 1),
        "rate": {n: [round(one["rate"], 1) for one in runs] for n, runs in measured.items()},
        "wall_ratio": round(statistics.median(two["rate"] / one["rate"] for one, two in pairs), 2),
        "cpu_ms_a_row": {n: [round(one["cpu"], 2) for one in runs] for n, runs in measured.items()},
        "cpu_ratio": round(2 * statistics.median(one["cpu"] / two["cpu"] for one, two in pairs), 2),
    }
    print(json.dumps(document, indent=1))
    if args.out:
        args.out.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
