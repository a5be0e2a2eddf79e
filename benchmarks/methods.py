"""Every method on one pool: source precision of what it selects, and the target's test loss after training on it.

    python benchmarks/methods.py RECIPE --store STORE [--methods less tagcos …] [--encoder FOLDER] --out table.json

Every method is a run of the recipe under its own name, with the same budget. The first computes the rows, and the
others find them. All arms are trained by the recipe's `validate` section, against the baselines it names. What is in
the store already is taken from it, so the script can be stopped and started again. A method that cannot run (no
encoder, a package that is not installed) is noted and passed over.
"""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

from gradsift.datastore.errors import GradsiftError
from gradsift.datastore.store import Store
from gradsift.pipelines.methods.registry import methods
from gradsift.pipelines.recipe import Recipe, load_recipe, parse_recipe
from gradsift.pipelines.runs.curate import curate

COMPARED = ("random", "random_lengths")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--methods", nargs="*", default=[m for m in methods() if m != "random"])
    parser.add_argument("--encoder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    base = load_recipe(args.recipe)
    rows, failures = [], []
    with Store(args.store) as store:
        for method in args.methods:
            started = time.perf_counter()
            try:
                result = curate(with_method(base, method, args.encoder), store)
            except GradsiftError as error:
                failures.append({"method": method, "error": str(error)})
                print(f"{method}: {error}", flush=True)
            else:
                seconds = next(s.seconds for s in result.stages if s.stage == "select")
                rows += table(method, result, seconds)
                print(f"{method}: {time.perf_counter() - started:.0f} s", flush=True)
            args.out.write_text(json.dumps({"rows": rows, "failures": failures}, indent=1) + "\n", "utf-8")
    show(rows)


def with_method(recipe: Recipe, method: str, encoder: Path | None) -> Recipe:
    data = recipe.model_dump(mode="json", by_alias=True)
    budget = {k: data["select"][k] for k in ("fraction", "examples", "label_tokens")}
    data["select"] = {"method": method, "encoder": str(encoder.resolve()) if encoder else None, **budget}
    data["name"] = f"{recipe.name}-{method.replace('_', '-')}"
    return parse_recipe(data)


def table(method, result, seconds):
    chosen = {s.target: s for s in result.selections}
    for arm in result.arms:
        target = arm.target
        if arm.arm != "selected":
            yield {"method": arm.arm, "of": method, "target": target, **figures(arm)}
            continue
        yield {
            "method": method,
            "of": method,
            "target": target,
            **figures(arm),
            "versus": {name: asdict(versus) for name, versus in arm.versus.items()},
            "pool_share": chosen[target].source_share_of_pool,
            "select_seconds": seconds,
        }


def figures(arm):
    return {
        "examples": arm.examples,
        "label_tokens": arm.label_tokens,
        "source_precision": arm.source_precision,
        "test_loss": arm.test_loss_mean,
        "ci95": arm.test_loss_ci95,
        "seeds": list(arm.seeds),
    }


def show(rows):
    columns = ("method", "target", "precision", "tokens", "test loss", "− random", "− same lengths")
    print(f"| {' | '.join(columns)} |")
    print("|" + "---|" * len(columns))
    for row in rows:
        if "versus" not in row:
            continue
        cells = [difference(row["versus"].get(name)) for name in COMPARED]
        precision = "" if row["source_precision"] is None else f"{row['source_precision']:.2f}"
        loss = "diverged" if row["test_loss"] is None else f"{row['test_loss']:.3f}"
        loss += "" if row["ci95"] is None else f" ± {row['ci95']:.3f}"
        line = [row["method"], row["target"], precision, f"{row['label_tokens']:.0f}", loss, *cells]
        print(f"| {' | '.join(line)} |")


def difference(versus):
    if versus is None:
        return ""
    bounds = "" if versus["low"] is None else f" [{versus['low']:+.3f}, {versus['high']:+.3f}]"
    return f"{versus['difference']:+.3f}{bounds}"


if __name__ == "__main__":
    main()
