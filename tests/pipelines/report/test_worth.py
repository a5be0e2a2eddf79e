"""What an arm gained for what it cost, and from where on choosing pays, against arithmetic by hand."""

import math
from dataclasses import replace

import pytest

from gradsift.datastore import runs
from gradsift.datastore.cascades import CascadeReport
from gradsift.datastore.runs import ArmRow, Ingested, PoolReport, RunResult, Versus, as_json, read
from gradsift.datastore.store import Store
from gradsift.pipelines.model.chats import usable_chats
from gradsift.pipelines.model.work import open_work
from gradsift.pipelines.recipe import parse_recipe
from gradsift.pipelines.report import worth as worth_module
from gradsift.pipelines.report.answers import answers
from gradsift.pipelines.report.cost import Selecting, selecting
from gradsift.pipelines.report.worth import pays_words, rows_of, with_worth
from gradsift.pipelines.runs.last import material_of
from gradsift.scorers.worth import Pays, Spent, pays, per_flop


def test_gain_per_flop_and_break_even_by_hand():
    """Base 3.0, random 2.5, the arm 2.0. Selecting: 9 for all of 3 targets and 1 for each; trainings of 4, random 3.

    Random lowers the loss by 0.5 for 3 FLOPs, so that the gain of 0.5 is worth W = 3 of them. A FLOP more is spent on
    training the arm: 2 are left for selecting, which is 9/n + 1: n ≥ 9. For 3 targets it is 4: twice the training."""
    spent = Spent(shared=9.0, own=1.0, training=4.0, at_random=3.0, targets=3)
    assert per_flop(0.5, spent) == 0.5 / (3 + 1 + 4)
    assert pays(3.0, 2.5, 2.0, spent) == Pays(9, 2.0)
    cheap = replace(spent, training=3.0)
    assert pays(3.0, 2.5, 2.0, cheap) == Pays(math.ceil(9 / 2), 4 / 3)
    assert pays(3.0, 2.5, 2.0, replace(spent, shared=0.0, own=0.0)) == Pays(1, 0.0)


def test_what_never_pays():
    """A gain of 0.1 is worth 0.6: less than the longer training alone; one of 0.2 is worth 1.2, and left over is 0.2:
    less than a target's own rows, whatever their number. It pays from 4/0.2 times the training on."""
    spent = Spent(shared=9.0, own=1.0, training=4.0, at_random=3.0, targets=3)
    assert pays(3.0, 2.5, 2.4, spent) == Pays(None, None)
    found = pays(3.0, 2.5, 2.3, spent)
    assert found.targets is None
    assert found.times == pytest.approx(20.0)
    assert pays(2.4, 2.5, 2.3, spent) == Pays(1, 0.0)  # random rows do harm: no number of them gains as much


def arm(name, loss, verdict=None, tokens=100.0):
    versus = {}
    if verdict:
        found = Versus(loss - 2.5, -0.6, -0.4, 0.001, 3, 3, 0.01, -9.0, 0.01, 4, verdict, rows=48, claim="method")
        versus = {"random": replace(found, method_low=-0.6, method_high=-0.4, method_p_adjusted=0.01)}
    return ArmRow(
        name, "sql", range(3), 1e-3, [loss] * 3, loss, 0.01, "loss", [], None, None, None, 120, 1.0, tokens,
        versus=versus,
    )  # fmt: skip


@pytest.fixture
def priced(recipe_data, monkeypatch):
    """(recipe, result) of a run of three targets whose model has 10 weights: a token costs 40 FLOPs."""
    monkeypatch.setattr(worth_module, "weights_outside_embeddings", lambda _recipe: 10)
    spent = Selecting(warmup=100, pool=800, targets={"sql": 100, "b": 7, "c": 7})
    monkeypatch.setattr(worth_module, "selecting", lambda *_: spent)

    def of(*arms, cascade=None, **changes):
        base, random = arm("base", 3.0, tokens=None), arm("random", 2.5, tokens=300.0)
        ingested = Ingested(PoolReport(9, "d", 9, 9, 0), {}, {})
        result = RunResult("r", ingested, arms=[base, random, *arms], cascade=cascade)
        return with_worth(None, parse_recipe(recipe_data | changes), result)

    return of


def test_arms_have_what_they_gained_for_all_that_was_spent_for_them(priced):
    """As by hand above, times 4,000: 900 tokens for all, 100 of its own, 400 trained on, 300 by random, at 40 FLOPs."""
    result = priced(arm("selected", 2.0, "better", 400.0), arm("bm25", 2.25, "better", 300.0))
    selected, words = result.arms[2].worth, result.arms[3].worth
    assert (selected.selecting, selected.training) == (40 * (300 + 100), 40 * 400)
    assert selected.per_flop == 0.5 / (40 * 800)
    assert (selected.targets, selected.times) == (9, 2.0)
    assert (words.selecting, words.per_flop, words.targets) == (0.0, 0.25 / (40 * 300), 1)
    assert read(as_json(result)).arms[2].worth == selected
    in_full = priced(arm("selected", 2.0, "better", 400.0), validate={"mode": "full"}).arms[2].worth
    assert (in_full.selecting, in_full.training) == (40 * 400, 60 * 400)


def test_it_is_said_in_words_and_in_the_report(priced):
    result = priced(arm("selected", 2.0, "this set better", 400.0), arm("bm25", 2.25, "better", 300.0))
    nth = "pays from the 9th target on that the same rows serve, or for as many as here from a training on 240 rows"
    assert pays_words(result.arms[2]) == f"{nth} such as these (2 times as many) on"
    assert f"By its cost it {nth}" in answers(result)[0].text
    assert [row["arm"] for row in rows_of(result)] == ["selected", "bm25"]
    assert rows_of(result)[0]["gain per PFLOP"] == pytest.approx(0.5 / (40 * 800) * 1e15)
    assert pays_words(result.arms[3]) == "pays from the first target on: choosing took no pass of the model"
    never = priced(arm("selected", 2.4, "better", 400.0)).arms[2]
    assert pays_words(never).startswith("does not pay: as much more training")
    long = priced(arm("selected", 2.3, "better", 400.0)).arms[2]
    assert pays_words(long).startswith("does not pay by more targets, but from a training on 2,400 rows")


@pytest.mark.parametrize("verdict", ["no evidence", "worse", "one seed", "too few rows", "diverged", None])
def test_nothing_is_said_of_a_gain_that_is_not_told_apart_from_random(priced, verdict):
    result = priced(arm("selected", 2.0, verdict, 400.0), arm("bm25", 2.25, "better", 300.0))
    assert result.arms[2].worth is None
    assert pays_words(result.arms[2]) == ""
    assert [row["arm"] for row in rows_of(result)] == ["bm25"]


def test_rows_that_a_cascade_chose_for_these_targets_pay_from_no_number_of_them(priced):
    report = CascadeReport(1, 9, 100, 3, 1, 3, 3, 0.5, {"sql": 1.0}, {"sql": 0.5}, True, 1)
    arms = priced(arm("selected", 2.0, "better", 400.0), arm("bm25", 2.25, "better", 300.0), cascade=report).arms
    assert (arms[2].worth.targets, arms[2].worth.times, arms[3].worth.targets) == (None, 2.0, 1)
    assert pays_words(arms[2]).startswith("does not pay by more targets, but from a training on 240 rows")
    within = replace(arms[2], worth=replace(arms[2].worth, times=0.5))
    assert pays_words(within) == "pays with the training as it is"


def test_a_mixture_is_charged_for_what_its_parts_look_at(priced):
    """Not for what `select` and the arms do; where trainings weigh its sources, whose cost is not counted, for nothing
    that could be said."""

    def worth(**part):
        mix = {"examples": 20, "parts": [{"name": "p", **part}]}
        return priced(arm("mixture", 2.0, "better", 300.0), mix=mix).arms[2].worth

    assert worth().selecting == 0.0
    assert worth(target="sql", select={"method": "bm25"}).selecting == 0.0
    assert worth(target="sql").selecting == worth(weights="tive").selecting == 40 * (300 + 100)
    assert worth(weights="scaling_law") is None


@pytest.mark.parametrize("name", ["embed", "loss_drop", "qtuning"])
def test_nothing_is_said_of_an_arm_whose_cost_is_not_counted(priced, name):
    assert priced(arm(name, 2.0, "better")).arms[2].worth is None


def test_tokens_are_those_that_went_through_the_model(finished):
    """Of a finished run: every row of the pool and of the target at both checkpoints, and the share of the warm-up."""
    with Store(finished[1]) as store:
        run = runs.last_run(store)
        recipe = parse_recipe(run.recipes.resolved)
        spent = selecting(store, recipe, run.result)
        work, material = open_work(store, recipe), material_of(store, run)
        pool, target = (
            sum(len(row.input_ids) for row in usable_chats(work, one.example_ids)[1])
            for one in (material.pool, material.targets["sql"])
        )
    assert spent.pool == 2 * pool
    assert spent.targets == {"sql": 2 * target}
    assert spent.warmup == pytest.approx(2 * 0.2 * pool, rel=0.05)
    assert spent.shared(10) + spent.own(10, "sql") == spent.flops(10) == 40 * (spent.warmup + 2 * pool + 2 * target)
