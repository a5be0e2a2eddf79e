"""What changed between two mixtures: counted by hand, from the store and from exports alike."""

import json
from dataclasses import asdict

import pytest

from gradsift.datastore.errors import InputError
from gradsift.datastore.store import Store
from gradsift.pipelines.export.diff import diff
from gradsift.pipelines.recipe import parse_recipe
from gradsift.pipelines.runs.curate import curate


@pytest.fixture
def two(tmp_path, write_jsonl):
    """A store with two versions of one mixture, and their exports: 10 of alpha and 10 of beta; then 5, 10 and 4 of gamma,
    some of them twice."""
    rows = [
        {
            "prompt": f"{source} {k} " + "word " * (40 if source == "gamma" else 8),
            "completion": f"answer {k}",
            "source": source,
        }
        for source, count in (("alpha", 10), ("beta", 10), ("gamma", 4))
        for k in range(count)
    ]
    pool = write_jsonl(*rows)
    with Store(tmp_path / "store") as store:
        made = []
        for number, mix in enumerate((
            {"examples": 20, "weights": {"alpha": 1, "beta": 1}},
            {"examples": 24, "weights": {"alpha": 5, "beta": 11, "gamma": 8}, "repeat": 2},
        )):  # fmt: skip
            data = {"name": "mix", "pool": [{"path": str(pool)}], "mix": mix}
            made.append(curate(parse_recipe(data), store, export_root=tmp_path / str(number)).mixtures[0])
        yield store, made


def sides(two, kind):
    _, made = two
    if kind == "store":
        return [f"mix@{made[0].digest[:10]}", "mix"]
    return [row.export for row in made]


@pytest.mark.parametrize("kind", ["store", "exports"])
def test_rows_in_and_out(two, kind):
    found = asdict(diff(two[0] if kind == "store" else None, *sides(two, kind)))
    assert (found["a"]["rows"], found["a"]["examples"]) == (20, 20)
    assert (found["b"]["rows"], found["b"]["examples"]) == (24, 19)
    assert (found["in_both"], found["only_a"], found["only_b"], found["other_copies"]) == (15, 5, 4, 1)
    sources = {row["source"]: row for row in found["by"]["source"]}
    assert sources["alpha"] == {"source": "alpha", "a": 10, "b": 5, "change": -5, "left": 5, "came": 0}
    assert sources["beta"] == {"source": "beta", "a": 10, "b": 11, "change": 1, "left": 0, "came": 0}
    assert sources["gamma"] == {"source": "gamma", "a": 0, "b": 8, "change": 8, "left": 0, "came": 4}
    lengths = {row["characters"]: (row["a"], row["b"]) for row in found["by"]["length"]}
    assert lengths == {"below 200": (20, 16), "200 to 499": (0, 8)}
    assert [row["source"] for row in found["examples"]["only_a"]] == ["alpha"] * 3
    assert found["examples"]["only_b"][0]["user"].startswith("gamma")
    assert found["examples"]["only_b"][0]["user"].endswith("…")


def test_store_and_exports_agree(two):
    by_store = diff(two[0], *sides(two, "store"))
    by_export = diff(None, *sides(two, "exports"))
    assert by_store == by_export


def test_a_mixture_does_not_differ_from_itself(two):
    found = diff(two[0], "mix", "mix")
    assert (found.only_a, found.only_b, found.other_copies) == (0, 0, 0)
    assert all(row["change"] == 0 for table in found.by.values() for row in table)


def test_scores_are_compared(finished, tmp_path):
    import shutil

    from gradsift.pipelines.runs import reselect

    shutil.copytree(finished[1], tmp_path / "copy")
    with Store(tmp_path / "copy") as store:
        reselect.reselect(store, {"method": "less", "examples": 5}, name="five")
        reselect.reselect(store, {"method": "tagcos", "examples": 9, "options": {"clusters": 3}}, name="nine")
        found = diff(store, "five-sql", "small-sql")
        clusters = diff(store, "nine-sql", "small-sql").by["cluster"]
    rows = {row["rows that"]: row for row in found.score}
    assert rows["stays (score in a)"]["examples"] == 5
    assert rows["came (score in b)"]["highest"] <= rows["stays (score in b)"]["lowest"]
    assert sum(row["a"] for row in clusters) == 9
    json.dumps(asdict(found))


def test_what_is_neither_is_refused(two, tmp_path):
    with pytest.raises(InputError, match="no selection 'nobody'"):
        diff(two[0], "nobody", "mix")
    with pytest.raises(InputError, match="is not the folder of an export, and there is no store"):
        diff(None, str(tmp_path), "mix")
