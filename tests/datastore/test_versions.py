"""Versions of datasets as intervals: members of every version as they were, and a row for each change alone."""

import random
import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradsift import sql
from gradsift.datastore import examples, features
from gradsift.datastore.errors import InputError
from gradsift.datastore.examples import Example
from gradsift.datastore.store import Store

NAMES = [format(k, "032x") for k in range(12)]


def fill(store, names=NAMES):
    chat = [{"role": "user", "content": "ask"}, {"role": "assistant", "content": "say"}]
    examples.add(store, [Example(name, chat, f"s{int(name, 16) % 3}", "f", k) for k, name in enumerate(names)])


def interval_rows(store):
    return store.catalog.one("SELECT count(*) AS n FROM membership")["n"]


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A store with the examples; tests give their datasets names of their own."""
    with Store(tmp_path_factory.mktemp("versions") / "store") as store:
        fill(store)
        yield store


fresh = iter(range(10**6))
members = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["", "a", "b"]), min_size=1)


@settings(max_examples=40)
@given(st.lists(st.tuples(members, st.sampled_from(["", "screened"])), min_size=1, max_size=8))
def test_every_version_has_the_members_that_it_was_defined_with(filled, history):
    name = f"p{next(fresh)}"
    defined = [examples.define_dataset(filled, "pool", name, of, lane) for of, lane in history]
    for made, (of, _) in zip(defined, history, strict=True):
        found = examples.get_dataset(filled, made.dataset_id)
        assert dict(zip(found.example_ids, found.subtasks, strict=True)) == of
        assert (found.digest, found.example_ids) == (made.digest, sorted(of))
        assert examples.find_dataset(filled, "pool", name, made.digest).dataset_id == made.dataset_id
    assert len({made.dataset_id for made in defined}) == len({tuple(sorted(of.items())) for of, _ in history})


def test_a_version_costs_its_changes(filled):
    """A nightly pool and its screened part: thirty versions of each add a row for each example that came."""
    many = [format(k + 1000, "032x") for k in range(230)]
    fill(filled, many)
    before = interval_rows(filled)
    for night in range(30):
        pool = many[: 200 + night]
        examples.define_dataset(filled, "pool", "nightly", dict.fromkeys(pool, ""))
        examples.define_dataset(filled, "pool", "nightly", dict.fromkeys(pool[5:], ""), "screened")
    assert interval_rows(filled) - before == 229 + 224


def test_an_older_version_that_comes_back_is_that_version(filled):
    a, b, c = (dict.fromkeys(NAMES[: 4 + k], "") for k in range(3))
    first = examples.define_dataset(filled, "pool", "back", a)
    second = examples.define_dataset(filled, "pool", "back", b)
    assert examples.define_dataset(filled, "pool", "back", a).dataset_id == first.dataset_id
    third = examples.define_dataset(filled, "pool", "back", c)
    for made, of in ((first, a), (second, b), (third, c)):
        assert examples.get_dataset(filled, made.dataset_id).example_ids == sorted(of)


def delete(store, *names):
    with store.catalog.write() as db:
        for name in names:
            db.execute("DELETE FROM example WHERE example_id=?", (name,))
            db.execute("UPDATE dataset SET void='1 example was deleted' WHERE dataset_id IN (1, 2)")


def test_what_is_left_stands_for_a_version_that_lost_examples(store):
    fill(store)
    pool = examples.define_dataset(store, "pool", "p", dict.fromkeys(NAMES[:6], ""))
    examples.define_dataset(store, "target", "t", dict.fromkeys(NAMES[4:8], "one"))
    delete(store, NAMES[5])
    left = examples.standing(store, pool.dataset_id)
    assert left.example_ids == NAMES[:5]
    assert left.dataset_id != pool.dataset_id
    assert examples.standing(store, pool.dataset_id) == left
    target = examples.find_dataset(store, "target", "t", examples.get_dataset(store, 2).digest)
    assert dict(zip(target.example_ids, target.subtasks, strict=True)) == dict.fromkeys(
        [*NAMES[4:5], *NAMES[6:8]], "one"
    )
    fill(store, [NAMES[5]])
    again = examples.define_dataset(store, "pool", "p", dict.fromkeys(NAMES[:6], ""))
    assert again.dataset_id not in (pool.dataset_id, left.dataset_id)
    assert again.digest == pool.digest
    assert examples.get_dataset(store, again.dataset_id).example_ids == NAMES[:6]
    assert examples.get_dataset(store, left.dataset_id).example_ids == NAMES[:5]
    assert examples.find_dataset(store, "pool", "p", pool.digest).dataset_id == again.dataset_id
    delete(store, *NAMES[:6])
    with pytest.raises(InputError, match=r"every example of pool 'p' was deleted \(1 example"):
        examples.standing(store, pool.dataset_id)


def test_members_of_an_older_catalog_are_migrated_as_they_were(tmp_path):
    """Rows of each version become intervals: as few as there are changes."""
    path = tmp_path / "catalog.sqlite"
    known = sql.migrations("sqlite")
    db = sqlite3.connect(path)
    for migration in known:
        if migration.version < 6:
            db.executescript(migration.text)
    db.execute("INSERT INTO shard VALUES (1, 'examples', 'x', 12, 1, ?, 0)", ("0" * 64,))
    db.executemany("INSERT INTO example VALUES (?, 's', NULL, 1, 0, 1)", [(i,) for i in NAMES])
    rng, of = random.Random(0), {}
    for number, (role, name) in enumerate([("pool", "p"), ("target", "t"), ("pool", "q")] * 6, 1):
        of[number] = {i: rng.choice(["", "", "", "b"]) for i in rng.sample(NAMES, rng.randint(1, 12))}
        if number == 13:
            of[number] = dict(of[10])  # nothing changed but the digest: one interval
        db.execute(
            "INSERT INTO dataset (dataset_id, role, name, digest, rows, created) VALUES (?, ?, ?, ?, ?, 0)",
            (number, role, name, str(number), len(of[number])),
        )
        db.executemany("INSERT INTO dataset_member VALUES (?, ?, ?)", [(number, i, s) for i, s in of[number].items()])
    (text,) = [migration.text for migration in known if migration.version == 6]
    db.executescript(text)
    for number, expected in of.items():
        found = db.execute("SELECT example_id, subtask FROM dataset_member WHERE dataset_id=?", (number,)).fetchall()
        assert dict(found) == expected
        assert len(found) == len(expected)
    chains = {}
    for number in of:
        chains.setdefault((number - 1) % 3, []).append(of[number])
    changes = sum(
        len(now.items() - before.items())
        for versions in chains.values()
        for before, now in zip([{}, *versions], versions, strict=False)
    )
    assert db.execute("SELECT count(*) FROM membership").fetchone()[0] == changes


def test_questions_about_members_use_indexes(filled):
    """No query of a version scans what other versions or other pools hold."""
    space = features.define_space(filled, {"kind": "plans"})
    asked = []
    rows = filled.catalog.rows
    made = examples.define_dataset(filled, "pool", "plans", dict.fromkeys(NAMES, ""))

    class Watching:
        def __getattr__(self, name):
            return getattr(filled.catalog, name)

        def rows(self, text, parameters=()):
            asked.append((text, parameters))
            return rows(text, parameters)

    watching = Store.__new__(Store)
    watching.__dict__.update({**vars(filled), "catalog": Watching()})
    examples.get_dataset(watching, made.dataset_id)
    examples.source_column(watching, made)
    features.with_rows(watching, space, made.dataset_id)
    features.statuses(watching, space, made.dataset_id)
    features.open_units(watching, space, made.dataset_id)
    asked.append((sql.query("members_of_shard", "sqlite"), {"dataset_id": made.dataset_id, "shard_id": 1}))
    assert len(asked) == 6
    for text, parameters in asked:
        plan = [row["detail"] for row in rows(f"EXPLAIN QUERY PLAN {text}", parameters)]
        assert not [step for step in plan if step.startswith("SCAN")], plan
