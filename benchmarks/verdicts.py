"""How often a report says what is not so, and how often it finds what is: simulated reports through the real decision.

    python benchmarks/verdicts.py [--reports 1000] [--out benchmarks/results/verdicts.json]
    python benchmarks/verdicts.py --again benchmarks/results/validation-four-targets.json [--rows 48]

A report has `selected`, `random`, which is drawn anew for each seed, and other arms, which are not. The loss of arm a,
seed s, test row i is

    L_asi = row_i + seed_s + draw_as + row_of_draw_asi + training_as + rest_asi − effect·[a is selected],

`draw` and `row_of_draw` belonging to the set of rows: one for all seeds of an arm, or one for each seed where it is
drawn anew. Rows and what a draw does to them are skewed; weights of rows (label tokens) are log-normal. In units of
`draw`'s standard deviation: training 0.75, seed 0.6, row_of_draw 5 (a third of the variance of a mean over 48 rows is
that of the draw), rest 1.25.

False verdicts are of whole reports. A verdict about the method (`better`, `worse`) is false where no method has an
effect, whatever the draws did; one about a set (`this set …`) where its draws have none either. `old` is the rule
before: paired t over seeds and Holm within each arm, with a bootstrap interval that is left out here.

`--again` makes the verdicts of a recorded table of an older version anew: from its losses of seeds, and from the widths
of its bootstrap intervals, which tell what rows add to the spread over seeds. Losses of rows are not in the table.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from gradsift.pipelines.recipe.validate import AT_RANDOM
from gradsift.pipelines.validate.table import pair_of, to_compare
from gradsift.scorers.verdicts import Drawn, Finding, Losses, Pair, judge

NOISE = {"draw": 1.0, "row_of_draw": 5.0, "training": 0.75, "seed": 0.6, "rest": 1.25, "tokens": 0.7}
QUIET = {"draw": 0.0, "row_of_draw": 0.0}  # sets that do not differ
ONLY_DRAWS = {"row_of_draw": 0.0, "training": 0.05, "seed": 0.0, "rest": 0.0}  # nothing but the draw
SEEDS = (3, 5, 10)


def target(
    rng: np.random.Generator, arms: int, seeds: int, rows: int, effect: float, own: float | None = None, **noise: float
) -> list[Pair]:
    """The comparisons of one target: `selected` with each other arm, and each of those with `random`. `own` is how much
    sets of `selected` vary, in units of random ones; then it is also drawn again for each seed, as a last arm."""
    scale = NOISE | noise
    shape = (arms + (own is not None), seeds, rows)
    anew = [1] if own is None else [1, arms]

    def of_sets(last: int, skewed: bool) -> np.ndarray:
        size = (*shape[:2], last)
        values = (rng.gamma(2.0, size=size) - 2) / 2**0.5 if skewed else rng.standard_normal(size)
        redrawn = values[anew].copy()
        values[:] = values[:, :1]
        values[anew] = redrawn
        if own is not None:
            values[[0, arms]] *= own
        return values

    losses = 4 * rng.gamma(2.0, size=rows) + scale["rest"] * rng.standard_normal(shape)
    losses += scale["seed"] * rng.standard_normal((seeds, 1))
    losses += scale["training"] * rng.standard_normal((*shape[:2], 1))
    losses += scale["draw"] * of_sets(1, False) + scale["row_of_draw"] * of_sets(rows, True)
    losses[[0, *anew[1:]]] -= effect
    weights = np.exp(scale["tokens"] * rng.standard_normal(rows))
    of = [Losses(losses[a], range(seeds), "anew" if a in anew else "once") for a in range(len(losses))]
    pairs = [Pair(of[0], of[a], weights, of[anew[-1]], of[1], first=a == 1) for a in range(1, arms)]
    return pairs + [Pair(of[a], of[1], weights, of[1]) for a in range(2, len(of))]


def report(rng: np.random.Generator, targets: int, **settings: Any) -> list[Pair]:
    """The comparisons of a report."""
    return [pair for _ in range(targets) for pair in target(rng, **settings)]


def old_rule(pairs: Sequence[Pair]) -> list[bool]:
    """Is each pair called different: paired t over seeds, Holm among the comparisons of the pair's arm."""
    p = np.array([_paired(pair) for pair in pairs])
    called = np.zeros(len(pairs), bool)
    arms = [id(pair.arm) for pair in pairs]
    for arm in set(arms):
        mine = np.flatnonzero([a == arm for a in arms])
        order = mine[np.argsort(p[mine])]
        for rank, k in enumerate(order):
            if p[k] * (len(order) - rank) >= 0.05:
                break
            called[k] = True
    return called.tolist()


def _paired(pair: Pair) -> float:
    difference = (pair.arm.values - pair.other.values) @ pair.weights / pair.weights.sum()
    return float(stats.ttest_1samp(difference, 0.0).pvalue)


def false_rates(reports: int, **settings: Any) -> dict[str, float]:
    """Shares of reports without any effect that have a verdict: about the method, about a set, by the old rule; and of
    a random set that is passed off as `selected`: p < 0.05 against random, old and new, before any correction."""
    rng = np.random.default_rng(0)
    method = a_set = old = p_old = p_new = 0
    for _ in range(reports):
        pairs = report(rng, effect=0.0, **settings)
        found = judge(pairs)
        method += any(f.verdict in ("better", "worse") for f in found)
        a_set += any(f.verdict.startswith("this set") for f in found)
        old += any(old_rule(pairs))
        p_old += _paired(pairs[0]) < 0.05
        p_new += (found[0].method.p or 0.0) < 0.05
    counts = {"method": method, "this_set": a_set, "old": old, "p_old": p_old, "p_method": p_new}
    return {name: count / reports for name, count in counts.items()}


def power(reports: int, plain: bool = False, **settings: Any) -> dict[str, float]:
    """How often `selected` is found better than random: it, or at least this set of it. `plain`: by Holm's correction
    without a half of the level for that comparison."""
    rng = np.random.default_rng(1)
    verdicts = []
    for _ in range(reports):
        pairs = report(rng, **settings)
        verdicts.append(judge([replace(pair, first=False) for pair in pairs] if plain else pairs)[0].verdict)
    better, this = (verdicts.count(word) / reports for word in ("better", "this set better"))
    return {"method": better, "this_set_or_method": better + this}


def coverage(reports: int, rows: int, seeds: int, sigma: float) -> dict[str, float]:
    """How often 95 % intervals hold the truth, where rows differ by a log-normal (sigma is its shape) and seeds hardly:
    the interval of today, and the percentile bootstrap over seeds and rows that was there before."""
    rng = np.random.default_rng(2)
    hits = before = 0
    for _ in range(reports):
        truth = rng.lognormal(0, sigma, rows) - np.exp(sigma**2 / 2)
        values = truth + 0.3 * rng.standard_normal((seeds, rows)) + 0.05 * rng.standard_normal((seeds, 1))
        found = judge([Pair(Losses(values, range(seeds), "never"), _zeros(values), np.ones(rows))])[0].this_set
        hits += (found.low or 0.0) <= 0 <= (found.high or 0.0)
        low, high = _bootstrap(rng, values)
        before += low <= 0 <= high
    return {"t": hits / reports, "bootstrap": before / reports}


def _zeros(values: np.ndarray) -> Losses:
    return Losses(np.zeros_like(values), range(len(values)), "never")


def _bootstrap(rng: np.random.Generator, values: np.ndarray, draws: int = 500) -> tuple[float, float]:
    s, n = values.shape
    of_rows = rng.multinomial(n, np.full(n, 1 / n), draws) / n
    of_seeds = rng.multinomial(s, np.full(s, 1 / s), draws) / s
    low, high = np.quantile(((of_seeds @ values) * of_rows).sum(axis=1), [0.025, 0.975])
    return float(low), float(high)


def redrawn(reports: int) -> dict[str, Any]:
    """With the arm `redrawn`, for a method whose sets vary a fifth as much as random ones: false verdicts, power."""
    print("\n| sets of selected vary | n | false | better at 4 | at 8 | without `redrawn` at 4 | at 8 |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    rows = []
    for seeds in SEEDS:
        case = {"targets": 1, "arms": 11, "rows": 48, "seeds": seeds}
        row: dict[str, Any] = {"own": 0.2, "seeds": seeds}
        row["false"] = false_rates(reports, **case, own=0.2)["method"]
        for effect in (4.0, 8.0):
            row[f"power_{effect:g}"] = power(max(1, reports // 4), **case, own=0.2, effect=effect)["method"]
            row[f"without_{effect:g}"] = power(max(1, reports // 4), **case, effect=effect)["method"]
        rows.append(row)
        shown = [f"{row['false']:.3f}", *(f"{row[k]:.2f}" for k in ("power_4", "power_8", "without_4", "without_8"))]
        print(f"| 0.2 | {seeds} | {' | '.join(shown)} |", flush=True)
    return {"redrawn": rows}


def again(path: Path, rows: int) -> dict[tuple[str, str, str], Finding]:
    """{(target, arm, other): what is found today} in a table of arms that an older version recorded."""
    lines = json.loads(path.read_text("utf-8"))["arms"]
    pairs = {}
    for name in dict.fromkeys(line["target"] for line in lines):
        mine = {line["arm"]: line for line in lines if line["target"] == name}
        arms = {arm: _recorded(arm, line, rows) for arm, line in mine.items()}
        for one, other in to_compare(list(arms)):
            pair = pair_of(arms, one, other, np.ones(rows))
            old = mine[one]["versus"].get(other) or mine[other]["versus"].get(one)
            if pair is None or old is None:
                continue
            by_seed = (pair.arm.values - pair.other.values)[:, 0]
            of_rows = ((old["high"] - old["low"]) / 3.92) ** 2 - by_seed.var() / len(by_seed)
            apart = (max(0.0, of_rows) * rows) ** 0.5 * np.where(np.arange(rows) % 2, 1, -1)
            pairs[name, one, other] = replace(pair, arm=replace(pair.arm, values=pair.arm.values + apart))
    return dict(zip(pairs, judge(list(pairs.values())), strict=True))


def _recorded(arm: str, line: dict[str, Any], rows: int) -> Losses:
    drawn: Drawn = "anew" if arm in AT_RANDOM else "never" if arm in ("base", "full") else "once"
    values = np.repeat(np.array(line["test_loss"])[:, None], rows, axis=1)
    return Losses(values, line["seeds"], drawn, line.get("diverged", 0))


def main() -> None:
    """Print tables as Markdown and write all as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--again", type=Path)
    parser.add_argument("--rows", type=int, default=48)
    given = parser.parse_args()
    if given.again:
        found = again(given.again, given.rows)
        for (name, arm, other), f in found.items():
            if f.verdict != "no evidence":
                p = f"p {f.this_set.p_adjusted:.4f}, with draws {f.method.p_adjusted:.4f}"
                print(f"{name}: {arm} − {other} = {f.difference:+.3f}, {p}: {f.verdict}")
        print(f"{len(found)} comparisons")
        return
    result: dict[str, Any] = {"reports": given.reports, "false": [], "power": [], "coverage": []}
    shapes = ((1, 11, 48), (1, 3, 48), (4, 6, 48), (1, 11, 12))  # targets, arms, test rows
    noises = (("no draw noise", QUIET), ("all noise", {}), ("draws alone", ONLY_DRAWS))
    print("| targets | arms | rows | noise | n | old: any | method | this set | old p<.05 | method p<.05 |")
    print("|---:|---:|---:|---|---:|---:|---:|---:|---:|---:|")
    for targets, arms, rows in shapes:
        for noise, scale in noises:
            for seeds in SEEDS:
                case = {"targets": targets, "arms": arms, "rows": rows, "seeds": seeds}
                r = false_rates(given.reports, **case, **scale)
                result["false"].append(case | {"noise": noise} | r)
                shown = " | ".join(f"{r[k]:.3f}" for k in ("old", "method", "this_set", "p_old", "p_method"))
                print(f"| {targets} | {arms} | {rows} | {noise} | {seeds} | {shown} |", flush=True)
    result |= redrawn(given.reports)
    print("\n| targets | arms | n | effect | better | this set at least |\n|---:|---:|---:|---:|---:|---:|")
    for targets, arms in ((1, 3), (1, 11), (4, 11)):
        for seeds in SEEDS:
            for effect in (2.0, 4.0, 8.0, 16.0):
                case = {"targets": targets, "arms": arms, "rows": 48, "seeds": seeds, "effect": effect}
                r = power(max(1, given.reports // 4), **case)
                result["power"].append(case | r)
                shown = f"{r['method']:.2f} | {r['this_set_or_method']:.2f}"
                print(f"| {targets} | {arms} | {seeds} | {effect:g} | {shown} |", flush=True)
    print("\n| rows | n | shape | t | bootstrap |\n|---:|---:|---:|---:|---:|")
    for rows in (4, 6, 8, 10, 16, 48):
        for seeds in (3, 10):
            for sigma in (0.5, 1.0):
                r = coverage(given.reports, rows, seeds, sigma)
                result["coverage"].append({"rows": rows, "seeds": seeds, "sigma": sigma} | r)
                print(f"| {rows} | {seeds} | {sigma:g} | {r['t']:.3f} | {r['bootstrap']:.3f} |", flush=True)
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
