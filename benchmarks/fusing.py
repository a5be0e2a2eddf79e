"""Is a fusion of scores as good as its best member? Each method's picks, trained on, on each target's own test rows.

    python benchmarks/fusing.py RECIPE --store STORE --rows 120 --seeds 5 --out table.json
    python benchmarks/fusing.py RECIPE --store STORE --label-tokens 6000 --at-least 60 --seeds 5 --out table.json
    python benchmarks/fusing.py RECIPE --store STORE --rows 120 --picks --out picks.json

The store is that of a finished run of the recipe. Seeds come first, so that a table of few seeds is whole before one of
more begins; each training is recorded in the store, and the script goes on where it was stopped. `random` draws anew
for each seed, of a budget in label tokens as many of those. `--picks` trains nothing: rows of the target's own source,
label tokens, and what each method shares with LESS. Verdicts are those of validation, against random, all
corrected together.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from gradsift.datastore import runs
from gradsift.datastore.identity import digest_ids
from gradsift.datastore.store import Store
from gradsift.pipelines.features.gather import evidence
from gradsift.pipelines.model.chats import Chats, usable_chats
from gradsift.pipelines.model.work import open_work
from gradsift.pipelines.pool.ingest import ingest
from gradsift.pipelines.recipe import Select, load_recipe
from gradsift.pipelines.runs.last import material_of
from gradsift.pipelines.select.select import choose
from gradsift.pipelines.validate.arms import Arm
from gradsift.pipelines.validate.job import Bench, Benches, Job, run
from gradsift.scorers.ranking import random_k, random_tokens
from gradsift.scorers.verdicts import Losses, Pair, judge

ARMS = {
    "bm25": {"method": "bm25"},
    "rds": {"method": "rds"},
    "less": {"method": "less"},
    "fused": {"method": "fused"},
    "fused, bm25": {"method": "fused", "options": {"of": ["less", "rds", "bm25"]}},
}
DRAW = 7_919


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--label-tokens", type=int)
    parser.add_argument("--at-least", type=int)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--picks", action="store_true", help="train nothing: say what was picked")
    parser.add_argument("--minutes", type=float, default=40, help="start no training after so many")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    budget = {"examples": args.rows, "label_tokens": args.label_tokens, "at_least": args.at_least}
    recipe, stop = load_recipe(args.recipe), time.monotonic() + 60 * args.minutes
    with Store(args.store) as store:
        work = replace(open_work(store, recipe), recipe=recipe)
        material = material_of(store, runs.last_run(store, computed=True))
        if args.picks:
            lines = [line for name in material.targets for line in described(work, material, name, budget)]
            args.out.write_text(json.dumps({"budget": budget, "rows": lines}, indent=1) + "\n", "utf-8")
            return
        chats = Chats(work)
        pool = chats.usable(material.pool.example_ids)
        tokens = [chat.n_label_tokens for chat in chats(pool)]
        benches = {name: bench(work, name) for name in material.targets}
        picks = {name: picked(work, material, name, budget) for name in material.targets}
        found = {}
        for seed in range(args.seeds):
            for target in material.targets:
                count = {"k": args.rows} if args.rows else {"budget": args.label_tokens}
                order = random_k(len(pool), seed=DRAW + seed, **count) if args.rows else random_tokens(
                    tokens, seed=DRAW + seed, **count
                )  # fmt: skip
                arms = {"random": [pool[k] for k in order], **picks[target]}
                for name, ids in arms.items():
                    if time.monotonic() > stop:
                        break
                    arm = Arm(name, seed, tuple(ids), (target,))
                    measured = Benches({target: benches[target]}, {})
                    job = Job(name, work.order(model=True), arm, recipe.validation.lr, None, measured)
                    began = time.perf_counter()
                    result = run(work, job, chats)
                    found.setdefault((target, name), {})[seed] = result
                    took = time.perf_counter() - began
                    print(f"{target} {name} {seed}: {result.tests[target].loss:.4f}, {took:.1f} s", flush=True)
            rows = table(found, benches)
            args.out.write_text(json.dumps({"budget": budget, "rows": rows}, indent=1) + "\n", "utf-8")
    show(rows)


def bench(work, name):
    settings = work.recipe.validation
    ids = ingest(work.store, "test", name, [work.recipe.targets[name].test], work.recipe.seed)[0].example_ids
    order = np.random.default_rng([work.recipe.seed, 1]).permutation(len(ids))[: settings.test_rows]
    kept, rows = usable_chats(work, sorted(ids[k] for k in order))
    return Bench(name, digest_ids(kept), rows, [], "loss", 0)


def picked(work, material, target, budget):
    """{method: ids}."""
    found = {}
    e = evidence(work, material, target)
    for name, method in ARMS.items():
        choice, _ = choose(e, Select(**method, **budget))
        found[name] = [e.ids[k] for k in choice.order]
    return found


def described(work, material, target, budget):
    """A line for each method: what its picks are."""
    e = evidence(work, material, target)
    own, picks = set(work.recipe.targets[target].own_sources), picked(work, material, target, budget)
    source, tokens = dict(zip(e.ids, e.sources(), strict=True)), dict(zip(e.ids, e.label_tokens(), strict=True))
    for name, ids in picks.items():
        line = {"target": target, "arm": name, "examples": len(ids), "label_tokens": sum(tokens[i] for i in ids)}
        line["own_source"] = sum(source[i] in own for i in ids) / len(ids) if own else None
        line["shared_with_less"] = len(set(ids) & set(picks["less"])) / len(ids)
        print(line, flush=True)
        yield line


def table(found, benches):
    rows, pairs = [], []
    for (target, name), results in found.items():
        seeds = sorted(results)
        losses = Losses(np.array([results[s].tests[target].items for s in seeds]), seeds, "anew" if name == "random"
                        else "once")  # fmt: skip
        mean = float(np.mean([results[s].tests[target].loss for s in seeds]))
        one = results[seeds[0]]
        rows.append({"target": target, "arm": name, "seeds": len(seeds), "examples": one.examples,
                     "label_tokens": one.label_tokens, "test_loss": mean})  # fmt: skip
        pairs.append((rows[-1], losses, [row.n_label_tokens for row in benches[target].rows]))
    random = {row["target"]: losses for row, losses, _ in pairs if row["arm"] == "random"}
    compared = [(row, Pair(losses, random[row["target"]], np.array(w, float))) for row, losses, w in pairs
                if row["arm"] != "random"]  # fmt: skip
    for (row, _), finding in zip(compared, judge([pair for _, pair in compared]), strict=True):
        row |= {"difference": finding.difference, "low": finding.this_set.low, "high": finding.this_set.high,
                "p_adjusted": finding.this_set.p_adjusted}  # fmt: skip
    return rows


def show(rows):
    targets = list(dict.fromkeys(row["target"] for row in rows))
    print("| arm | " + " | ".join(targets) + " |\n|---|" + "---:|" * len(targets))
    for arm in dict.fromkeys(row["arm"] for row in rows):
        of = {row["target"]: row for row in rows if row["arm"] == arm}
        cells = [f"{of[t]['test_loss']:.3f}" + ("*" if of[t].get("p_adjusted", 1) < 0.05 else "") if t in of else ""
                 for t in targets]  # fmt: skip
        print(f"| {arm} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
