"""Every file of a store, damaged alone: `verify` finds it, `--repair` makes it again, and all that the store says is as
before. Several at once, and what cannot be made again: tests/pipelines/runs/test_repair.py."""

import shutil
from itertools import cycle

import pytest

from gradsift import api
from gradsift.datastore import checkpoints, examples, features, index_build, indexes, maintenance, runs, selections
from gradsift.datastore.store import Store
from gradsift.pipelines.runs.repair import mend
from gradsift.pipelines.runs.reselect import remix, reselect

WORDS = "select the name of every course"
DAMAGES = ("flipped", "cut", "missing", "emptied")
HEALED = ("kept", "checked.txt")  # caches: one that is damaged is not used, and nobody need hear of it


@pytest.fixture(scope="module")
def everything(finished, tmp_path_factory):
    """A store with a file of every kind."""
    folder = tmp_path_factory.mktemp("everything") / "store"
    shutil.copytree(finished[1], folder)
    with Store(folder) as store:
        reselect(store, {"method": "qtuning", "fraction": 0.3}, name="pruned")
        remix(store, {"examples": 12, "parts": [{"target": "sql", "share": 0.5}, {"name": "rest"}]}, name="mixed")
        index_build.build(store, plain_space(store), index_build.Wish("flat"))
        api.query(WORDS, space="bm25", store=store)
        api.export("pruned-sql", folder / "exports" / "pruned", store=store)
    return folder


def plain_space(store):
    return runs.last_run(store, computed=True).result.pool_rows[-1].space_id


def of_block(space, block):
    for vector, norm, name, signals in zip(
        block.vectors, block.norm, block.example_ids, block.signals.to_pylist(), strict=True
    ):
        yield (space, name), (vector.tobytes(), float(norm), str(signals))


def said_by(store):
    """All that a store answers, of whatever is in files."""
    spaces = [row["space_id"] for row in store.catalog.rows("SELECT space_id FROM feature_space ORDER BY space_id")]
    rows = [(space, block) for space in spaces for block in features.read(store, space)]
    chosen = [
        selections.by_number(store, row["n"]) for row in store.catalog.rows("SELECT selection_id AS n FROM selection")
    ]
    ids = [row["example_id"] for row in store.catalog.rows("SELECT example_id FROM example ORDER BY example_id")]
    points = store.catalog.rows("SELECT DISTINCT warmup FROM checkpoint ORDER BY warmup")
    points = [point for row in points for point in checkpoints.listed(store, row["warmup"])]
    tables = [(one.name, one.digest, selections.details(store, one)) for one in chosen]
    exports = [path for path in sorted((store.root / "exports").rglob("*")) if path.is_file()]
    return {
        "texts": examples.get_messages(store, ids),
        "rows": dict(pair for space, block in rows for pair in of_block(space, block)),
        "checkpoints": [checkpoints.tensors_digest(checkpoints.load(store, point)) for point in points],
        "tables": {name: (digest, table.to_pydict(), table.schema.metadata) for name, digest, table in tables},
        "words": [(hit.example_id, hit.similarity) for hit in api.query(WORDS, space="bm25", store=store).hits],
        "index": [(one.space_id, one.kind, indexes.problem(store, one)) for one in indexes.all_of(store)],
        "exports": {path.relative_to(store.root): path.read_bytes() for path in exports},
    }


def kinds_of(store):
    """{kind: its files}, as a user knows them."""
    names = {
        row["shard_id"]: (row["kind"], store.root / row["name"]) for row in store.catalog.rows("SELECT * FROM shard")
    }
    values = {row["shard_id"] for row in store.catalog.rows("SELECT shard_id FROM attribute")}
    found = {}
    for shard, (kind, path) in names.items():
        found.setdefault("values" if shard in values else kind, []).append(path)
    found["index"] = [store.root / index.name for index in indexes.all_of(store)]
    found["kept"] = [path for path in (store.root / "kept").iterdir() if path.stat().st_size]  # not its lock
    found["checked.txt"] = [store.root / "checked.txt"]
    found["export"] = [p for p in (store.root / "exports").rglob("*") if p.is_file() and p.name != "manifest.json"]
    return found


def spoil(path, how):
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "flipped":
        at = len(data) // 2
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    else:
        path.write_bytes(data[: len(data) // 2] if how == "cut" else b"")


def attacks(store, *, long):
    """(kind, number of the file among its kind, what is done to it): one of each kind, or all to all."""
    hows = cycle(DAMAGES)
    for kind, files in kinds_of(store).items():
        for number in range(len(files) if long else 1):
            yield from ((kind, number, how) for how in (DAMAGES if long else [next(hows)]))


@pytest.mark.parametrize("long", [False, pytest.param(True, marks=pytest.mark.soak)], ids=["each kind", "each file"])
def test_a_damaged_file_of_any_kind_is_found_and_made_again(everything, tmp_path, tally, long):
    shutil.copytree(everything, tmp_path / "store")
    with Store(tmp_path / "store") as store:
        before, planned = said_by(store), list(attacks(store, long=long))
        assert api.verify(store) == []
    assert {kind for kind, *_ in planned} >= {
        "examples",
        "features",
        "checkpoint",
        "scores",
        "values",
        "kept",
        "export",
    }
    repaired, healed = tally("damaged files of a store, repaired", 3), tally("damaged caches of a store", 6)
    for kind, number, how in planned:
        shutil.rmtree(tmp_path / "store")  # values that are dropped come back when somebody needs them
        shutil.copytree(everything, tmp_path / "store")
        with Store(tmp_path / "store") as store:
            spoil(kinds_of(store)[kind][number], how)
        with Store(tmp_path / "store") as store:  # as another process would open it
            found = api.verify(store)
            done = mend(store)
            what = f"{how} {kind} {number}: {[(one.state, one.done) for one in done]}"
            same = said_by(store) == before and maintenance.verify(store) == [] and api.verify(store) == []
            if kind in HEALED:
                healed.harmless() if same and not found else healed.silent(what)
            elif same and len(found) == 1:
                repaired.reported()
            else:
                repaired.silent(what)
