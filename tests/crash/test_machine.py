"""A store under any order of what is done to it, beside a model of plain sets: hypothesis draws the steps, some are
killed on the way and done again, and after each one the store must be whole and hold what the model holds.

No model runs: rows of gradients are arrays, drawn from each example's id, which the real functions commit.
"""

import json
import secrets
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from planted import by_ids, found_in, id_of

import gradsift
from gradsift.datastore import (
    checkpoints,
    compact,
    examples,
    features,
    files,
    maintenance,
    origins,
    prune,
    quarantine,
    runs,
    selections,
    versions,
)
from gradsift.datastore.errors import InputError
from gradsift.datastore.place import Place
from gradsift.datastore.rows import make_block
from gradsift.datastore.runs import SpaceRows
from gradsift.datastore.store import Store
from gradsift.pipelines.export.checkout import checkout
from gradsift.pipelines.features.gather import evidence
from gradsift.pipelines.model.work import Work
from gradsift.pipelines.recipe import parse_recipe
from gradsift.pipelines.runs.curate import curate
from gradsift.pipelines.runs.forget import delete, revive
from gradsift.pipelines.runs.last import material_of
from gradsift.pipelines.runs.later import numbers, started
from gradsift.pipelines.runs.reselect import remix
from gradsift.pipelines.select.select import describe, select_for

DIM = 16
TARGETS = (90_000, 90_001)
STATE = checkpoints.CheckpointState({"a": np.zeros(1, np.float32)}, {}, {})
SPACE = {
    "model": "m",
    "checkpoint": checkpoints.tensors_digest(STATE),
    "transform": "sgd",
    "loss": "ce",
    "signals": None,
}


def word(key):
    """A word that this row alone has."""
    return f"zq{key:05d}qz"


def row(key):
    return {"prompt": f"ask {word(key)}", "completion": f"say {word(key)}", "source": "ab"[key % 2], "tag": word(key)}


def name(key):
    return id_of(row(key))


def gradient(example):
    return np.random.default_rng(int(example[:8], 16)).standard_normal(DIM).astype(np.float32)


def content(folder):
    """{file: digest} of a folder."""
    return {str(p.relative_to(folder)): sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


ANY = st.integers(0, 99)  # any one of some things: `one_of`


def one_of(things, which):
    return sorted(things)[which % len(things)]


class Killed(BaseException):
    """A process that ends where it is."""


@dataclass
class Made:
    """What the model knows of a version: members of a pool, or chosen ids in order; digests of the files that its run
    exported, if it did."""

    ids: list
    export: dict = field(default_factory=dict)
    void: bool = False
    pruned: bool = False


class StoreMachine(RuleBasedStateMachine):
    def __init__(self, place_of=lambda folder: folder / "store", steps=None):
        """`place_of(folder)` is where the store is; `steps` gets an entry for each that was taken."""
        super().__init__()
        self.steps = [] if steps is None else steps
        self.folder = Path(tempfile.mkdtemp(prefix="machine-"))
        self.pool = self.folder / "pool"
        self.pool.mkdir()
        self.place = place_of(self.folder)
        self.store = Store(self.place)
        self.keys = 0
        self.files = {}  # {name of a file: keys of its rows}
        self.known = set()  # keys of examples that the store has
        self.dead = set()  # keys of what was deleted and not revived
        self.rows = set()  # ids that have a row of gradients
        self.made = {}  # {(kind, name, number): Made}
        self.chosen = {}  # {what decided a choice: its ids}
        self.ran = False
        self.kill_at = None  # the failpoint at which the next step is killed
        self.killed = False  # since garbage was collected
        self._write("val.jsonl", self.folder, TARGETS)

    def teardown(self):
        self.store.close()
        shutil.rmtree(self.folder)

    def _write(self, file, folder, keys, *more):
        lines = [json.dumps(row(key)) for key in keys]
        (folder / file).write_text("\n".join([*lines, *more]) + "\n", "utf-8")

    @property
    def live(self):
        """Keys that the next reading of the pool gives."""
        return {key for keys in self.files.values() for key in keys} - self.dead

    @rule(at=st.integers(0, 12))
    def kill(self, at):
        """Kill the next step that writes when it has come so far; it is done again."""
        self.kill_at = at

    def _done(self, action):
        """What the action gives, the second time where it was killed."""
        left, self.kill_at = self.kill_at, None
        if left is None:
            return action()

        def failpoint(_step):
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed

        files.failpoint = failpoint
        try:
            return action()
        except Killed:
            self.killed = True
            assert maintenance.verify(self.store) == []
        finally:
            files.failpoint = lambda _step: None
        return action()

    # What arrives and leaves

    @initialize(new=st.integers(6, 12))
    def begin(self, new):
        """A store with two runs: hypothesis leaves many rules out of an example, these never."""
        self.arrive(new, 0, cut=True)
        self.run(3)
        self.arrive(2, 2, cut=False)
        self.run(4)

    @rule(new=st.integers(2, 5), again=st.integers(0, 3), cut=st.booleans())
    def arrive(self, new, again, cut):
        """A file with new rows, some that another file has, and a line that is cut."""
        fresh = range(self.keys, self.keys + new)
        old = sorted({key for keys in self.files.values() for key in keys})[-again:] if again else []
        self.keys += new
        file = f"part-{self.keys:04d}.jsonl"
        self.files[file] = [*old, *fresh]
        self._write(file, self.pool, self.files[file], *([json.dumps(row(fresh[0]))[:-3]] if cut else []))

    @precondition(lambda self: len(self.files) > 1)
    @rule(which=ANY)
    def leave(self, which):
        """A file goes."""
        file = one_of(self.files, which)
        del self.files[file]
        (self.pool / file).unlink()

    # What is computed

    def _recipe(self, **more):
        source = {"path": str(self.pool)}
        targets = {"t": {"val": {"path": str(self.folder / "val.jsonl")}}}
        return parse_recipe({"name": "m", "pool": [source], "targets": targets, **more})

    @precondition(lambda self: self.live)
    @rule(size=st.integers(1, 5))
    def run(self, size):
        """Ingest all files, select, mix, export; a run whose pool and settings were there before chooses the same."""
        live = self.live
        size = min(size, len(live))
        select = {"method": "random", "examples": size}
        recipe = self._recipe(select=select, mix={"examples": size})
        result = self._done(lambda: curate(recipe, self.store))
        self.known |= live | set(TARGETS)
        self.ran = True
        assert result.ingest.pool.examples == len(live)
        found = {("pool", "m"): sorted(map(name, live))}
        for made, kind in ((result.selections[0], "selection"), (result.mixtures[0], "mixture")):
            found[kind, made.name] = self._choice(kind, made, size, live)
        exports = {("selection", "m-t"): result.selections[0].export, ("mixture", "m"): result.mixtures[0].export}
        self._learn(found, {key: content(Path(folder)) for key, folder in exports.items()})

    def _choice(self, kind, made, size, pool):
        """Ids of what was chosen, which the model checks: of the pool, none twice, the same for the same."""
        ids = selections.by_number(self.store, made.selection_id).example_ids
        assert len(set(ids)) == len(ids) == size
        assert set(ids) <= set(map(name, pool))
        assert self.chosen.setdefault((kind, made.name, size, frozenset(pool)), ids) == ids
        return ids

    @property
    def last(self):
        return runs.last_run(self.store, computed=True)

    @precondition(lambda self: self.ran)
    @rule(most=st.integers(1, 4))
    def gradients(self, most):
        """Some units of what the last run's datasets lack; what is computed was not there before. When all are, they
        are the run's."""
        store, last = self.store, self.last
        material = self._material()
        if material is None:
            return
        checkpoints.commit(store, "f" * 64, 0, 1, 1.0, STATE)
        space = features.define_space(store, SPACE)
        datasets = [material.targets["t"], material.pool]
        for dataset in datasets:
            features.plan(store, space, dataset.example_ids, {}, 3)
        units = [unit for dataset in datasets for unit in features.open_units(store, space, dataset.dataset_id)]
        for unit in units[:most]:
            ids = features.unit_ids(store, unit)
            assert not self.rows & set(ids), "computed twice"
            signals = pa.table({"loss": pa.array(np.ones(len(ids), np.float32))})
            block = make_block(ids, np.stack([gradient(i) for i in ids]), signals, "int8")
            self._done(lambda unit=unit, block=block: features.commit_unit(store, space, unit, block, {}))
            assert not features.is_open(store, unit)
            self.rows |= set(ids)
        if len(units) <= most:
            rows = [
                SpaceRows(
                    one.role,
                    space,
                    one.name,
                    0,
                    "sgd",
                    0,
                    one.dataset_id,
                    features.statuses(store, space, one.dataset_id),
                )
                for one in datasets
            ]
            runs.finish(store, last.run_id, replace(last.result, rows=rows))

    @precondition(lambda self: self.ran and self.last.result.rows)
    @rule(size=st.integers(1, 4))
    def score_and_select(self, size):
        """By the gradients; the scores are those of the arrays."""
        store, last = self.store, self.last
        material = self._material()
        if material is None or not set(material.pool.example_ids) <= self.rows:
            return
        ids = material.pool.example_ids
        size = min(size, len(ids))
        recipe = self._recipe(name="m-less", model={"path": "."}, select={"method": "less", "examples": size})
        work = Work(store, recipe)

        def select():
            with started(store, recipe, last) as (run_id, result):
                chosen = select_for(work, evidence(work, material, "t"), "t")
                report = describe(work, "t", chosen, material.pool)
                runs.finish(store, run_id, replace(result, selections=[report]))
            numbers(store, run_id)
            return chosen, report

        chosen, report = self._done(select)
        details = selections.details(store, chosen)
        scores = dict(zip(details["example_id"].to_pylist(), details["score"].to_pylist(), strict=True))
        assert list(scores) == ids
        units = {i: gradient(i) / np.linalg.norm(gradient(i)) for i in (*ids, *map(name, TARGETS))}
        wanted = [np.mean([units[i] @ units[name(t)] for t in TARGETS]) for i in ids]
        assert np.allclose(list(scores.values()), wanted, atol=0.02)
        assert chosen.example_ids == sorted(ids, key=lambda i: (-scores[i], i))[:size]
        keys = {key for key in self.known if name(key) in set(ids)}
        self._learn({("selection", "m-less-t"): self._choice("selection", report, size, keys), ("pool", "m"): ids})

    def _material(self):
        """The last run's datasets; None where none of its pool is left."""
        try:
            return material_of(self.store, self.last)
        except InputError as error:
            assert "was deleted" in str(error)
            return None

    @precondition(lambda self: self.ran)
    @rule(size=st.integers(1, 6))
    def mix(self, size):
        """Another mixture of the last run's pool."""
        material = self._material()
        if material is None:
            return
        ids = material.pool.example_ids
        made = self._done(lambda: remix(self.store, {"examples": min(size, len(ids))}))
        keys = {key for key in self.known if name(key) in set(ids)}
        self._learn(
            {("mixture", "m-mix"): self._choice("mixture", made, min(size, len(ids)), keys), ("pool", "m"): ids}
        )

    # What is taken out

    @precondition(lambda self: len(self.known & self.live) > 2)
    @rule(which=ANY, other=ANY)
    def delete(self, which, other):
        """One row, or two."""
        gone = {one_of(self.known & self.live, at) for at in (which, other)}
        ids = {name(key) for key in gone}
        done = self._done(lambda: delete(self.store, by_ids(*ids), exports=True))
        assert done.examples + done.gone_before == len(gone)
        self.known -= gone
        self.dead |= gone
        self.rows -= ids
        for made in self.made.values():
            made.void |= bool(ids & set(made.ids)) and not made.pruned
        self._learn({})

    @precondition(lambda self: self.dead)
    @rule(which=ANY)
    def revive(self, which):
        key = one_of(self.dead, which)
        assert revive(self.store, [name(key)]) == 1
        self.dead.remove(key)

    @rule(keep=st.integers(1, 2), with_examples=st.booleans())
    def prune(self, keep, with_examples):
        self._done(lambda: prune.prune(self.store, keep, examples=with_examples))
        for kind, called in {key[:2] for key in self.made}:
            of_name = [self.made[key] for key in sorted(self.made) if key[:2] == (kind, called)]
            holding = [made for made in of_name if not made.void and not made.pruned]
            for made in holding[:-keep]:
                made.pruned = None  # may be, where nothing else needs it
        for key, made in self.made.items():
            if made.pruned is None or made.void:
                made.pruned = self._version(key).content is None
        if with_examples:
            left = {key for key in self.known if examples.known_ids(self.store, [name(key)])}
            held = {i for made in self.made.values() if not made.void and not made.pruned for i in made.ids}
            assert held <= set(map(name, left))
            self.known = left
            left_rows = self._stored_rows()
            assert left_rows <= self.rows
            self.rows = left_rows

    # What changes nothing

    @rule(what=st.sampled_from(["collect", "compact", "reopen"]))
    def look_after(self, what):
        if what == "collect":
            assert self.killed or maintenance.garbage(self.store, grace=-1.0) == []
            maintenance.collect(self.store, grace=-1.0)
            self.killed = False
        elif what == "compact":
            self._done(lambda: compact.compact(self.store, grace=0.0))
        else:
            self.store.close()
            self.store = Store(self.place)

    @precondition(lambda self: self._exported())
    @rule(which=ANY)
    def checkout(self, which):
        """An old version comes out as its run exported it, byte for byte."""
        key = one_of(self._exported(), which)
        out = self.folder / "out"
        checkout(self.store, "{}:{}@{}".format(*key), out)
        assert content(out) == self.made[key].export
        shutil.rmtree(out)

    def _exported(self):
        return [key for key in self._choices() if self.made[key].export]

    @precondition(lambda self: self._choices())
    @rule(which=ANY)
    def export(self, which):
        key = one_of(self._choices(), which)
        out = self.folder / "exported"
        gradsift.export("{1}@{2}".format(*key), out, labels=False, store=self.store)
        rows = pa.parquet.read_table(sorted(out.rglob("*.parquet"))[0])
        assert sorted(rows["example_id"].to_pylist()) == sorted(self.made[key].ids)
        shutil.rmtree(out)

    def _choices(self):
        """Selections and mixtures that hold."""
        return [key for key, made in self.made.items() if key[0] != "pool" and not made.void and not made.pruned]

    # What must always be

    def _version(self, key):
        return next(v for v in versions.numbered(self.store, *key[:2]) if v.number == key[2])

    def _ids(self, version):
        if version.kind == "pool":
            return examples.get_dataset(self.store, versions.usable(self.store, version)).example_ids
        return selections.of_version(self.store, version).example_ids

    def _learn(self, found, exports=()):
        """Take in new versions: each is what was just made, or what is left of an older one of its name."""
        for kind, called in versions.names(self.store):
            for version in versions.numbered(self.store, kind, called):
                key = (kind, called, version.number)
                if key in self.made:
                    continue
                ids = self._ids(version)
                dead = set(map(name, self.dead))
                left = [[i for i in made.ids if i not in dead] for at, made in self.made.items() if at[:2] == key[:2]]
                assert ids in [found.get((kind, called)), *left]
                self.made[key] = Made(ids)
            if (kind, called) in found:
                newest = max(key for key in self.made if key[:2] == (kind, called))
                assert self.made[newest].ids == found[kind, called]
                assert not self.made[newest].void
                if (kind, called) in exports:
                    made = self.made[newest]
                    assert made.export in ({}, exports[kind, called]), "a version was exported otherwise than before"
                    made.export = exports[kind, called]

    def _stored_rows(self):
        space = self.store.catalog.one("SELECT space_id FROM feature_space")
        return set() if space is None else set(features.ids_with_rows(self.store, space["space_id"]))

    @invariant()
    def whole(self):
        self.steps.append(1)
        assert maintenance.verify(self.store) == []

    @invariant()
    def holds_its_examples(self):
        have = self.store.catalog.rows("SELECT example_id FROM example ORDER BY example_id")
        assert [one["example_id"] for one in have] == sorted(map(name, self.known))
        texts = examples.get_messages(self.store, [name(key) for key in self.known])
        assert all(texts[name(key)][0]["content"] == row(key)["prompt"] for key in self.known)

    @invariant()
    def holds_its_versions(self):
        for key, made in self.made.items():
            version = self._version(key)
            assert (version.content is None) == made.pruned, key
            assert (version.void is not None) == made.void or made.pruned, key
            if not made.pruned and not made.void:
                assert self._ids(version) == made.ids, key

    @invariant()
    def holds_its_rows(self):
        assert self._stored_rows() == self.rows
        if self.rows:
            space = features.define_space(self.store, SPACE)
            ids = sorted(self.rows)
            block = features.read_all(self.store, space, ids)
            assert block.example_ids == ids
            made = np.asarray(block.vectors, np.float32) * block.scale[:, None] * block.norm[:, None]
            assert np.allclose(made, np.stack([gradient(i) for i in ids]), atol=0.05)

    @invariant()
    def forgets(self):
        """Texts of what was deleted are in no byte of the store, nor in what tables keep packed."""
        if self.dead:
            gone = [word(key) for key in self.dead]
            assert found_in(self.folder / "store", *gone) == []
            for one in self.store.catalog.rows("SELECT selection_id FROM exported"):
                places = origins.exported(self.store, one["selection_id"])
                assert not [g for g in gone if g in repr(places)]
            assert not [e for e in quarantine.entries(self.store) if any(g in e.excerpt + e.detail for g in gone)]


def settled(**more):
    return settings(deadline=None, suppress_health_check=list(HealthCheck), database=None, **more)


STORY = """
    begin 8; kill 1; gradients 9; score_and_select 3; checkout 0; look_after compact; arrive 3 2 True; kill 9; run 4; gradients 9;
    kill 5; delete 0 4; look_after collect; look_after reopen; mix 4; revive 0; leave 0; run 3; kill 2; prune 2 True; export 0
"""  # every rule, in an order that a store may see
LATER = """;
    gradients 9; kill 1; gradients 9; score_and_select 2; kill 5; delete 0 4; look_after collect; mix 4; gradients 9; arrive 3 2 True;
    run 4; checkout 1; revive 0; run 3; gradients 9; leave 0; run 3; export 2; delete 2 2; prune 1 False;
    kill 1; look_after compact; run 5; gradients 9; score_and_select 4; kill 2; prune 2 True; gradients 9; checkout 0; delete 0 1;
    prune 1 True; look_after reopen; run 2; export 0
"""


@pytest.fixture
def steps(tally):
    """Steps that were taken, all of them without a difference from the model: one would have ended the test."""
    taken = []
    yield taken
    tally("steps of a store's life, some killed, beside a model", promise=1).harmless(len(taken))


@pytest.mark.parametrize("story", [STORY, pytest.param(STORY + LATER, marks=pytest.mark.soak)], ids=["short", "long"])
def test_promises_1_2_and_8_hold_through_the_life_of_a_store(steps, story):
    machine = StoreMachine(steps=steps)
    try:
        for step in story.split(";"):
            called, *words = step.split()
            getattr(machine, called)(
                *(int(word) if word.isdigit() else {"True": True, "False": False}.get(word, word) for word in words)
            )
            machine.whole()
            machine.holds_its_examples()
            machine.holds_its_versions()
            machine.holds_its_rows()
            machine.forgets()
    finally:
        machine.teardown()


def test_a_store_is_what_a_model_of_sets_says_after_any_steps(steps):
    run_state_machine_as_test(
        lambda: StoreMachine(steps=steps), settings=settled(max_examples=2, stateful_step_count=6, derandomize=True)
    )


@pytest.mark.soak
@pytest.mark.parametrize("catalog", ["sqlite", "postgresql"])
def test_a_store_is_what_a_model_of_sets_says_after_thousands_of_steps(catalog, request, steps):
    def place_of(folder):
        if catalog == "sqlite":
            return folder / "store"
        url = request.getfixturevalue("postgres").url(f"t_{secrets.token_hex(8)}")
        return Place(folder / "store", url, (folder / "files").as_uri())

    run_state_machine_as_test(
        lambda: StoreMachine(place_of, steps),
        settings=settled(max_examples=100, stateful_step_count=60, derandomize=False),
    )
