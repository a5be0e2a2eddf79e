"""What a cascade finds of the choice from all rows, and for how much: the table of docs/results.md.

    python benchmarks/cascade.py STORE [--examples 60 120] [--alone TARGET …] [--together 2 7] [--out FILE]

STORE is that of a finished run with rows of its whole pool; it is copied. The stage of a run (`features.cascade`) then
finds all rows there, so that only its own decisions are measured: the share of the tokens of all rows at all
checkpoints that it asks for (which is the share of the FLOPs of gradient rows, as FLOPs go by tokens), what it
estimates, and the share of the choice from all rows that is in the choice from its shortlist. `cpu_seconds` are those
of predicting, with the reading of rows that are there. Curves come from `most`, with an overlap of 1 asked for.
"""

import argparse
import json
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from measure import machine

from gradsift.datastore import checkpoints, features, runs
from gradsift.datastore.store import Store
from gradsift.pipelines.features.cascade import cascade
from gradsift.pipelines.features.gather import evidence
from gradsift.pipelines.model.work import open_work
from gradsift.pipelines.progress import directly
from gradsift.pipelines.recipe import parse_recipe
from gradsift.pipelines.runs.last import material_of
from gradsift.pipelines.select.select import choose


def settings_of(most: list[float]) -> dict[str, dict[str, float]]:
    """The default, and one for each point of a curve."""
    return {"default": {}} | {f"most {share:g}": {"most": share, "overlap": 1.0} for share in most}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("--examples", type=int, nargs="+", default=[60])
    parser.add_argument("--alone", nargs="*", help="targets that have a cascade of their own; all by default")
    parser.add_argument("--together", type=int, nargs="*", default=[], help="the first so many targets in one cascade")
    parser.add_argument("--most", type=float, nargs="*", default=[])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(given.store, Path(folder) / "store")
        with Store(Path(folder) / "store") as store:
            names = list(runs.last_run(store, computed=True).result.ingest.targets)
            sets = [[name] for name in (names if given.alone is None else given.alone)]
            sets += [names[:count] for count in given.together]
            for size in given.examples:
                for targets in sets:
                    for label, settings in settings_of(given.most).items():
                        rows += measured(store, targets, size, settings, label)
                        for row in rows[-len(targets) :]:
                            print(json.dumps(row), flush=True)
    if given.out:
        given.out.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


def measured(
    store: Store, targets: list[str], size: int, settings: dict[str, float], label: str
) -> list[dict[str, object]]:
    """A line for each of the targets of one cascade."""
    last = runs.last_run(store, computed=True)
    data = {**last.recipes.resolved, "select": {"examples": size}, "validate": None, "mix": None}
    data["features"] = {**data["features"], "plain_rows": False, "cascade": settings}
    data["targets"] = {name: data["targets"][name] for name in targets}
    work = open_work(store, parse_recipe(data))
    whole = material_of(store, last)
    digests = {features.space_spec(store, pair.train)["checkpoint"] for pair in whole.pairs}
    points = [checkpoints.by_digest(store, digest) for digest in digests]
    alone = replace(whole, targets={name: whole.targets[name] for name in targets}, pairs=())
    begun = time.process_time()
    done = cascade(work, alone, sorted(points, key=lambda point: point.ordinal), directly)
    seconds = time.process_time() - begun
    lines: list[dict[str, object]] = []
    for name in targets:
        ids = []
        for material in (done.material, whole):
            e = evidence(work, material, name)
            ids.append({e.ids[k] for k in choose(e, work.recipe.select)[0].order})
        lines.append(
            {
                "target": name,
                "targets": len(targets),
                "examples": size,
                "of": done.report.usable,
                "settings": label,
                "price": round(done.report.price, 4),
                "estimated": done.report.overlap[name],
                "overlap": len(ids[0] & ids[1]) / size,
                "explained": done.report.explained[name],
                "rounds": done.report.rounds,
                "reached": done.report.reached,
                "cpu_seconds": round(seconds, 1),
            }
        )
    return lines


if __name__ == "__main__":
    main()
