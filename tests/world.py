"""A small store's whole life as commands, and what must be the same however it was disturbed.

A `World` is a folder with a recipe, `store/` and `out/`. `STEPS` are done one after the other; each can be said again
until it has ended, as a user would.
"""

import hashlib
import json
import shutil
import time
from pathlib import Path

import yaml

from gradsift.datastore import features, maintenance
from gradsift.datastore.store import Store

STEPS = {
    "run": ["run", "recipe.yaml", "--no-prefect"],
    "grow": ["run", "grown.yaml", "--no-prefect"],
    "select": ["select", "--method", "rds", "--examples", "7"],
    "mix": ["mix", "mix.yaml"],
    "export": ["export", "small-sql", "out/chosen", "--labels"],
    "index": ["index", "build", "--kind", "flat"],
    "validate": ["validate", "validate.yaml", "--no-prefect"],
    "compact": ["compact", "--grace-hours", "0"],
    "delete": ["delete", "--file", "ids.txt", "--exports", "--yes"],
}


def recipe_of(data_dir, model_dir, rows):
    return {
        "name": "small",
        "pool": [{"path": str(data_dir / "small.jsonl"), "rows": rows}],
        "targets": {
            "sql": {
                "val": {"path": str(data_dir / "val.jsonl"), "rows": 4},
                "test": {"path": str(data_dir / "test.jsonl"), "rows": 4},
                "own_sources": ["sql", "sql-near-duplicate"],
            }
        },
        "decontaminate": {"share": 0.9},
        "model": {"path": str(model_dir)},
        "encoding": {"max_length": 64},
        "lora": {"r": 2},
        "warmup": {"fraction": 0.2, "min_examples": 8, "epochs": 2, "batch_size": 8, "lr": 1e-3},
        "features": {"projector": {"dim": 64}, "unit_rows": 8, "plain_rows": True},
        "select": {"examples": 8},
        "validate": {"seeds": [0], "epochs": 1, "test_rows": 4},
    }


def make(folder, data_dir, model_dir, **places):
    """A new world, its store in one folder or at `places`."""
    folder.mkdir(parents=True)
    for name, rows in {"recipe": 24, "grown": 32}.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe_of(data_dir, model_dir, rows) | places))
    (folder / "mix.yaml").write_text(yaml.safe_dump({"examples": 10}))
    (folder / "validate.yaml").write_text(yaml.safe_dump({"seeds": [1], "epochs": 1, "test_rows": 4}))
    return folder


class Life:
    """A world in which steps were done undisturbed, and which can be put back to before any of them.

    It is always in the same folder: a store remembers where its exports are.
    """

    def __init__(self, forks, folder, steps=tuple(STEPS)):
        self.forks, self.folder, self.steps = forks, folder, steps
        self.ended, self.after, self.seconds, self._before = {}, {}, {}, {}

    def restore(self, step):
        """Put the world back to before a step."""
        self._reach(step)
        self.clear()
        shutil.copytree(self._before[step], self.folder, symlinks=True)

    def clear(self):
        """Remove the world."""
        shutil.rmtree(self.folder)

    def _reach(self, step):
        for one in self.steps[: self.steps.index(step) + 1]:
            if one not in self.after:
                if self.after:
                    shutil.rmtree(self.folder)
                    shutil.copytree(self._before[one], self.folder, symlinks=True)
                else:
                    self._before[one] = self._keep(one)
                started = time.monotonic()
                self.ended[one] = do(self.forks, self.folder, one)
                assert self.ended[one].code == 0, self.ended[one].err
                self.seconds[one] = time.monotonic() - started
                self.after[one] = facts(self.folder)
                for following in self.steps[self.steps.index(one) + 1 :][:1]:
                    self._before[following] = self._keep(following)

    def _keep(self, step):
        return shutil.copytree(self.folder, self.folder.parent / f"before-{step}", symlinks=True)

    def operations(self, step, *kinds):
        """Numbers of the operations of a step that are of these kinds, all of them where none is given."""
        self._reach(step)
        return [n for n, (kind, _) in enumerate(self.ended[step].seen, 1) if not kinds or kind in kinds]

    def differs(self, step, units=0):
        """What is not as after the undisturbed step, [] where nothing is; `units` were computed on the way here."""
        most = self.ended[step].units + 1  # the one that was in work, again
        found = [f"{units} units were computed, of {most - 1}"] if units > most else []
        return found + differences(self.folder, self.after[step])


def differences(folder, expected):
    """What is wrong with a world, and what is not as expected."""
    now = facts(folder)
    return problems(folder) + [f"{name} differ" for name in {**now, **expected} if now.get(name) != expected.get(name)]


def do(forks, folder, step, **fault):
    """Do a step in a world; returns how it ended."""
    return forks.wait(begin(forks, folder, step, **fault))


def begin(forks, folder, step, **fault):
    """Start a step in a world."""
    if step == "delete" and not (folder / "ids.txt").exists():
        with Store(folder / "store") as store:
            ids = [
                row["example_id"] for row in store.catalog.rows("SELECT example_id FROM example ORDER BY example_id")
            ]
        (folder / "ids.txt").write_text("\n".join(ids[::9]) + "\n")
    return forks.start(*STEPS[step], "--store", "store", cwd=folder, **fault)


def damaged(folder):
    """What `verify` finds, [] where there is no store yet."""
    if not (folder / "store" / "catalog.sqlite").exists():
        return []
    with Store(folder / "store") as store:
        return [str(one) for one in maintenance.verify(store)]


def facts(folder):
    """What a store holds and what was exported, without numbers, times and paths that a second attempt may change."""
    with Store(folder / "store", create=False) as store:
        tables = {
            name: sorted(tuple(str(dict(row)[key]) for key in dict(row)) for row in store.catalog.rows(text))
            for name, text in TABLES.items()
        }
        for row in store.catalog.rows("SELECT space_id, fingerprint FROM feature_space"):
            tables[f"rows of {row['fingerprint'][:12]}"] = _rows_digest(store, row["space_id"])
    return tables | {"exports": _exports(folder)}


TABLES = {
    "examples": "SELECT example_id, source FROM example",
    "datasets": "SELECT role, name, digest, CASE WHEN void IS NULL THEN 1 ELSE 0 END AS stands FROM dataset",
    "checkpoints": "SELECT warmup, ordinal, digest FROM checkpoint",
    "rows": "SELECT fingerprint, example_id, status FROM feature_row JOIN feature_space USING (space_id)",
    "selections": "SELECT name, target, digest, CASE WHEN void IS NULL THEN 1 ELSE 0 END AS stands FROM selection",
    "versions": "SELECT kind, name, number, digest FROM version",
    "arms": "SELECT arm_key, name FROM arm",
    "tombstones": "SELECT example_id FROM tombstone",
    "indexes": "SELECT kind, rows FROM search_index",
    "unfinished": "SELECT forgetting_id FROM forgetting WHERE finished IS NULL",
}


def _rows_digest(store, space_id):
    """Of every row of a space: id, vector, norm."""
    rows = []
    for block in features.read(store, space_id):
        rows += zip(block.example_ids, map(bytes, block.vectors), block.norm.tolist(), strict=True)
    return hashlib.sha256(repr(sorted(rows)).encode()).hexdigest()


def _exports(folder):
    """{path: digest} of every file of every export."""
    found = {}
    for manifest in sorted([*(folder / "store").glob("exports/*/manifest.json"), *folder.glob("out/*/manifest.json")]):
        for name in [*json.loads(manifest.read_text())["files"], "manifest.json"]:
            path = manifest.parent / name
            found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def data(folder):
    """{path: digest} of the data files of every export."""
    return {name: sha for name, sha in _exports(folder).items() if "/data/" in name}


def problems(folder):
    """What is wrong with a store that nobody is at work on: damaged files, and files that nobody refers to after gc."""
    with Store(folder / "store", create=False) as store:
        found = [str(one) for one in maintenance.verify(store)]
        maintenance.collect(store, grace=-1)
        left = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    return found + [f"left: {name}" for name in sorted(left) if _is_left(name)]


def _is_left(name):
    parts = Path(name).parts
    return any(part.startswith((".tmp-", ".partial-", ".gradsift-old-")) or part.endswith(".partial") for part in parts)
