"""Selectors next to the packages that have them: GIO, matching pursuit, facility location, LESS scoring from a store.

    python benchmarks/scoring.py [--only gio omp coverage less] [--gio FOLDER] [--small] [--out FILE]

Every pair runs interleaved on the same arrays; figures are medians over rounds of the ratio inside a round, of CPU
seconds on one thread. `--gio` is the folder of the unpacked wheel of `grad-info-opt` 0.1.2 (it needs jax; Spark, which
its `fit` does not use, is replaced by an empty module). A case whose package is not installed is left out. `--small`:
a tenth of the rows of `omp` and `less`, to see that it runs.
"""

import argparse
import json
import sys
import tempfile
import types
from pathlib import Path

import numpy as np
from measure import interleave, machine, ratio

from gradsift.scorers.coverage import facility_location
from gradsift.scorers.gio import Stop, gio_released, uniform_start
from gradsift.scorers.less import similarity
from gradsift.scorers.tagcos import omp

CASES = ("gio", "omp", "coverage", "less")


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def gio(folder):
    """The released loop at its own dims: 100 picks of 1,000 points for 100 targets in 768 dims, 50 steps each."""
    sys.path.insert(0, folder)
    for name in (
        "pyspark",
        "pyspark.sql",
        "pyspark.sql.functions",
        "pyspark.sql.types",
        "pyspark.ml",
        "pyspark.ml.clustering",
    ):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules["pyspark.ml.clustering"].KMeans = sys.modules["pyspark.sql"].SparkSession = None
    import jax.numpy as jnp
    from GIO.GIOKL import GIOKL

    rng = np.random.default_rng(0)
    target, pool = unit(rng.normal(size=(100, 768)) + 0.3), unit(rng.normal(size=(1000, 768)) + 0.1)
    start, picks = uniform_start(768, 0).astype(np.float32), {}

    def theirs():
        chosen, *_ = object.__new__(GIOKL).fit(
            jnp.array(pool), jnp.array(target), D=jnp.array(start), max_iter=99, stop_criterion="min_kl", min_kl=-1e9
        )
        rows = np.asarray(chosen)[-100:]
        picks["theirs"] = [int(((pool - row) ** 2).sum(axis=1).argmin()) for row in rows]

    def ours():
        picks["ours"] = gio_released(pool, target, start, 100, Stop("none")).picks

    return {"ours": ours, "grad-info-opt 0.1.2": theirs}, lambda: picks["ours"] == picks["theirs"]


def pursuit(rows=10_000, size=500):
    """500 atoms of 10,000 in 2,048 dims, ridge 0.01."""
    rng = np.random.default_rng(0)
    atoms = unit(rng.normal(size=(rows, 2048)) + 0.02 * rng.normal(size=2048))
    target, picks = atoms.mean(axis=0), {}

    def ours():
        picks["ours"] = omp(atoms, target, size, ridge=0.01, tol=0.0).atoms

    def rebuilt():
        support, residual = [], target.astype(np.float64)
        for _ in range(size):
            j = int((atoms @ residual.astype(np.float32)).argmax())
            if j in support:
                break
            support.append(j)
            part = atoms[support]
            gram = (part @ part.T).astype(np.float64) + 0.01 * np.eye(len(support))
            x = np.linalg.lstsq(gram, (part @ target).astype(np.float64), rcond=None)[0]
            while x.min() < 0:
                support.pop(int(x.argmin()))
                part = atoms[support]
                gram = (part @ part.T).astype(np.float64) + 0.01 * np.eye(len(support))
                x = np.linalg.lstsq(gram, (part @ target).astype(np.float64), rcond=None)[0]
            residual = target - x @ part
        picks["rebuilt"] = support

    return {"ours": ours, "rebuild and solve": rebuilt}, lambda: picks["ours"] == picks["rebuilt"]


def coverage():
    """200 of 2,000 rows that cover all of them."""
    from submodlib import FacilityLocationFunction

    rows = unit(np.random.default_rng(0).normal(size=(2000, 64)))
    likeness, picks = np.maximum(rows @ rows.T, 0), {}

    def ours():
        picks["ours"] = facility_location(likeness, 200).tolist()

    def theirs():
        function = FacilityLocationFunction(n=2000, mode="dense", sijs=likeness.astype(np.float64), separate_rep=False)
        picks["theirs"] = [j for j, _ in function.maximize(budget=200, optimizer="LazyGreedy", show_progress=False)]

    return {"ours": ours, "submodlib-py 0.0.3": theirs}, lambda: picks["ours"] == picks["theirs"]


def less_scoring(rows, folder, dims=4096, columns=8):
    """Scores of int8 rows of a store through the catalog, against a plain f32 GEMM of the same mapped blocks."""
    import pyarrow as pa

    from gradsift.datastore import examples, features
    from gradsift.datastore.rows import make_block, read_block
    from gradsift.datastore.store import Store

    rng = np.random.default_rng(0)
    store = Store(Path(folder) / "store")
    names = [f"{k:032x}" for k in range(rows)]
    chats = [
        examples.Example(name, [{"role": "user", "content": name}, {"role": "assistant", "content": "x"}], "s")
        for name in names
    ]
    examples.add(store, chats)
    space = features.define_space(store, {"kind": "benchmark"})
    features.plan(store, space, names, {}, 2048)
    pool = examples.define_dataset(store, "pool", "p", dict.fromkeys(names, ""))
    units = features.open_units(store, space, pool.dataset_id)
    for unit_id in units:
        ids = features.unit_ids(store, unit_id)
        gradients = rng.normal(size=(len(ids), dims)).astype(np.float32)
        block = make_block(ids, gradients, pa.table({"n": [0] * len(ids)}), "int8")
        features.commit_unit(store, space, unit_id, block, {})
    means = unit(rng.normal(size=(columns, dims)))
    shards = features.shards_of(store, space)
    scores = {}

    def ours():
        parts = [similarity(b.integers(), means, b.scale) for b in features.read(store, space)]
        scores["ours"] = np.concatenate(parts)

    def gemm():
        blocks = [read_block(store.map(shard))[1] for shard in shards]
        scores["gemm"] = np.concatenate([(b.vectors.astype(np.float32) @ means.T) * b.scale[:, None] for b in blocks])

    return {"ours": ours, "plain GEMM": gemm}, lambda: float(np.abs(scores["ours"] - scores["gemm"]).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=CASES, default=CASES)
    parser.add_argument("--gio", default="")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        cases = {
            "gio": lambda: gio(args.gio),
            "omp": (lambda: pursuit(1_000, 50)) if args.small else pursuit,
            "coverage": coverage,
            "less": lambda: less_scoring(3_277 if args.small else 32_768, folder),
        }
        for name in args.only:
            try:
                pair, equal = cases[name]()
            except ImportError as error:
                print(f"left out: {name} ({error})", file=sys.stderr, flush=True)
                continue
            seconds = interleave(pair, args.rounds)
            other = next(k for k in pair if k != "ours")
            rows.append(
                {
                    "case": name,
                    "against": other,
                    "equal": equal(),  # picks; of scores the largest difference
                    "times_faster": ratio(seconds, other, "ours"),
                    "our_seconds": float(np.median(seconds["ours"]["cpu"])),
                }
            )
            print(rows[-1], flush=True)
    if args.out:
        args.out.write_text(json.dumps({"machine": machine(), "cases": rows}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
