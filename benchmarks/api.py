"""The functions of `import gradsift` beside the commands, on the same store and the same work, in one interleaved run.

    python benchmarks/api.py [--rounds 7] [--processes 5]

A small store is made from the demo's data. Four works (twelve questions of `query`, `select`, `export`, `status`) are
each done in four ways, without the start of a process:

- `function`: what the command calls, on an open store;
- `api open`: the function of `import gradsift`, on an open store;
- `command`: the command's own function, which opens the store for each call and prints its document into a string;
- `api folder`: the function of `import gradsift`, with the store's folder, which opens it for each call.

The ratio of `api open` to `function`, and of `api folder` to `command`, is the median over rounds of the ratio inside
each round, of wall and of CPU seconds. Then for scale the command as a user starts it, beside a script that imports
gradsift and asks once, each in a process of its own.
"""

import argparse
import contextlib
import io
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measure import interleave, machine, ratio

import gradsift
from gradsift.cli import app
from gradsift.datastore import selections, versions
from gradsift.datastore.overview import overview
from gradsift.datastore.store import Store
from gradsift.pipelines.demo.data import write_demo_data
from gradsift.pipelines.demo.model import make_demo_model
from gradsift.pipelines.export.export import export
from gradsift.pipelines.query.query import Question, ask
from gradsift.pipelines.recipe import Export
from gradsift.pipelines.runs.reselect import reselect
from gradsift.pipelines.runs.told import told_of

QUESTIONS = [f"Write SQL: the names of all books whose price is above {number}." for number in range(12)]
ANSWER = "SELECT name FROM books WHERE price > 5;"
CHOSEN = {"method": "less", "rule": None, "options": {}, "encoder": None, "fraction": None, "label_tokens": None}
PAIRS = (("api open", "function"), ("api folder", "command"))
Cases = dict[str, Callable[[], object]]


def make(folder: Path, rows: int) -> Path:
    """A store of a finished run over rows of the demo's pool."""
    write_demo_data(folder)
    make_demo_model(folder / "model", steps=3)
    recipe = {
        "name": "small",
        "pool": [{"path": str(folder / "pool.jsonl"), "rows": rows}],
        "targets": {"sql": {"val": {"path": str(folder / "val.jsonl")}}},
        "decontaminate": None,
        "model": {"path": str(folder / "model")},
        "encoding": {"max_length": 128},
        "lora": {"r": 4},
        "warmup": {"fraction": 0.1, "min_examples": 16, "epochs": 2, "batch_size": 8, "lr": 1e-3},
        "features": {"projector": {"dim": 512}, "plain_rows": True},
        "select": {"examples": 20},
    }
    gradsift.run(recipe, folder / "store")
    return folder / "store"


def command(which: str, /, *arguments: Any, **options: Any) -> str:
    """What a command prints with --json."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()):
        app[which].default_command(*arguments, json=True, **options)
    return out.getvalue()


def works(root: Path, store: Store, out: Path) -> dict[str, Cases]:
    """{work: {way: what does it}}."""

    def fresh(way: str) -> Path:
        """A folder without an export: one that is there as it should be is not written again."""
        shutil.rmtree(out / way, ignore_errors=True)
        return out / way

    def write() -> None:
        chosen = selections.get(store, "again-sql")
        recipes = versions.recipes_of(store, "again-sql", chosen)
        export(
            store,
            chosen,
            recipes,
            fresh("function"),
            Export.model_validate(recipes.resolved.get("export", {})),
            told=told_of(store, chosen),
        )

    def asked(ask: Callable[[str], object]) -> Callable[[], object]:
        return lambda: [ask(question) for question in QUESTIONS]

    def choose(**more: Any) -> list[Any]:
        return gradsift.select("less", examples=10, name="again", **more)

    found: dict[str, Cases] = {
        "query x 12": {
            "function": asked(lambda text: ask(store, Question(text, answer=ANSWER))),
            "api open": asked(lambda text: gradsift.query(text, answer=ANSWER, store=store)),
            "command": asked(lambda text: command("query", text, answer=ANSWER, store=root)),
            "api folder": asked(lambda text: gradsift.query(text, answer=ANSWER, store=root)),
        },
        "select": {
            "function": lambda: reselect(store, CHOSEN | {"examples": 10}, name="again"),
            "api open": lambda: choose(store=store),
            "command": lambda: command("select", method="less", examples=10, name="again", store=root),
            "api folder": lambda: choose(store=root),
        },
        "export": {
            "function": write,
            "api open": lambda: gradsift.export("again-sql", fresh("open"), store=store),
            "command": lambda: command("export", "again-sql", fresh("command"), store=root),
            "api folder": lambda: gradsift.export("again-sql", fresh("folder"), store=root),
        },
        "status": {
            "function": lambda: overview(store),
            "api open": lambda: gradsift.status(store=store),
            "command": lambda: command("status", store=root),
            "api folder": lambda: gradsift.status(store=root),
        },
    }
    return found


def processes(root: Path, rounds: int) -> None:
    """A question and a status, each in a process of its own: the command, and a script."""

    def started(*arguments: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True)

    ask = f"gradsift.query({QUESTIONS[0]!r}, answer={ANSWER!r}, store={str(root)!r})"
    where = ("--store", str(root), "--json")
    cases = {
        "query, command": started("-m", "gradsift", "query", QUESTIONS[0], "--answer", ANSWER, *where),
        "query, script": started("-c", f"import gradsift; {ask}"),
        "status, command": started("-m", "gradsift", "status", *where),
        "status, script": started("-c", f"import gradsift; gradsift.status(store={str(root)!r})"),
    }
    seconds = interleave(cases, rounds)
    for name in cases:
        print(f"{name}: {statistics.median(seconds[name]['wall']):.2f} s")
    for work in ("query", "status"):
        print(f"{work}: script / command {ratio(seconds, f'{work}, script', f'{work}, command', 'wall'):.3f} wall")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--only", help="one of the works, by the start of its name")
    args = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        root = make(Path(name), args.rows)
        with gradsift.open_store(root) as store:
            choices = works(root, store, Path(name) / "out")
            choices["select"]["function"]()  # what is exported
            for work, cases in choices.items():
                if not work.startswith(args.only or ""):
                    continue
                seconds = interleave(cases, args.rounds)
                for way, taken in seconds.items():
                    wall, cpu = (1e3 * statistics.median(taken[clock]) for clock in ("wall", "cpu"))
                    print(f"{work}, {way}: {wall:.1f} ms wall, {cpu:.1f} ms CPU")
                for way, floor in PAIRS:
                    both = {clock: ratio(seconds, way, floor, clock) for clock in ("wall", "cpu")}
                    print(f"{work}: {way} / {floor} {both['wall']:.3f} wall, {both['cpu']:.3f} CPU", flush=True)
        if args.processes:
            processes(root, args.processes)


if __name__ == "__main__":
    main()
