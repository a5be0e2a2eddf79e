"""The demo: generated data and a model trained on the spot, then a whole run, then how much of what was planted in the
data the run found."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from gradsift.datastore import examples, selections
from gradsift.datastore.runs import Json, RunResult, as_json
from gradsift.datastore.store import Store
from gradsift.pipelines.demo.data import LEAK, NEAR, TARGET, WRONG, Planted, write_demo_data
from gradsift.pipelines.demo.model import demo_recipe, make_demo_model
from gradsift.pipelines.progress import Progress, quiet
from gradsift.pipelines.recipe import Recipe, load_recipe

Runner = Callable[[Recipe, Path, Path], RunResult]  # recipe, store folder, export folder
SHOWN = ("arm", "target", "seeds", "test_loss_mean", "test_loss_ci95", "source_precision")  # of an arm


@dataclass(frozen=True)
class PlantedRows:
    """Rows of a kind that were planted, and those that the selection took."""

    planted: int
    selected: int


@dataclass(frozen=True)
class PlantedCopies:
    """Repeated rows that were planted, and those that reading them found."""

    planted: int
    found: int


@dataclass(frozen=True)
class PlantedLeaks:
    """Test questions that were planted, those that screening found, and those that were selected nevertheless."""

    planted: int
    found: int
    selected: int


@dataclass(frozen=True)
class PlantedBadRows:
    """Bad rows that were planted and those that are in quarantine, by reason."""

    planted: Mapping[str, int]
    quarantined: Mapping[str, int]


@dataclass(frozen=True)
class PlantedTruth:
    """How much of what was planted was found, and how many examples were selected in all."""

    selected: int
    target_rows: PlantedRows
    near_duplicates: PlantedRows
    wrong_answers: PlantedRows
    exact_duplicates: PlantedCopies
    leaks: PlantedLeaks
    bad_rows: PlantedBadRows


@dataclass(frozen=True)
class Demo:
    """What the demo gave."""

    result: RunResult
    truth: PlantedTruth

    def document(self) -> Json:
        """The content of result.json."""
        run = as_json(self.result)
        return {
            "arms": [{key: arm[key] for key in SHOWN} for arm in run["arms"]],
            "planted": asdict(self.truth),
            "stages": run["stages"],
            "run": run,
        }


def run_demo(folder: Path, runner: Runner, progress: Progress = quiet) -> Demo:
    """Make data and model, run the recipe with `runner`, and write result.json."""
    planted = write_demo_data(folder / "data")
    make_demo_model(folder / "model", progress)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(demo_recipe(), sort_keys=False), "utf-8")
    result = runner(load_recipe(path), folder / "store", folder / "export")
    with Store(folder / "store") as store:
        demo = Demo(result, planted_truth(store, result, planted))
    (folder / "result.json").write_text(json.dumps(demo.document(), indent=2) + "\n", "utf-8")
    return demo


def planted_truth(store: Store, result: RunResult, planted: Planted) -> PlantedTruth:
    """How much of what was planted was found."""
    chosen = selections.get(store, result.selections[0].name)
    sources = examples.sources_of(store, chosen.example_ids)
    picked = Counter(provenance.source for provenance in sources.values())
    pool = result.ingest.pool
    leaks_found = sum(entry.by_source.get(LEAK, 0) for entry in pool.left_out)
    return PlantedTruth(
        selected=len(chosen.example_ids),
        target_rows=PlantedRows(planted.target_rows, picked[TARGET]),
        near_duplicates=PlantedRows(planted.near_duplicates, picked[NEAR]),
        wrong_answers=PlantedRows(planted.wrong_answers, picked[WRONG]),
        exact_duplicates=PlantedCopies(planted.exact_duplicates, pool.duplicates),
        leaks=PlantedLeaks(planted.leaks, leaks_found, picked[LEAK]),
        bad_rows=PlantedBadRows(planted.bad_rows, dict(pool.quarantined)),
    )
