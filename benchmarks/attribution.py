"""How well scores track the truth on a small model: one-step test, LDS, removal.

    python benchmarks/attribution.py RECIPE --store STORE --target NAME --out results.json

The recipe must have run in the store (`gradsift run RECIPE`). Trains `--runs` times on halves of `--rows` pool rows for
the LDS, and a few times more for the removal: minutes to an hour on one core, by the model.
"""

import argparse
import json
import os
import time
from pathlib import Path

os.environ.update(TRANSFORMERS_VERBOSITY="error", HF_HUB_DISABLE_PROGRESS_BARS="1")

import numpy as np
from measure import machine

from gradsift.datastore import runs
from gradsift.datastore.store import Store
from gradsift.pipelines.features.gather import evidence
from gradsift.pipelines.model.work import open_work
from gradsift.pipelines.recipe import Sft, load_recipe
from gradsift.pipelines.runs.last import material_of
from gradsift.pipelines.validate.attribution import (
    attributions,
    exact_dots,
    halves,
    lds,
    measure_halves,
    one_step,
    removal,
    removal_at_random,
    trainer,
)


def interval(values: np.ndarray, seed: int = 0) -> list[float]:
    """Mean with its 95 % bootstrap interval over target rows."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (4000, len(values)))].mean(axis=1)
    return [float(values.mean()), *np.quantile(means, [0.025, 0.975]).tolist()]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--rows", type=int, default=240)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--steps", type=int, default=96, help="examples of the one-step test")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    start = time.perf_counter()
    with Store(chosen.store, create=False) as store:
        work = open_work(store, load_recipe(chosen.recipe))
        e = evidence(work, material_of(store, runs.last_run(store, computed=True)), chosen.target)
        step = one_step(work, e, chosen.steps)
        print(f"one step: rank correlation {step.spearman:.3f}, same sign {step.same_sign:.3f}", flush=True)
        order = np.random.default_rng([e.seed, 6]).permutation(len(e.ids))[: chosen.rows]
        ids = [e.ids[k] for k in np.sort(order)]
        scores = dict(attributions(store, e, ids))
        scores["exact_dot"] = exact_dots(work, e, ids)
        training = Sft(epochs=chosen.epochs, batch_size=8, lr=chosen.lr)
        train = trainer(work, e, ids, training)
        parts = halves(len(ids), chosen.runs, e.seed)
        losses = measure_halves(train, parts, lambda n: print(f"{n} of {chosen.runs}", flush=True))
        correlations = {name: interval(lds(s, parts, losses)) for name, s in scores.items()}
        removed: dict[str, list[dict]] = {name: [] for name in scores}
        for fraction in (0.1, 0.3):
            at_random = removal_at_random(train, len(ids), fraction, 3, e.seed)
            for name, s in scores.items():
                removed[name].append(removal(train, s, fraction, at_random))
    document = {
        "machine": machine(),
        "recipe": chosen.recipe.name,
        "target": chosen.target,
        "rows": chosen.rows,
        "runs": chosen.runs,
        "one_step": {
            "pearson": step.pearson,
            "spearman": step.spearman,
            "same_sign": step.same_sign,
            "examples": chosen.steps,
        },
        "lds": correlations,
        "removal": removed,
        "seconds": round(time.perf_counter() - start),
    }
    print(json.dumps({"lds": correlations, "removal": removed}, indent=1))
    if chosen.out:
        chosen.out.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
