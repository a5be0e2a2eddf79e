"""The demo: generated data and a model trained on the spot, then the whole flow, then what was found of the plant."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import yaml

from gradsift.datastore import examples, selections
from gradsift.datastore.runs import Json, RunResult, as_json
from gradsift.datastore.store import Store
from gradsift.pipelines.demo.data import LEAK, NEAR, TARGET, WRONG, write_demo_data
from gradsift.pipelines.demo.model import demo_recipe, make_demo_model
from gradsift.pipelines.progress import Progress, quiet
from gradsift.pipelines.recipe import Recipe, load_recipe

Runner = Callable[[Recipe, Path, Path], RunResult]  # recipe, store folder, export folder


def run_demo(folder: Path, runner: Runner, progress: Progress = quiet) -> Json:
    """Make data and model, run the recipe with `runner`, write result.json; returns its content."""
    planted = write_demo_data(folder / "data")
    make_demo_model(folder / "model", progress)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(demo_recipe(), sort_keys=False), "utf-8")
    result = runner(load_recipe(path), folder / "store", folder / "export")
    with Store(folder / "store") as store:
        found = planted_truth(store, result, planted)
    shown = ("arm", "target", "seeds", "test_loss_mean", "test_loss_ci95", "source_precision")
    run = as_json(result)
    document = {
        "arms": [{key: arm[key] for key in shown} for arm in run["arms"]],
        "planted": found,
        "stages": run["stages"],
        "run": run,
    }
    (folder / "result.json").write_text(json.dumps(document, indent=2) + "\n", "utf-8")
    return document


def planted_truth(store: Store, result: RunResult, planted: Json) -> Json:
    """How much of what was planted was found."""
    chosen = selections.get(store, result.selections[0].name)
    sources = examples.sources_of(store, chosen.example_ids)
    picked = Counter(source for source, _ in sources.values())
    pool = result.ingest.pool
    return {
        "selected": len(chosen.example_ids),
        "target_rows": {"planted": planted["target_rows"], "selected": picked[TARGET]},
        "near_duplicates": {"planted": planted["near_duplicates"], "selected": picked[NEAR]},
        "wrong_answers": {"planted": planted["wrong_answers"], "selected": picked[WRONG]},
        "exact_duplicates": {"planted": planted["exact_duplicates"], "found": pool.duplicates},
        "leaks": {
            "planted": planted["leaks"],
            "found": sum(entry.by_source.get(LEAK, 0) for entry in pool.left_out),
            "selected": picked[LEAK],
        },
        "bad_rows": {"planted": planted["bad_rows"], "quarantined": dict(pool.quarantined)},
    }
