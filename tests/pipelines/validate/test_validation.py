"""Validation: the trainer, the arms, resuming, verdicts, answers, the report."""

import json
import re
import shutil
import sys
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from running import gradsift

from gradsift.datastore import runs, selections
from gradsift.datastore.errors import FeatureSpaceMismatch, InputError
from gradsift.datastore.store import Store
from gradsift.pipelines.features.gather import evidence
from gradsift.pipelines.model.chats import Chats
from gradsift.pipelines.model.encode import encode
from gradsift.pipelines.model.generate import greedy
from gradsift.pipelines.model.load import load_trainable
from gradsift.pipelines.model.losses import row_losses
from gradsift.pipelines.model.opened import open_model
from gradsift.pipelines.model.work import Work
from gradsift.pipelines.recipe import Sft, parse_recipe
from gradsift.pipelines.report import charts
from gradsift.pipelines.report.page import html, markdown
from gradsift.pipelines.report.report import report, write_report
from gradsift.pipelines.runs import reselect
from gradsift.pipelines.runs.last import material_of
from gradsift.pipelines.runs.revalidate import revalidate
from gradsift.pipelines.training import sft
from gradsift.pipelines.validate import attribution
from gradsift.pipelines.validate.answers import answer
from gradsift.pipelines.validate.arms import BASE, draw_arms, half_of, seen_by
from gradsift.pipelines.validate.table import mean_ci95
from gradsift.scorers import checkers


@pytest.fixture(scope="module")
def loaded(recipe_data):
    return open_model(parse_recipe(recipe_data).model)


@pytest.fixture(scope="module")
def rows(loaded, data_dir):
    lines = (data_dir / "test.jsonl").read_text().splitlines()[:16]
    return [encode(loaded.tokenizer, json.loads(line)["messages"], 128) for line in lines]


def model_of(recipe_data, loaded, mode="lora"):
    recipe = parse_recipe(recipe_data)
    return load_trainable(loaded, recipe.model, recipe.lora, 0, mode)


def weights(model):
    return {n: p.detach().clone() for n, p in model.named_parameters()}


# --- the trainer ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_training_lowers_the_loss_of_its_rows(recipe_data, loaded, rows, mode):
    model = model_of(recipe_data, loaded, mode)
    before = np.mean(row_losses(model, loaded.tokenizer, rows, 2048))
    log = sft.fit(model, loaded.tokenizer, rows, Sft(epochs=4, batch_size=4, lr=5e-3, mode=mode), 0)
    after = np.mean(row_losses(model, loaded.tokenizer, rows, 2048))
    assert after < before - 0.2
    assert log.steps == 16
    assert log.label_tokens == 4 * sum(row.n_label_tokens for row in rows)
    assert log.tokens == 4 * sum(len(row.input_ids) for row in rows)
    assert len(log.curve) == 16
    assert log.curve[-1][3] < log.curve[3][3], "the rate decays"
    assert log.early_grad_norm > 0
    assert not model.training


def test_two_trainings_agree_to_the_last_digit(recipe_data, loaded, rows):
    found = []
    for _ in range(2):
        model = model_of(recipe_data, loaded)
        sft.fit(model, loaded.tokenizer, rows, Sft(epochs=2, batch_size=4, lr=1e-3), 7)
        found.append(row_losses(model, loaded.tokenizer, rows, 2048).tolist())
    assert found[0] == found[1]


@pytest.mark.parametrize(("micro", "count"), [(2, 16), (3, 16), (2, 13), (100, 16)])
def test_accumulated_batches_are_the_same_step(recipe_data, loaded, rows, micro, count):
    """Also where parts are of unlike size: 3 does not divide 8, and 13 rows leave a last batch of 5."""
    found, logs = [], []
    for at_once in (None, micro):
        model = model_of(recipe_data, loaded)
        settings = Sft(epochs=1, batch_size=8, lr=1e-3, micro_batch_size=at_once)
        logs.append(sft.fit(model, loaded.tokenizer, rows[:count], settings, 0))
        found.append(row_losses(model, loaded.tokenizer, rows, 2048).tolist())
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
    assert logs[0].steps == logs[1].steps == 2
    assert logs[0].label_tokens == logs[1].label_tokens
    np.testing.assert_allclose([p[1:3] for p in logs[0].curve], [p[1:3] for p in logs[1].curve], rtol=1e-3)


def test_steps_replace_epochs(recipe_data, loaded, rows):
    log = sft.fit(model_of(recipe_data, loaded), loaded.tokenizer, rows, Sft(batch_size=4), 0, steps=3)
    assert log.steps == 3
    assert log.curve[-1][3] < 2e-4


def test_dft_weighs_tokens_by_their_probability():
    """scorers.md R11: the gradient is p times cross-entropy's; certain and impossible tokens give none."""
    z = torch.tensor([[2.0, -1.0, 0.5]], requires_grad=True)
    nll = torch.nn.functional.cross_entropy(z, torch.tensor([0]), reduction="none")
    (ce,) = torch.autograd.grad(nll.sum(), z, retain_graph=True)
    (dft,) = torch.autograd.grad(sft.weighted(nll, "dft").sum(), z)
    torch.testing.assert_close(dft, torch.exp(-nll.detach())[:, None] * ce)
    assert float(sft.weighted(torch.tensor([0.0]), "dft")) == 0.0
    assert float(sft.weighted(torch.tensor([60.0]), "dft")) < 1e-20
    assert sft.weighted(nll, "ce") is nll


def test_grades_at_its_ends(recipe_data, loaded, rows):
    """τ = 0 is training without it; τ = ∞ freezes everything after its share of the steps."""
    plain, zero, all_frozen = (model_of(recipe_data, loaded) for _ in range(3))
    settings = {"epochs": 2, "batch_size": 4, "lr": 1e-3}
    sft.fit(plain, loaded.tokenizer, rows, Sft(**settings), 0)
    log = sft.fit(zero, loaded.tokenizer, rows, Sft(**settings, grades={"tau": 0.0}), 0)
    assert log.frozen == 0
    for name, value in weights(plain).items():
        torch.testing.assert_close(value, weights(zero)[name], rtol=0, atol=0)
    log = sft.fit(all_frozen, loaded.tokenizer, rows, Sft(**settings, grades={"tau": 1e30, "alpha": 0.5}), 0)
    assert log.steps == 4
    assert log.frozen == len([1 for n in weights(all_frozen) if "lora_" in n])


@pytest.mark.parametrize("optimizer", ["dog", "dadapt"])
def test_optimizers_without_a_rate_train(recipe_data, loaded, rows, optimizer):
    model = model_of(recipe_data, loaded)
    before = np.mean(row_losses(model, loaded.tokenizer, rows, 2048))
    sft.fit(model, loaded.tokenizer, rows, Sft(epochs=12, batch_size=4, optimizer=optimizer), 0)
    after = np.mean(row_losses(model, loaded.tokenizer, rows, 2048))
    assert np.isfinite(after)
    assert after < before


@pytest.mark.parametrize(("optimizer", "package"), [("dog", "dog"), ("dadapt", "dadaptation")])
def test_an_optimizer_whose_package_is_not_there(recipe_data, loaded, rows, monkeypatch, optimizer, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"`{optimizer}` needs a package.*lrfree"):
        sft.fit(model_of(recipe_data, loaded), loaded.tokenizer, rows, Sft(optimizer=optimizer), 0)


def test_presets_fill_what_is_not_given():
    assert (Sft(preset="tulu2").mode, Sft(preset="tulu2").batch_size) == ("full", 128)
    assert Sft(preset="tulu2", lr=1e-3).lr == 1e-3
    assert Sft(preset="secret_recipe").warmup_ratio == 0.0
    assert Sft(preset="less").epochs == 4


# --- answers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "given", "reference", "score"),
    [
        ("exact", " True.", "true", 1), ("exact", "False", "True", 0),
        ("number", "so 1,234.50 it is", "The answer is 1234.5", 1), ("number", "none", "3", 0),
        ("number", "3 then 4", "The answer is 3", 0), ("choice", "(B) because", "B.", 1), ("choice", "C", "(b)", 0),
        ("choice", "42", "A", 0), ("f1", "the New England Patriots", "New England Patriots", 1),
        ("f1", "New York", "New England", 0.5), ("f1", "", "", 1), ("f1", "x", "", 0),
    ],
)  # fmt: skip
def test_checkers(metric, given, reference, score):
    assert checkers.CHECKERS[metric](given, reference) == pytest.approx(score)


def test_answers_do_not_depend_on_the_batch(recipe_data, loaded, data_dir):
    model = model_of(recipe_data, loaded)
    chats = [json.loads(line)["messages"] for line in (data_dir / "test.jsonl").read_text().splitlines()[:6]]
    prompts = [chat[:-1] for chat in chats]
    one = greedy(model, loaded.tokenizer, prompts, 12, 128, batch_tokens=1)
    assert one == greedy(model, loaded.tokenizer, prompts, 12, 128)
    checked = answer(model, loaded.tokenizer, chats, "f1", 12, 128)
    assert checked.lengths == [len(tokens) for tokens in one]
    assert all(0 <= n <= 12 for n in checked.lengths)
    assert all(0 <= score <= 1 for score in checked.scores)


# --- arms ----------------------------------------------------------------------------------------------------------


def arms_of(store, recipe_data, loaded, **validate):
    last = runs.last_run(store)
    recipe = parse_recipe(last.recipes.resolved | {"validate": validate})
    material = material_of(store, last)
    material = replace(material, tests=material.targets)
    work = Work(store, recipe, loaded)
    chats = Chats(work)
    return draw_arms(work, material, chats, {"sql": selections.get(store, "small-sql")}, None), chats, store


def test_arms_are_what_their_names_say(copy, recipe_data, loaded):
    names = ["random", "random_balanced", "random_tokens", "random_lengths", "full", "length", "human"]
    arms, chats, _ = arms_of(
        copy, recipe_data, loaded, seeds=[0, 1], arms=names, human={"weights": {"sql": 3, "dates": 1}}
    )
    by_name = {(a.name, a.seed): a for a in arms}
    assert {a.name for a in arms} == {"selected", *names}
    selected = by_name["selected", 0]
    tokens = {k: sum(c.n_label_tokens for c in chats(a.example_ids)) for k, a in by_name.items()}
    assert len(by_name["random", 0].example_ids) == len(selected.example_ids) == 12
    assert by_name["random", 0].example_ids != by_name["random", 1].example_ids
    assert by_name["full", 0].example_ids == by_name["full", 1].example_ids
    assert abs(tokens["random_tokens", 0] - tokens["selected", 0]) < 40
    assert abs(tokens["random_lengths", 1] - tokens["selected", 0]) < 20
    assert tokens["length", 0] == max(tokens[k] for k in tokens if k[0] != "full")
    from gradsift.datastore import examples

    sources = examples.sources_of(copy, by_name["human", 0].example_ids)
    counts = {s: [v[0] for v in sources.values()].count(s) for s in ("sql", "dates")}
    assert counts == {"sql": 9, "dates": 3}
    balanced = [v[0] for v in examples.sources_of(copy, by_name["random_balanced", 0].example_ids).values()]
    assert max(balanced.count(s) for s in set(balanced)) <= 2


def test_of_a_budget_in_label_tokens_random_rows_and_methods_have_the_same_budget(copy, loaded):
    """Else a selection of short answers would be held against ten times the training."""
    last = runs.last_run(copy)
    select = {"method": "ppl_low", "label_tokens": 150, "at_least": 2}
    made = reselect.reselect(copy, select, name="tokens")
    changes = {"select": select, "validate": {"seeds": [0, 1], "arms": ["random", "length", "fused"]}}
    material = replace(material_of(copy, last), tests=material_of(copy, last).targets)
    chats = Chats(work := Work(copy, parse_recipe(last.recipes.resolved | changes), loaded))
    arms = draw_arms(work, material, chats, {"sql": selections.get(copy, made[0].name)}, None)
    tokens = {(a.name, a.seed): [c.n_label_tokens for c in chats(a.example_ids)] for a in arms}
    for name in ("selected", "fused"):
        assert 100 < sum(tokens[name, 0]) <= 150
    longest = tokens["length", 0]
    assert sum(longest) <= 150 or len(longest) == 2
    assert len(longest) < len(tokens["selected", 0])
    for seed in (0, 1):
        drawn = tokens["random", seed]
        assert abs(sum(drawn) - 150) <= max(drawn)


def test_a_selection_is_made_again_for_each_seed(copy, recipe_data, loaded):
    arms, _, _ = arms_of(copy, recipe_data, loaded, seeds=[0, 1, 2], arms=["redrawn"])
    selected = next(a for a in arms if a.name == "selected")
    sets = [frozenset(a.example_ids) for a in arms if a.name == "redrawn"]
    assert [len(s) for s in sets] == [len(selected.example_ids)] * 3
    assert len({*sets, frozenset(selected.example_ids)}) > 1, "halves of the target choose otherwise"
    assert all(len(s & set(selected.example_ids)) >= 4 for s in sets), "and not at random: 12 of about 150"
    again, _, _ = arms_of(copy, recipe_data, loaded, seeds=[0, 1, 2], arms=["redrawn"])
    assert [a.example_ids for a in again] == [a.example_ids for a in arms]


def test_halves_of_a_target_keep_its_subtasks():
    from gradsift.datastore.examples import Dataset

    ids = [f"{k:02d}" for k in range(21)]
    whole = Dataset(1, "target", "t", "d", ids, ["a"] * 12 + ["b"] * 8 + ["c"])
    halves = [half_of(whole, [0, 2, seed]) for seed in range(20)]
    assert all([h.subtasks.count(s) for s in "abc"] == [6, 4, 1] for h in halves)
    assert all(h.example_ids == sorted(set(h.example_ids)) for h in halves)
    assert len({h.digest for h in halves} | {whole.digest}) == 21
    kept = dict(zip(whole.example_ids, whole.subtasks, strict=True))
    assert all(kept[i] == s for h in halves for i, s in zip(h.example_ids, h.subtasks, strict=True))


def test_arms_that_cannot_be_are_refused(copy, recipe_data, loaded):
    with pytest.raises(InputError, match="did you mean `random_tokens`"):
        arms_of(copy, recipe_data, loaded, arms=["random_token"])
    with pytest.raises(InputError, match="the arm `human` needs `human`"):
        arms_of(copy, recipe_data, loaded, arms=["human"])
    with pytest.raises(InputError, match="the arm `embed` needs `encoder`"):
        arms_of(copy, recipe_data, loaded, arms=["embed"])
    with pytest.raises(InputError, match="the pool has no source 'nowhere'"):
        arms_of(copy, recipe_data, loaded, arms=["human"], human={"weights": {"nowhere": 1}})
    with pytest.raises(InputError, match="seeds must be distinct"):
        arms_of(copy, recipe_data, loaded, seeds=[1, 1])


SMALL = {"seeds": [0, 1], "epochs": 1, "batch_size": 8, "test_rows": 8}


@pytest.mark.slow
def test_a_killed_validation_goes_on_without_training_again(copy, monkeypatch):
    trained, real = [], sft.fit

    def stop_at_third(*arguments, **options):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(1)
        return real(*arguments, **options)

    monkeypatch.setattr(sft, "fit", stop_at_third)
    settings = SMALL | {"lr": 3e-3, "arms": ["random"]}
    with pytest.raises(KeyboardInterrupt):
        revalidate(copy, settings)
    monkeypatch.setattr(sft, "fit", lambda *a, **k: trained.append(1) or real(*a, **k))
    first = revalidate(copy, settings)
    assert len(trained) == 4, "two seeds of two arms, each once"
    again = revalidate(copy, settings)
    assert len(trained) == 4
    assert again.arms == first.arms


@pytest.mark.slow
def test_two_stores_agree_to_the_last_digit(finished, tmp_path):
    found = []
    for name in ("a", "b"):
        shutil.copytree(finished[1], tmp_path / name)
        with Store(tmp_path / name) as store:
            arms = revalidate(store, SMALL | {"lr": 2.5e-3, "arms": ["random"]}).arms
        found.append([(a.arm, a.test_loss, a.versus) for a in arms])
    assert found[0] == found[1]


@pytest.mark.slow
def test_the_best_rate_is_chosen_on_val_and_a_divergence_is_said(copy):
    """A rate that explodes is never the best; where there is no other, the arm is shown as diverged."""
    arms = revalidate(copy, SMALL | {"lrs": [1e-3, 1e6], "arms": ["random"], "max_grad_norm": 1e9}).arms
    assert {a.lr for a in arms if a.arm != BASE} == {1e-3}
    note = next(p for s in report(copy).sections for p in s.parts if p.title == "Test loss by arm").note
    assert "best of 2 learning rates" in note
    assert "For selected, random that is the smallest tried: the best may lie beyond it." in note
    only = revalidate(copy, SMALL | {"lr": 1e30, "arms": ["random"], "max_grad_norm": 1e30}).arms
    lost = next(a for a in only if a.arm == "random")
    assert lost.diverged == 2
    assert lost.test_loss_mean is None
    assert "random" not in next(a for a in only if a.arm == "selected").versus


def test_mixtures_methods_metrics_and_matched_steps(copy, monkeypatch):
    reselect.remix(copy, {"examples": 30, "parts": [{"target": "sql", "share": 0.5}, {"name": "rest"}]}, name="mixed")
    real = sft.fit

    def noted(model, tokenizer, rows, training, seed, *, steps, **more):
        log = real(model, tokenizer, rows, training, seed, steps=steps, **more)
        noted.seen.append((len(rows), log.steps))
        return log

    noted.seen = []
    monkeypatch.setattr(sft, "fit", noted)
    recipe = runs.last_run(copy).recipes.resolved
    recipe["targets"]["sql"] |= {"metric": "f1", "max_new_tokens": 4}
    with copy.catalog.write() as db:
        db.execute("UPDATE run SET recipe=? WHERE run_id=(SELECT max(run_id) FROM run)", (json.dumps(recipe),))
    found = revalidate(copy, SMALL | {"seeds": [0], "match": "steps", "arms": ["full", "rds"]})
    arms = {a.arm: a for a in found.arms}
    assert set(arms) == {"base", "mixture", "full", "rds"}
    assert {s for _, s in noted.seen} == {4}, "30 rows in batches of 8, whatever the arm's size"
    assert all(a.score_mean is not None and 0 <= a.response_tokens <= 4 for a in arms.values())
    assert arms["mixture"].versus["full"].verdict == "one seed"


@pytest.mark.slow
def test_masks_change_what_an_arm_trains_on(copy):
    reselect.reselect(copy, {"method": "qtuning", "examples": 60}, name="pruned")
    matched = ["random_tokens", "random_lengths"]
    found = revalidate(copy, SMALL | {"seeds": [0], "arms": matched, "qtuning": {}})
    arms = {a.arm: a for a in found.arms}
    assert arms["selected"].label_tokens < arms["qtuning"].label_tokens
    for name in matched:  # to the tokens that are trained on, not those that the masks drop
        off = abs(arms[name].label_tokens / arms["selected"].label_tokens - 1)
        assert off < abs(arms["qtuning"].label_tokens / arms["selected"].label_tokens - 1) / 2
    assert arms["selected"].test_loss != arms["qtuning"].test_loss


def test_mean_ci95():
    from scipy import stats

    values = [1.0, 2.0, 4.0]
    mean, half = mean_ci95(values)
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high), rel=1e-3)
    assert mean_ci95([3.0]) == (3.0, None)


# --- attribution ---------------------------------------------------------------------------------------------------


def test_the_spread_of_random_removals_is_that_of_a_sample():
    """Three draws estimate a standard deviation: divided by two, not by three; one draw has none."""
    removed = attribution.removal(
        lambda kept: np.array([float(len(kept))]), np.arange(8.0)[:, None], 0.25, [1.0, 2.0, 3.0]
    )
    assert removed["random_sd"] == pytest.approx(1.0)
    assert attribution.removal(lambda kept: np.zeros(1), np.zeros((4, 1)), 0.25, [1.0])["random_sd"] is None


def at_work(store, loaded):
    """(work, evidence) of a finished run's one target."""
    last = runs.last_run(store)
    work = Work(store, parse_recipe(last.recipes.resolved), loaded)
    return work, evidence(work, material_of(store, last), "sql")


def test_stored_rows_predict_one_step(copy, loaded):
    work, e = at_work(copy, loaded)
    found = attribution.one_step(work, e, 40)
    assert found.same_sign > 0.9
    assert found.pearson > 0.6, "512 dims; whole gradients give 0.99999 here"


@pytest.mark.slow
def test_lds_and_removal_on_a_small_model(copy, loaded):
    """Gradient scores beat noise at predicting retrained losses; exact products and stored rows agree."""
    work, e = at_work(copy, loaded)
    ids = e.ids[:48]
    rows = attribution.by_row(work, e)
    named = {"less": ("similarity", {}), "rank": ("similarity", {"aggregate": "rank"})}
    scores = dict(attribution.attributions(rows, ids, named)) | {"exact": attribution.exact_dots(work, rows, ids)}
    np.testing.assert_array_equal(scores["less"], e.similarity(per="query")[:48])
    train = attribution.trainer(work, sorted(e.target.example_ids), ids, Sft(epochs=1, batch_size=8, lr=2e-3))
    parts = attribution.halves(len(ids), 24, 0)
    assert all(len(p) == 24 for p in parts)
    kept = []
    losses = attribution.measure_halves(train, parts, keep=kept.append)
    assert [len(k) for k in kept] == list(range(1, 25))
    again = attribution.measure_halves(lambda _part: pytest.fail("trained again"), parts, kept[-1])
    np.testing.assert_array_equal(again, losses)
    found = {name: float(attribution.lds(s, parts, losses).mean()) for name, s in scores.items()}
    assert set(found) == {"less", "rank", "dot", "rds", "bm25", "random", "exact"}
    assert min(found["less"], found["exact"]) > found["random"] + 0.1
    at_random = attribution.removal_at_random(train, len(ids), 0.2, 2, 0)
    removed = attribution.removal(train, scores["less"], 0.2, at_random)
    assert removed["damage"] == pytest.approx(removed["without_top"] - removed["without_random"])


# --- the report ----------------------------------------------------------------------------------------------------

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]


def test_the_report_shows_what_was_found(finished):
    with Store(finished[1]) as store:
        document = report(store)
        text = html(document)
    titles = [s.title for s in document.sections]
    assert titles == [
        "Does it help on sql?",
        "What was chosen",
        "What stayed out",
        "Rows in and out",
        "Since the last version",
        "Cost",
        "Lineage",
    ]
    parts = {p.title: p for s in document.sections for p in s.parts}
    for wanted in ("Test loss by arm", "selected against each other arm", "Training loss", "Sources before and after",
                   "Scores of small-sql", "Map of small-sql", "Error and uncertainty of small-sql"):  # fmt: skip
        assert parts[wanted].svg.startswith("<svg"), wanted
    assert all(p.table for s in document.sections for p in s.parts), "every picture has its figures"
    training = {row["arm"]: row for row in parts["Training loss"].table}
    assert list(training) == ["selected", "random", "random_tokens"]
    assert all(row["steps"] >= 1 and row["start"] > 0 and row["end"] > 0 for row in training.values())
    lengths = parts["What the scores of small-sql follow"].table[0]
    assert lengths["against"] == "answer length, tokens"
    assert -1 <= lengths["rank correlation"] <= 1
    assert document.cards[0].text.startswith("sql: selected − random = ")
    assert {row["arm"] for row in parts["Test loss by arm"].table} == {"base", "selected", "random", "random_tokens"}
    for arm in next(s for s in document.sections if s.title.startswith("Does")).parts[0].table:
        assert f"{arm['test_loss_mean']:.4g}" in text
    json.dumps(asdict(document))
    assert "## Does it help on sql?" in markdown(document)


def test_the_page_is_one_file_that_loads_and_runs_nothing(finished):
    with Store(finished[1]) as store:
        page = Page(html(report(store)))
    assert not {"script", "link", "iframe", "img", "object", "form"} & set(page.tags)
    assert not [a for a in page.attributes if a[1] in ("src", "href", "srcset") or a[1].startswith("on")]
    policy = next(v for t, n, v in page.attributes if t == "meta" and n == "content" and "default-src" in v)
    assert policy.startswith("default-src 'none'")
    for svg in [a for a in page.attributes if a[0] == "svg" and a[1] == "aria-label"]:
        assert svg[2], "every picture has a text alternative"


def test_hostile_text_stays_text(copy, recipe_data):
    with copy.catalog.write() as db:
        db.execute("UPDATE example SET source=? WHERE source='sql'", (EVIL,))
    text = html(report(copy))
    page = Page(text)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert "&lt;script&gt;" in text
    assert "<script" not in markdown(report(copy)).replace("\\<", "")


def test_an_arm_of_unlike_selections_takes_the_steps_of_each():
    """`full` is one arm for all targets; matched to their selections it is as many runs as they have lengths."""
    from gradsift.pipelines.validate.arms import Arm
    from gradsift.pipelines.validate.validate import _with_steps

    arms = [Arm("base", 0, (), ("a", "b", "c")), Arm("full", 0, ("x", "y"), ("a", "b", "c"))]
    found = [(arm.name, arm.targets, steps) for arm, steps in _with_steps(arms, {"a": 5, "b": 9, "c": 5})]
    assert found == [("base", ("a", "b", "c"), None), ("full", ("a", "c"), 5), ("full", ("b",), 9)]
    assert [steps for _, steps in _with_steps(arms, {})] == [None, None]


def test_status_shows_what_each_run_measured(finished):
    from gradsift.datastore.overview import overview

    with Store(finished[1]) as store:
        lines = overview(store)["validation_arms"]
        arms = runs.last_run(store).result.arms
    selected = next(a for a in arms if a.arm == "selected")
    first = next(x for x in lines if x["arm"] == "selected" and x["seed"] == 0)
    assert first["test_losses"] == f"sql {round(selected.test_loss[0], 4)}"
    assert first["lr"] == selected.lr
    assert first["examples"] == selected.examples


def test_tables_keep_numbers_whole_and_fold_in_a_narrow_terminal(capsys, monkeypatch):
    from gradsift.cli import show

    rows = [{"arm": "random_tokens", "label tokens": 1234, "test loss": 1.23456, "note": "a long remark " * 6}]
    for width, whole in ((80, True), (24, False)):
        monkeypatch.setenv("COLUMNS", str(width))
        show.table("T", rows)
        out = capsys.readouterr().out
        assert all(len(line) <= width for line in out.splitlines())
        assert all((text in out) is whole for text in ("random_tokens", "1.2346"))
        assert "".join(out.split()).count("1") >= 2, "folded, not cut off"


def test_a_run_knows_its_own_peak():
    """A large allocation before a run does not count as its peak."""
    before = np.ones(600 << 20, np.uint8)
    with_it = sft._peak_bytes()
    assert with_it >= before.nbytes
    del before
    sft._reset_peak()
    if Path("/proc/self/clear_refs").exists():
        assert sft._peak_bytes() < with_it - (400 << 20)


def test_a_card_names_what_was_not_beaten(finished):
    from gradsift.pipelines.report.report import cards

    with Store(finished[1]) as store:
        result = runs.last_run(store).result
    arm = next(a for a in result.arms if a.arm == "selected")
    verdicts = {"random": "better", "random_tokens": "better", "bm25": "no evidence", "rds": "worse"}
    versus = {name: replace(arm.versus["random"], verdict=verdict) for name, verdict in verdicts.items()}
    (card,) = cards(replace(result, arms=[replace(arm, versus=versus)]))
    assert card.headline == "Better than random"
    assert card.text.endswith(" Not better than bm25, rds.")


def test_seconds_of_work_that_another_call_did_are_not_claimed(finished):
    from gradsift.pipelines.report.cost import costs

    with Store(finished[1]) as store:
        run = runs.last_run(store)
        recipe = parse_recipe(run.recipes.resolved)
        found = {c.what: c for c in costs(store, recipe, run.result)}
        again = [replace(row, computed=0) for row in run.result.rows]
        later = {c.what: c for c in costs(store, recipe, replace(run.result, rows=again))}
    assert found["gradient rows"].seconds > 0
    assert later["gradient rows"].seconds is None
    assert later["gradient rows"].flops == found["gradient rows"].flops


def test_pictures_of_odd_data():
    """One value, equal values, no interval, many series, long names: always a picture, never a crash."""
    for svg in (
        charts.intervals("t", [("a", 1.0, None, None, True)], "x"),
        charts.histogram("t", [1.0, 1.0, 1.0], [1.0], "x", 1.0),
        charts.scatter("t", charts.two_clouds([(0.0, 0.0), (0.0, 0.0)], 1), "x", "y"),
        charts.panels("t", {f"arm {k}" * 9: [[[1, 2.0], [2, None], [3, 1.0]]] for k in range(12)}, "x", "y"),
        charts.shares("t", [("a" * 90, {f"s{k}": k for k in range(20)}), ("b", {})]),
        charts.heat("t", ["a"], [[None]]),
    ):
        assert svg.startswith("<svg")
        assert "nan" not in svg.lower().replace("financ", "")
        assert svg.count("<svg") == svg.count("</svg>") == 1


@pytest.mark.slow
def test_the_commands(copy, tmp_path):
    (tmp_path / "v.yaml").write_text("seeds: [0]\nepochs: 1\ntest_rows: 6\narms: [random]\n")
    out = gradsift("validate", "v.yaml", "--store", copy.root, "--out", "page.html", cwd=tmp_path).stdout
    assert re.search(r"one\s+seed", out)
    assert (tmp_path / "page.html").read_text("utf-8").startswith("<!doctype html>")
    assert json.loads((tmp_path / "page.json").read_text("utf-8"))["name"] == "small"
    gradsift("report", "--store", copy.root, "--out", "again.html", cwd=tmp_path)
    assert (tmp_path / "again.html").read_bytes() == (tmp_path / "page.html").read_bytes()
    bad = gradsift("validate", "none.yaml", "--store", copy.root, cwd=tmp_path, code=2)
    assert "cannot read none.yaml" in bad.stderr


def test_a_report_without_validation_or_gradients(tmp_path, write_jsonl):
    from gradsift.pipelines.runs.curate import curate

    rows_ = [{"prompt": f"q {k}", "completion": f"a {k}", "source": "s"} for k in range(9)]
    data = {"name": "plain", "pool": [{"path": str(write_jsonl(*rows_))}], "mix": {"examples": 4}}
    with Store(tmp_path / "store") as store:
        made = curate(parse_recipe(data), store)
        document = report(store)
    assert document.cards[0].headline == "Chosen"
    assert [s.title for s in document.sections] == [
        "What was chosen",
        "What stayed out",
        "Rows in and out",
        "Since the last version",
        "Cost",
        "Lineage",
    ]
    assert made.report.endswith("reports/plain.html")
    with Store(tmp_path / "store") as store:
        assert write_report(store, tmp_path / "x.html").exists()


def test_promise_4_another_model_does_not_validate_what_this_one_chose(replaced):
    """The arms would be of another model than the rows, without a word."""
    with pytest.raises(FeatureSpaceMismatch, match=r"not those that made this store's rows .* Run the recipe again"):
        revalidate(replaced, SMALL)


def test_a_redrawn_selection_looks_at_the_checkpoints_that_the_first_did(copy):
    """`select --checkpoint 0` is not bounded by draws over all checkpoints."""
    last = runs.last_run(copy)
    work, material = Work(copy, parse_recipe(last.recipes.resolved)), material_of(copy, last)
    reselect.reselect(copy, {"method": "less", "examples": 5}, checkpoint=0, name="first")
    one, both = (selections.get(copy, name) for name in ("first-sql", "small-sql"))
    assert seen_by(work, material, one).pairs == material.pairs[:1]
    assert seen_by(work, material, both).pairs == material.pairs
