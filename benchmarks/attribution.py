"""How well scores track the truth on a small model: one-step test, LDS, removal.

    python benchmarks/attribution.py RECIPE --store STORE --target NAME … --losses losses.npz --out results.json

The recipe must have run in the store (`gradsift run RECIPE`, with `features.plain_rows: true`). Trains `--runs` times
on halves of `--rows` pool rows for the LDS of all targets, minutes to an hour on one core; `--losses` keeps
what each training came to, so that other scores are judged without training again. Removal trains a few times more for
each score that is named for it.
"""

import argparse
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.update(TRANSFORMERS_VERBOSITY="error", HF_HUB_DISABLE_PROGRESS_BARS="1")

import numpy as np
from measure import machine

from gradsift.datastore import runs
from gradsift.datastore.errors import InputError
from gradsift.datastore.identity import fingerprint
from gradsift.datastore.store import Store
from gradsift.pipelines.features.gather import evidence
from gradsift.pipelines.methods.evidence import Evidence
from gradsift.pipelines.model.work import Work, open_work
from gradsift.pipelines.recipe import Sft, load_recipe
from gradsift.pipelines.report.cost import weights_outside_embeddings
from gradsift.pipelines.runs.last import material_of
from gradsift.pipelines.validate.attribution import (
    attributions,
    by_row,
    exact_dots,
    halves,
    lds,
    measure_halves,
    one_step,
    removal,
    removal_at_random,
    trainer,
)

SCORES: dict[str, tuple[str, dict[str, Any]]] = {
    "less": ("similarity", {}),
    "rank": ("similarity", {"aggregate": "rank"}),
    "vote": ("similarity", {"aggregate": "vote"}),
    "mild": ("similarity", {"length": "mild"}),
    "full": ("similarity", {"length": "full"}),
    "plain": ("similarity", {"represent": "plain"}),
    "trak": ("influence", {}),
    "trak_damped": ("influence", {"ridge": 30.0}),
    "tracin": ("influence", {"precondition": "none"}),
    "datainf": ("influence", {"precondition": "datainf"}),
    "gist": ("influence", {"precondition": "gist"}),
    "dvemb": ("dvemb", {}),
    "dvemb_sgd": ("dvemb", {"represent": "plain", "rate": 200.0}),
}


def interval(values: np.ndarray, seed: int = 0) -> list[float]:
    """Mean with its 95 % bootstrap interval over target rows."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (4000, len(values)))].mean(axis=1)
    return [float(values.mean()), *np.quantile(means, [0.025, 0.975]).tolist()]


class Losses:
    """Losses of trainings in a file, with what decided them: another training is refused."""

    def __init__(self, path: Path | None, key: str) -> None:
        self.path, self.key = path, key

    def known(self) -> np.ndarray | None:
        """[R, V] losses that are kept, if any."""
        if self.path is None or not self.path.exists():
            return None
        with np.load(self.path) as kept:
            if str(kept["key"]) != self.key:
                raise InputError(f"{self.path} has the losses of other trainings; name another file")
            return kept["losses"]

    def keep(self, losses: np.ndarray) -> None:
        """Write them, whole or not at all."""
        print(f"{len(losses)} trainings", flush=True)
        if self.path is not None:
            part = self.path.with_suffix(".part.npz")
            np.savez(part, losses=losses, key=self.key)
            part.replace(self.path)


def prices(work: Work, e: Evidence, names: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """For each pool example: bytes of the rows that a score reads, and FLOPs of the pass that made them (4·N a token
    and checkpoint) and of the score itself for one target vector."""
    tokens = float(np.mean(e.signal("n_tokens")))
    one_pass = 4.0 * weights_outside_embeddings(work.recipe) * tokens
    dims, hidden, count = e.dims("gradients"), e.dims("embedding"), len(e.pairs)
    row = dims * {"int8": 1.0, "int4": 0.5, "f16": 2.0}[work.recipe.features.row_dtype] + 8
    found = {}
    for name in names:
        rows = {"dvemb": 2, "rds": 0, "bm25": 0, "random": 0, "exact_dot": 0}.get(name, 1)
        product = 2.0 * dims * dims if name in ("trak", "trak_damped", "dvemb", "dvemb_sgd") else 2.0 * dims
        passes = {"rds": 0.5, "bm25": 0.0, "random": 0.0, "exact_dot": 1.0}.get(name, float(count))
        found[name] = {
            "bytes": rows * count * row + (2 * hidden if name == "rds" else 0),
            "flops": passes * one_pass + (count * product if rows else 0.0),
        }
    return found


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--target", nargs="+", required=True)
    parser.add_argument("--scores", nargs="*", choices=SCORES, default=list(SCORES))
    parser.add_argument("--removal", nargs="*", default=[], help="scores of which the best rows are left out")
    parser.add_argument("--rows", type=int, default=240)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--steps", type=int, default=96, help="examples of the one-step test; 0: none")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--losses", type=Path, help="file that keeps the losses of the trainings")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    start = time.perf_counter()
    document: dict[str, Any] = {
        "machine": machine(),
        "recipe": chosen.recipe.name,
        "rows": chosen.rows,
        "runs": chosen.runs,
        "targets": {},
    }
    with Store(chosen.store, create=False) as store:
        work = open_work(store, load_recipe(chosen.recipe))
        material = material_of(store, runs.last_run(store, computed=True))
        by_target = {name: by_row(work, evidence(work, material, name)) for name in chosen.target}
        e = next(iter(by_target.values()))
        order = np.random.default_rng([e.seed, 6]).permutation(len(e.ids))[: chosen.rows]
        ids = [e.ids[k] for k in np.sort(order)]
        queries = [i for one in by_target.values() for i in one.target.example_ids]
        training = Sft(epochs=chosen.epochs, batch_size=8, lr=chosen.lr)
        train = trainer(work, queries, ids, training)
        parts = halves(len(ids), chosen.runs, e.seed)
        kept = Losses(chosen.losses, fingerprint([ids, queries, training.model_dump(mode="json")]))
        losses = measure_halves(train, parts, kept.known(), kept.keep)
        first = 0
        for name, one in by_target.items():
            own = slice(first, first + len(one.target.example_ids))
            first = own.stop
            scores = dict(attributions(one, ids, {s: SCORES[s] for s in chosen.scores}))
            scores["exact_dot"] = exact_dots(work, one, ids)
            found: dict[str, Any] = {"lds": {s: interval(lds(v, parts, losses[:, own])) for s, v in scores.items()}}
            found["removal"] = {s: [] for s in chosen.removal}
            for fraction in (0.1, 0.3) if chosen.removal else ():
                at_random = removal_at_random(lambda part, own=own: train(part)[own], len(ids), fraction, 3, e.seed)
                for s, results in found["removal"].items():
                    results.append(removal(lambda part, own=own: train(part)[own], scores[s], fraction, at_random))
            if chosen.steps:
                step = one_step(work, one, chosen.steps)
                found["one_step"] = {
                    "pearson": step.pearson,
                    "spearman": step.spearman,
                    "same_sign": step.same_sign,
                    "examples": chosen.steps,
                }
            document["targets"][name] = found
            print(json.dumps({name: found}, indent=1), flush=True)
        document["price"] = prices(work, e, scores)
    document["trainings"] = len(losses)
    document["seconds"] = round(time.perf_counter() - start)
    if chosen.out:
        chosen.out.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
