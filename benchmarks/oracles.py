"""Every method from a store that the real flow made, against a loop of autograd: the table of docs/results.md.

    python benchmarks/oracles.py

The cases are those of tests/oracles/test_from_store.py: a Llama of half a million weights after a real warm-up, 40 pool
rows, 7 target rows in two subtasks, two checkpoints, f16 rows. An error is the largest difference from what autograd
gives, in standard deviations of that.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "oracles")]
import test_from_store as oracles  # noqa: E402 - found by the path above

from gradsift.datastore.store import Store  # noqa: E402
from gradsift.pipelines.demo.data import write_demo_data  # noqa: E402
from gradsift.pipelines.demo.model import make_demo_model  # noqa: E402
from gradsift.pipelines.methods.registry import in_words, methods  # noqa: E402
from gradsift.pipelines.runs.curate import curate  # noqa: E402


def main() -> None:
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        make_demo_model(folder / "model", steps=3)
        write_demo_data(folder)
        lines = (folder / "pool.jsonl").read_bytes().splitlines(keepends=True)
        (folder / "small.jsonl").write_bytes(b"".join(line for line in lines[:160] if len(line) < 2_000))
        oracles.write_rows(folder, folder, 40)
        more = {"projector": {"dim": oracles.DIM}, "signals": {"answer_loss": True}}
        with Store(folder / "store") as store:
            curate(oracles.small_recipe(folder, folder / "model", **more), store)
            report(oracles.Truth(store, None))


def report(truth) -> None:
    print("| method | looks at | error of its score | rows that its rule is given |")
    print("|---|---|---:|---|")
    for name, method in methods().items():
        score = "" if name not in oracles.SCORES or name == "embed" else f"{error(truth, name):.0e}"
        handed = oracles.HANDED.get(method.rule, [])
        given = ", ".join(sorted({f"`{function}`" for _, function, _, _ in handed})) if handed else ""
        if score or given:
            print(f"| `{name}` | {in_words(method)} | {score} | {given} |")


def error(truth, name: str) -> float:
    expected = np.asarray(oracles.SCORES[name](truth), np.float64)
    return float(np.abs(truth.found(name) - expected).max() / expected.std())


if __name__ == "__main__":
    main()
