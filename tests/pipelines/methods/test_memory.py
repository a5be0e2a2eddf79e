"""What methods look at may lie in memory or on the disk: they choose the same."""

import numpy as np
import pytest

from gradsift.datastore import runs
from gradsift.pipelines.features.gather import evidence
from gradsift.pipelines.methods.registry import methods, rules, scores, split_options
from gradsift.pipelines.model.work import Work
from gradsift.pipelines.recipe import parse_recipe
from gradsift.pipelines.runs.last import material_of
from gradsift.scorers import rows as rows_module

LOOK_AT_ROWS = ["tagcos", "gio", "gio_exact", "gio_knn", "tsds", "tive", "kmq", "facility_location", "k_center"]


@pytest.fixture
def seen(copy):
    """Evidence of the finished run's one target, of a budget of so many bytes for rows."""
    last = runs.last_run(copy)
    work = Work(copy, parse_recipe(last.recipes.resolved))

    def of(room):
        made = evidence(work, material_of(copy, last), "sql")
        made.room = room
        return made

    return of


@pytest.mark.parametrize("represent", ["gradients", "plain", "embedding"])
@pytest.mark.parametrize("unit", [False, True])
def test_rows_on_the_disk_are_those_in_memory_to_the_bit(seen, represent, unit):
    e = seen(0)
    mapped, held = e.rows(represent, unit=unit), seen(1 << 30).rows(represent, unit=unit)
    total = None
    for pair, weight in e._weighted(represent):
        for positions, block in e.blocks(pair, represent):
            part = rows_module.unit_rows(block.signal("embedding")) if represent == "embedding" else block.unit()
            total = np.zeros((len(e.ids), part.shape[1]), np.float32) if total is None else total
            total[positions] += np.float32(weight) * part
    expected = rows_module.unit_rows(total) if unit else total
    np.testing.assert_array_equal(held.array(), expected)
    np.testing.assert_array_equal(mapped.array(), expected)
    some = np.array([5, 3, 3, 17])
    np.testing.assert_array_equal(mapped.read(some), expected[some])


@pytest.mark.parametrize("name", LOOK_AT_ROWS)
def test_a_method_chooses_the_same_from_rows_on_the_disk(seen, name, monkeypatch):
    monkeypatch.setattr(rows_module, "BLOCK_ROWS", 32)  # several blocks of this pool
    method = methods()[name]
    of_score, of_rule = split_options(method.score, method.rule, method.options)
    more = {"omp": {"clusters": 4}, "kmeans_quota": {"clusters": 4}, "gio": {"quantise": of_rule.get("quantise", 12)}}
    found = []
    for room in (0, 1 << 30):
        e = seen(room)
        values = scores()[method.score].run(e, **of_score)
        choice = rules()[method.rule].run(e, values, 20, **{**of_rule, **more.get(method.rule, {})})
        found.append((choice.order.tolist(), {k: v.tolist() for k, v in choice.columns.items()}))
    assert found[0] == found[1]
    assert len(found[0][0]) >= 20


def test_every_rule_that_looks_at_rows_is_held_against_both():
    watched = {methods()[name].rule for name in LOOK_AT_ROWS}
    streams = {"quadrants", "s2l"}  # of signals
    named = {m.rule for m in methods().values() if rules()[m.rule].needs({"represent": "plain", **m.options})}
    assert named - streams <= watched
