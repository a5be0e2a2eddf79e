"""What the report shows, section by section, from a run's summary and the store."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from gradsift.datastore import examples, features, selections
from gradsift.datastore.errors import InputError
from gradsift.datastore.selections import Selection
from gradsift.datastore.store import Store
from gradsift.pipelines.export.atlas import components
from gradsift.pipelines.pool.screen import text_of
from gradsift.pipelines.recipe import Recipe
from gradsift.pipelines.report import charts
from gradsift.pipelines.report.cost import costs
from gradsift.pipelines.select.overlap import overlap
from gradsift.pipelines.select.score_checks import correlates
from gradsift.scorers.kmeans import kmeans

DOTS = 1500  # examples on a map, at most
SAMPLES = 5
CLUSTERS = 8
DRAWN = 6  # arms in a picture of curves
TEXT_CHARS = 280


@dataclass(frozen=True)
class Part:
    """A picture with its figures, or a table alone."""

    title: str
    table: list[dict[str, Any]] = field(default_factory=list)
    svg: str = ""
    note: str = ""
    highlight: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """A heading with its parts."""

    title: str
    parts: list[Part]
    text: str = ""


def sections(store: Store, recipe: Recipe, run: Mapping[str, Any]) -> list[Section]:
    """All sections that have something to show."""
    summary = run["summary"]
    chosen = [selections.get(store, s["name"], s["target"]) for s in summary["selections"]]
    mixed = [selections.get(store, m["name"]) for m in summary["mixtures"]]
    found = [
        *_arms(summary["arms"], recipe.validate_.lrs if recipe.validate_ else []),
        Section(
            "What was chosen",
            [
                *_before_and_after(store, summary, chosen, mixed),
                *(part for s in chosen for part in _scores(store, summary, s)),
                *(part for s in chosen for part in _maps(store, summary, s)),
                *_overlaps(store, summary),
                *(Part(f"Mixture {m['name']}: asked and got", _in_order(m["table"])) for m in summary["mixtures"]),
            ],
        ),
        Section("What stayed out", _left_out(summary)),
        Section("Rows in and out", [part for s in (*chosen, *mixed) for part in _samples(store, summary, s)]),
        Section(
            "Cost",
            _costs(store, recipe, summary),
            "FLOPs are estimates: 2·N a token and forward pass, N weights "
            "outside the embedding. Seconds are of this call; work that was found done took none.",
        ),
        Section("Lineage", _lineage(run, [*chosen, *mixed])),
    ]
    return [s for s in found if s.parts]


def _in_order(table: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    names = ("part", "source", "weight", "requested", "budget", "rows", "examples", "tokens", "share", "note")
    return [{name: row[name] for name in names} for row in table]


def _arms(arms: Sequence[Mapping[str, Any]], rates: Sequence[float]) -> list[Section]:
    out = []
    for target in dict.fromkeys(a["target"] for a in arms):
        mine = [a for a in arms if a["target"] == target]
        ours = tuple(a["arm"] for a in mine if a["arm"] in ("selected", "mixture"))
        points = [
            (a["arm"], a["test_loss_mean"], *_around(a["test_loss_mean"], a["test_loss_ci95"]), a["arm"] in ours)
            for a in mine
            if a["test_loss_mean"] is not None
        ]
        columns = (
            "arm",
            "seeds",
            "examples",
            "label_tokens",
            "test_loss_mean",
            "test_loss_ci95",
            "score_mean",
            "metric",
            "response_tokens",
            "source_precision",
            "forgetting",
            "lr",
            "early_grad_norm",
            "seconds",
            "peak_mb",
            "diverged",
        )
        rows = [{c: shown[c] for c in columns} for shown in map(_shown, mine)]
        parts = [
            Part(
                "Test loss by arm",
                _without_empty(rows),
                charts.intervals(f"{target}: test loss by arm", points, "test loss, nats per token (lower is better)"),
                " ".join(["Mean over seeds with its 95 % t interval.", *_remarks(mine, rates)]),
                ours,
            )
        ]
        harness = [{"arm": a["arm"], **a["lm_eval"]} for a in mine if a.get("lm_eval")]
        if harness:
            parts.append(Part("lm-evaluation-harness", harness, note="As the harness reports them, mean over seeds."))
        parts += [_differences(next(a for a in mine if a["arm"] == name), target) for name in ours]
        curves = {a["arm"]: a["curves"] for a in sorted(mine, key=_drawn_first) if a["curves"]}
        if curves:
            parts.append(
                Part(
                    "Training loss",
                    [{"arm": name, **charts.milestones(runs)} for name, runs in curves.items()],
                    charts.curves(
                        f"{target}: training loss",
                        {name: _by_share(curves[name]) for name in list(curves)[:DRAWN]},
                        "share of the steps, %",
                        "loss of a batch",
                    ),
                    "Mean of the seeds and the range between them; smoothed. Losses of different data are not "
                    "comparable: only the shape is." + (" The table has all arms." if len(curves) > DRAWN else ""),
                )
            )
        out.append(Section(f"Does it help on {target}?", parts))
    return out


def _shown(arm: Mapping[str, Any]) -> dict[str, Any]:
    peak = arm.get("peak_bytes")  # runs of older versions have none
    return {**arm, "seeds": len(arm["seeds"]), "peak_mb": None if peak is None else round(peak / 2**20)}


def _by_share(runs: Sequence[Sequence[Sequence[float]]]) -> list[list[list[float]]]:
    """Curves over the share of a run's steps in percent, so that runs of unlike length can be seen in one picture."""
    return [[[100 * row[0] / run[-1][0], row[1]] for row in run] for run in runs if run]


def _drawn_first(arm: Mapping[str, Any]) -> int:
    wanted = ("selected", "mixture", "random", "random_lengths", "random_tokens", "full")
    return wanted.index(arm["arm"]) if arm["arm"] in wanted else len(wanted)


def _around(mean: float, half: float | None) -> tuple[float | None, float | None]:
    return (None, None) if half is None else (mean - half, mean + half)


def _remarks(arms: Sequence[Mapping[str, Any]], rates: Sequence[float]) -> list[str]:
    lost = sum(a["diverged"] for a in arms)
    out = [f"{lost} runs diverged and are left out."] if lost else []
    if len(rates) > 1:
        out.append(f"Each arm is at its best of {len(rates)} learning rates, by its loss on val rows.")
        for end, word in ((max(rates), "largest"), (min(rates), "smallest")):
            edge = [a["arm"] for a in arms if a["examples"] and a["lr"] == end]
            if edge:
                out.append(f"For {', '.join(edge)} that is the {word} tried: the best may lie beyond it.")
    return out


def _differences(arm: Mapping[str, Any], target: str) -> Part:
    rows = [
        {
            "against": name,
            "difference": v["difference"],
            "low": v["low"],
            "high": v["high"],
            "lower on": f"{v['wins']} of {v['seeds']}",
            "p": v["p"],
            "p corrected": v["p_adjusted"],
            "in units of seed noise": v["effect"],
            "verdict": v["verdict"],
        }
        for name, v in arm["versus"].items()
    ]
    points = [(v["against"], v["difference"], v["low"], v["high"], v["verdict"] == "better") for v in rows]
    return Part(
        f"{arm['arm']} against each other arm",
        rows,
        charts.intervals(
            f"{target}: difference in test loss", points, "difference in test loss (left of 0: lower)", 0.0
        ),
        "Paired by seed and test row; 95 % bootstrap over both; p by the paired t-test over seeds, corrected (Holm) "
        "for the comparisons of this arm. Few seeds find only large differences: no evidence is not evidence of none.",
    )


def _before_and_after(
    store: Store, summary: Mapping[str, Any], chosen: Sequence[Selection], mixed: Sequence[Selection]
) -> list[Part]:
    pool = summary["ingest"]["pool"]
    rows = [("pool", dict(pool["by_source"]))]
    if pool.get("used_by_source") and pool["used_by_source"] != pool["by_source"]:
        rows.append(("after screening", dict(pool["used_by_source"])))
    for s in (*chosen, *mixed):
        sources = examples.sources_of(store, s.example_ids)
        counts: Counter[str] = Counter()
        for i, n in zip(s.example_ids, s.copies, strict=True):
            counts[sources[i][0]] += n
        rows.append((s.name, dict(counts)))
    names = sorted({n for _, c in rows for n in c}, key=lambda n: (-rows[0][1].get(n, 0), n))
    table = [{"source": n} | {name: counts.get(n, 0) for name, counts in rows} for n in names]
    return [
        Part("Sources before and after", table, charts.shares("Share of each source", rows), "Share of rows by source.")
    ]


def _scores(store: Store, summary: Mapping[str, Any], s: Selection) -> list[Part]:
    table = selections.details(store, s)
    if table is None:
        return []
    values, ids = table["score"].to_numpy(zero_copy_only=False), table["example_id"].to_pylist()
    if len(values) < 2 or float(values.min()) == float(values.max()):
        return []
    mine = set(s.example_ids)
    chosen = [float(v) for v, i in zip(values, ids, strict=True) if i in mine]
    quantiles = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
    rows = [
        {"quantile": q, "all": float(a), "chosen": float(c)}
        for q, a, c in zip(quantiles, np.quantile(values, quantiles), np.quantile(chosen, quantiles), strict=True)
    ]
    ranked = set(np.array(ids)[np.argsort(-values, kind="stable")[: len(mine)]].tolist())
    cut = min(chosen) if ranked == mine else None
    note = f"{s.method} for {s.target}, n = {len(values):,}." + (" The line is the cut." if cut is not None else "")
    parts = [
        Part(f"Scores of {s.name}", rows, charts.histogram(f"Scores of {s.name}", values, chosen, "score", cut), note)
    ]
    space = _last_space(summary)
    if space is not None:
        scores = dict(zip(ids, values.tolist(), strict=True))
        note = (
            "Spearman's correlation of the score with other figures of the examples. Far from 0 for lengths: compare "
            "with random examples of the same lengths (the arm random_lengths) before crediting the method."
        )
        parts.append(
            Part(f"What the scores of {s.name} follow", correlates(store, space, scores, s.example_ids), note=note)
        )
    return parts


def _last_space(summary: Mapping[str, Any]) -> int | None:
    rows = [row for row in summary["rows"] if row["role"] == "pool"]
    return int(rows[-1]["space_id"]) if rows else None


def _maps(store: Store, summary: Mapping[str, Any], s: Selection) -> list[Part]:
    """Places of examples by principal components of their rows, and the plane of loss and entropy."""
    rows = [row for row in summary["rows"] if row["role"] == "pool"]
    if not rows:
        return []
    space, dataset = rows[-1]["space_id"], rows[-1]["dataset_id"]
    known = features.with_rows(store, space, dataset)
    mine = [i for i in s.example_ids if i in set(known)][: DOTS // 3]
    rest = sorted(set(known) - set(s.example_ids))
    keep = np.random.default_rng(0).permutation(len(rest))[: DOTS - len(mine)]
    ids = [*mine, *(rest[k] for k in sorted(keep.tolist()))]
    block = features.read_all(store, space, ids)
    xy = components(block.unit())
    n = len(mine)
    parts = []
    note = f"{n:,} chosen and {len(ids) - n:,} other examples; gradient rows of the last checkpoint, two of many dims. "
    note += (
        "Numbers are clusters (k-means in all dims), those with most of the chosen first; the table has all of them."
    )
    sources = examples.sources_of(store, ids)
    clusters = kmeans(block.unit(), CLUSTERS, seed=0, spherical=True).members()
    clusters.sort(key=lambda members: (-int((members < n).sum()), -len(members)))
    table = []
    marks = []
    for number, members in enumerate(clusters, 1):
        most = Counter(sources[ids[k]][0] for k in members).most_common(3)
        table.append(
            {
                "cluster": number,
                "shown": len(members),
                "chosen": int((members < n).sum()),
                "most of": ", ".join(f"{name} {count}" for name, count in most),
            }
        )
        marks.append((*np.median(xy[members], axis=0).tolist(), str(number)))
    parts.append(
        Part(
            f"Map of {s.name}",
            table,
            charts.scatter(
                f"Map of {s.name}",
                xy[n:].tolist(),
                xy[:n].tolist(),
                "first principal component",
                "second",
                labels=marks,
            ),
            note,
        )
    )
    if {"loss", "entropy"} <= set(block.signals.column_names):
        plane = np.stack([block.signal("entropy"), block.signal("loss")], axis=1).astype(float)
        middle = np.median(plane, axis=0)
        high = plane > middle
        quadrants = {
            "noise": high[:, 0] & high[:, 1],
            "misconception": ~high[:, 0] & high[:, 1],
            "calibration": high[:, 0] & ~high[:, 1],
            "known": ~high[:, 0] & ~high[:, 1],
        }
        counts = [{"quadrant": k, "examples": int(v.sum()), "chosen": int(v[:n].sum())} for k, v in quadrants.items()]
        parts.append(
            Part(
                f"Error and uncertainty of {s.name}",
                counts,
                charts.scatter(
                    f"Error and uncertainty of {s.name}",
                    plane[n:].tolist(),
                    plane[:n].tolist(),
                    "entropy, nats (uncertainty)",
                    "loss, nats (error)",
                    (float(middle[0]), float(middle[1])),
                ),
                "Lines are the medians of those shown.",
            )
        )
    return parts


def _overlaps(store: Store, summary: Mapping[str, Any]) -> list[Part]:
    parts = []
    for target in dict.fromkeys(s["target"] for s in summary["selections"]):
        try:
            found = overlap(store, (), target)
        except InputError:
            continue  # one selection only
        names = [row["selection"] for row in found["rows"]]
        values = [[row[name] for name in names] for row in found["rows"]]
        by_chance = "" if found["by_chance"] is None else f" By chance: {found['by_chance']:.3f}."
        parts.append(
            Part(
                f"Overlap of selections for {target}",
                found["rows"],
                charts.heat(f"Overlap of selections for {target}", names, values),
                f"Jaccard index.{by_chance}",
            )
        )
    return parts


def _left_out(summary: Mapping[str, Any]) -> list[Part]:
    pool = summary["ingest"]["pool"]
    parts = []
    if pool.get("left_out"):
        rows = [
            {"reason": row["reason"], "examples": row["examples"], "sources": _counted(row["by_source"])}
            for row in pool["left_out"]
        ]
        parts.append(
            Part("Near-duplicates and leaks", rows, note="The command gradsift marks shows each beside its twin.")
        )
    if pool["quarantined"]:
        parts.append(
            Part("Rows that could not be used", [{"reason": k, "rows": v} for k, v in pool["quarantined"].items()])
        )
    return parts


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.items())


def _samples(store: Store, summary: Mapping[str, Any], s: Selection) -> list[Part]:
    table = selections.details(store, s)
    scores = (
        {} if table is None else dict(zip(table["example_id"].to_pylist(), table["score"].to_pylist(), strict=True))
    )
    used = summary["ingest"]["pool"].get("used_dataset_id")
    inside = s.example_ids[:SAMPLES]
    outside: list[str] = []
    if used is not None:
        mine = set(s.example_ids)
        rest = [i for i in examples.get_dataset(store, used).example_ids if i not in mine]
        outside = sorted(rest, key=lambda i: (scores.get(i) if scores.get(i) is not None else 0.0, i))[:SAMPLES]
    chats = examples.get_messages(store, [*inside, *outside])
    sources = examples.sources_of(store, [*inside, *outside])

    def rows(ids: Sequence[str]) -> list[dict[str, Any]]:
        return [
            {"example": i[:8], "source": sources[i][0], "score": scores.get(i), "text": _cut(text_of(chats[i]))}
            for i in ids
        ]

    parts = [Part(f"First of {s.name}", rows(inside))]
    return parts + ([Part(f"Left out of {s.name} (the lowest scores)", rows(outside))] if outside else [])


def _cut(text: str) -> str:
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return plain if len(plain) <= TEXT_CHARS else f"{plain[: TEXT_CHARS - 1]}…"


def _costs(store: Store, recipe: Recipe, summary: Mapping[str, Any]) -> list[Part]:
    parts = []
    if recipe.lm is not None and (summary["rows"] or summary["arms"]):
        try:
            rows = [asdict(c) for c in costs(store, recipe, summary)]
        except InputError:
            rows = []  # the model has moved; the rest of the report does not need it
        if rows:
            parts.append(Part("FLOPs", rows))
        targets = len({row["dataset"] for row in summary["rows"] if row["role"] == "target"})
        chosen = [row for row in rows if row["what"] in ("warm-up", "gradient rows")]
        if chosen and targets:
            total = sum(row["flops"] for row in chosen)
            amortised = [{"targets": k, "FLOPs of selecting for each": total / k} for k in (1, 2, 5, 10) if k >= 1]
            parts.append(Part("One pass serves many targets", amortised))
    if summary["stages"]:
        parts.append(Part("Seconds by stage", list(summary["stages"])))
    return parts


def _lineage(run: Mapping[str, Any], made: Sequence[Selection]) -> list[Part]:
    pool = run["summary"]["ingest"]["pool"]
    rows = [{"what": "pool", "name": run["name"], "digest": pool["digest"]}]
    rows += [
        {"what": "target", "name": n, "digest": t["digest"]} for n, t in run["summary"]["ingest"]["targets"].items()
    ]
    rows += [{"what": "test", "name": n, "digest": t["digest"]} for n, t in run["summary"]["ingest"]["tests"].items()]
    rows += [{"what": s.method, "name": s.name, "digest": s.digest} for s in made]
    return [Part("Digests", rows)]


def _without_empty(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    names = [n for n in rows[0] if any(row[n] not in (None, 0, "loss") for row in rows)]
    return [{n: row[n] for n in names} for row in rows]
