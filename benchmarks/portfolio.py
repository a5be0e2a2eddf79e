"""`auto` against its candidates: by real validation on test rows, and how often its rule picks well.

    python benchmarks/portfolio.py STORE --targets gsm8k mbpp … [--of less rds bm25] [--examples 40] --out FILE
    python benchmarks/portfolio.py --simulate [--times 100] --out FILE

The first takes the store's last run. For each target `auto` chooses by trials on `val`, then every candidate and
`random` are trained for each seed and measured on test rows; `auto`'s rows are its winner's, so it is trained once with
it. All that was trained is recorded in the store: stopped, it goes on.

The second asks how often the rule (methods/portfolio.py itself) picks the best, if candidates differ as they did in
recorded validation of four targets. A candidate's loss of seed s on val row v is its recorded mean
+ seed_s + row_v, with the recorded standard deviations over seeds, and over rows as the width of the recorded intervals
tells (of 48 test rows). That each half of the target chooses worse than all of it is not in it.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from methods import difference, figures

import gradsift
from gradsift.datastore.examples import Dataset
from gradsift.datastore.store import Store
from gradsift.pipelines.methods.measures import Trials
from gradsift.pipelines.methods.portfolio import SEED, portfolio
from gradsift.pipelines.methods.registry import Choice

RESULTS = Path(__file__).parent / "results"
RECORDED = RESULTS / "validation-four-targets.json"
CANDIDATES = ("less", "rds", "bm25", "embed", "length")
TEST_ROWS = 48  # of the recorded tables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, nargs="?")
    parser.add_argument("--targets", nargs="*")
    parser.add_argument("--of", nargs="*", default=["less", "rds", "bm25"])
    parser.add_argument("--examples", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--test-rows", type=int, default=60)
    parser.add_argument("--simulate", action="store_true")
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.simulate:
        write(args.out, simulated(args.times))
        return
    rows = []
    print("| target | auto took | trials | − random | best on test | auto − best | verdicts against candidates |")
    print("|---|---|---:|---:|---|---:|---|")
    with Store(args.store) as store:
        for target in args.targets:
            rows.append(measured(store, target, args))
            write(
                args.out,
                {"settings": {k: str(v) for k, v in vars(args).items() if k not in ("store", "out")}, "targets": rows},
            )


def write(path: Path, found: dict) -> None:
    path.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


def measured(store: Store, target: str, args: argparse.Namespace) -> dict:
    """Choose by `auto` for a target, validate it beside its candidates, and print a line."""
    (made,) = gradsift.select("auto", examples=args.examples, target=target, options={"of": args.of}, store=store)
    settings = {
        "seeds": list(range(args.seeds)), "epochs": args.epochs, "lr": 1e-3, "test_rows": args.test_rows,
        "arms": ["random", *args.of],
    }  # fmt: skip
    arms = {arm.arm: arm for arm in gradsift.validate(settings, store=store).arms}
    ours, told = arms["selected"], made.portfolio
    best = min(args.of, key=lambda name: arms[name].test_loss_mean)
    verdicts = {name: versus.verdict for name, versus in ours.versus.items() if name in args.of}
    gap = ours.test_loss_mean - arms[best].test_loss_mean
    said = ", ".join(f"{name} {word}" for name, word in verdicts.items() if name != told.won)
    versus = difference(asdict(ours.versus["random"]))
    print(f"| {target} | {told.won} | {told.trainings} | {versus} | {best} | {gap:+.4f} | {said} |", flush=True)
    return {
        "target": target,
        "portfolio": asdict(told),
        "best_on_test": best,
        "auto_minus_best": gap,
        "arms": {name: figures(arm) | {"losses": list(arm.test_loss)} for name, arm in arms.items()},
        "auto_against": {name: asdict(versus) for name, versus in ours.versus.items()},
    }


def simulated(times: int) -> dict:
    """For each recorded target and size of `val`: how often the best is picked, and what is lost where it is not."""
    rows = []
    print("| target | candidates | val rows | best picked | mean loss of picking, nats | of the gain | > random |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, means, of_seeds, of_rows in recorded():
        random, best = means["random"], min(v for k, v in means.items() if k != "random")
        for val in (16, 32, 64):
            picked = [means[pick(means, of_seeds, of_rows, val, time)] for time in range(times)]
            row = {
                "target": name, "means": means, "sd_seeds": of_seeds, "sd_rows": of_rows, "val": val,
                "best": float(np.mean(np.array(picked) == best)), "regret": float(np.mean(picked)) - best,
                "worse_than_random": float(np.mean(np.array(picked) > random)),
            }  # fmt: skip
            row["of_gain"] = row["regret"] / (random - best)
            rows.append(row)
            shown = [f"{row[k]:.2f}" for k in ("best",)] + [f"{row['regret']:.4f}", f"{row['of_gain']:.1%}"]
            print(
                f"| {name} | {len(means) - 1} | {val} | {' | '.join(shown)} | {row['worse_than_random']:.2f} |",
                flush=True,
            )
    return {"times": times, "rows": rows}


def recorded():
    """(target, {candidate or random: mean loss}, sd over seeds, sd over rows) of what was validated."""
    lines = json.loads(RECORDED.read_text("utf-8"))["arms"]
    for target in dict.fromkeys(line["target"] for line in lines):
        mine = {line["arm"].replace("selected", "less"): line for line in lines if line["target"] == target}
        kept = {name: line for name, line in mine.items() if name in (*CANDIDATES, "random")}
        versus = mine["less"]["versus"]["random"]
        of_seeds = float(np.median([np.std(line["test_loss"], ddof=1) for line in kept.values()]))
        of_mean = ((versus["high"] - versus["low"]) / 3.92) ** 2 - 2 * of_seeds**2 / 3
        of_rows = (max(0.0, of_mean) * TEST_ROWS / 2) ** 0.5
        yield target, {name: line["test_loss_mean"] for name, line in kept.items()}, of_seeds, of_rows


def pick(means: dict, of_seeds: float, of_rows: float, val: int, time: int) -> str:
    """What the rule takes in one draw of seeds and rows."""
    ids = [f"{k:03d}" for k in range(val)]
    rng = np.random.default_rng(time)
    rows = {name: rng.normal(0, of_rows, val) for name in means}
    seeds = {name: rng.normal(0, of_seeds, (2, 64)) for name in means}
    target = Dataset(0, "target", "val", "", ids, [""] * val)

    def losses(_label, trials):
        return [means[t.name] + seeds[t.name][int(t.example_ids[0]), t.seed - SEED] + rows[t.name] for t in trials]

    trials = Trials(lambda: (ids, np.ones(val, np.int64)), 2, lambda t: t.epochs, lambda t: float(t.epochs), losses)
    e = SimpleNamespace(target=target, seed=0, encoder=None, ids=["0", "1"], trials=lambda: trials)
    e.towards = lambda part, seed: SimpleNamespace(**vars(e) | {"target": part, "seed": seed})

    def by(there, _name):
        first = len(there.target.example_ids) < val and ids[0] not in there.target.example_ids
        return Choice(np.array([int(first)])), np.zeros(2)

    of = [name for name in means if name != "random"]
    return portfolio(e, by, of=of, flops=1e9).portfolio.won


if __name__ == "__main__":
    main()
