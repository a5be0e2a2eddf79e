"""Methods on a store that holds a run: every preset chooses, deterministically, within its budget."""

import json
import shutil
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest

from gradsift.datastore import runs, selections
from gradsift.datastore.errors import InputError
from gradsift.datastore.store import Store
from gradsift.pipelines.export.export import export
from gradsift.pipelines.features.gather import evidence
from gradsift.pipelines.methods.evidence import Evidence
from gradsift.pipelines.methods.memory import Sizes
from gradsift.pipelines.methods.registry import (
    Choice,
    Rule,
    checked_options,
    memory_of,
    methods,
    options_of,
    rules,
    scores,
    table,
)
from gradsift.pipelines.model.work import Work
from gradsift.pipelines.recipe import Select, parse_recipe
from gradsift.pipelines.runs import reselect
from gradsift.pipelines.runs.curate import curate
from gradsift.pipelines.runs.last import material_of
from gradsift.pipelines.select import overlap as overlap_module
from gradsift.pipelines.select import select as select_module
from gradsift.pipelines.select.overlap import overlap
from gradsift.pipelines.select.select import choose
from gradsift.scorers import less
from gradsift.scorers.budgets import even, largest_remainder
from gradsift.scorers.rows import unit_rows

STORE_ONLY = [m for m in methods() if m not in ("embed", "ifd", "loss_drop", "tagcos_released", "auto")]


@pytest.fixture
def seen(copy):
    """Evidence of the finished run's one target."""
    last = runs.last_run(copy)
    work = Work(copy, parse_recipe(last.recipes.resolved))
    return evidence(work, material_of(copy, last), "sql")


def chosen(store, method, **select):
    budget = select.pop("budget", {"examples": 10})
    more = {k: select.pop(k) for k in ("seed", "name", "checkpoint") if k in select}
    rows = reselect.reselect(store, {"method": method, **budget, **select}, **more)
    return selections.get(store, rows[0].name)


@pytest.mark.parametrize("method", STORE_ONLY)
def test_every_method_chooses_what_was_asked(copy, method):
    found = chosen(copy, method)
    size = len(found.example_ids)
    assert size == 10
    assert len(set(found.example_ids)) == size
    table = selections.details(copy, found)
    assert set(found.example_ids) <= set(table["example_id"].to_pylist())
    assert np.isfinite(table["score"].to_numpy()).all()


def test_the_released_floors_fall_short(copy):
    """A hundred clusters of a small pool give nothing at all; three give a few."""
    with pytest.raises(InputError, match="chose nothing"):
        chosen(copy, "tagcos_released")
    few = chosen(copy, "tagcos_released", options={"clusters": 3}, name="three")
    assert 10 - 3 <= len(few.example_ids) <= 10


def test_kmq_shares_evenly_and_draws_by_quality(seen):
    def taken(**options):
        select = Select(method="kmq", examples=21, options={"clusters": 4, **options})
        choice, influence = choose(seen, select)
        return choice.order, choice.columns["cluster"], influence

    order, cluster, influence = taken()
    sizes = np.bincount(cluster)
    assert np.bincount(cluster[order]).tolist() == even(21, sizes.tolist()).tolist()
    greedy, _, _ = taken(temperature=1e-9)
    assert set(greedy.tolist()) == set(taken(inside="best")[0].tolist())
    for part in range(4):
        inside = influence[greedy[cluster[greedy] == part]]
        assert inside.min() >= np.sort(influence[cluster == part])[-len(inside)]
    assert set(order.tolist()) != set(greedy.tolist())
    proportional = np.bincount(cluster[taken(shares="proportional")[0]])
    assert proportional.tolist() == largest_remainder(sizes.tolist(), 21, sizes.tolist()).tolist()


def test_the_released_floors_are_of_the_budgets_fraction(seen):
    """⌊n·fraction⌋ of every cluster, as the release has it. Of size/N, which is rounded already, a cluster of a multiple
    of 1/fraction rows would give one less."""
    short = 0
    for fraction in (0.02, 0.05, 0.1, 0.125, 0.2, 0.25, 0.29, 0.5):
        select = Select(method="tagcos_released", fraction=fraction, options={"clusters": 12})
        choice = choose(seen, select)[0]
        cluster = choice.columns["cluster"]
        sizes = np.bincount(cluster)
        given = np.bincount(cluster[choice.order], minlength=len(sizes)).tolist()
        assert given == [int(int(n) * fraction) for n in sizes]
        size = int(fraction * len(cluster))
        assert len(choice.order) <= size
        short += given != [int(int(n) * size / len(cluster)) for n in sizes]
    assert short


@pytest.mark.parametrize("method", ["tagcos", "gio", "qtuning", "dsir", "s2l", "ccs", "facility_location", "random"])
def test_the_same_seed_gives_the_same_selection_again(finished, tmp_path, method):
    digests = []
    for number in range(2):
        shutil.copytree(finished[1], tmp_path / str(number))
        with Store(tmp_path / str(number)) as store:
            digests.append(chosen(store, method, seed=5).digest)
    assert digests[0] == digests[1]


def test_what_an_older_version_of_the_methods_chose_is_not_taken_for_todays(copy, monkeypatch):
    with monkeypatch.context() as then:
        then.setattr(select_module, "VERSION", 1)
        old = chosen(copy, "s2l")
        assert chosen(copy, "s2l").selection_id == old.selection_id
    assert chosen(copy, "s2l").selection_id != old.selection_id


def test_the_preset_less_is_the_runs_own_selection(copy, finished):
    again = chosen(copy, "less", budget={"examples": 12})
    assert again.digest == finished[2].selections[0].digest


def test_similarity_is_less_by_hand(seen):
    """Streamed and rounded, against means of unit rows in f32."""
    total = 0.0
    for pair, weight in zip(seen.pairs, seen.weights, strict=True):
        query, subtasks = seen.query_rows(pair, "gradients")
        means, _ = less.subtask_means(query, subtasks)
        rows = np.concatenate([block.unit() for _, block in seen.blocks(pair)])
        places = np.concatenate([place for place, _ in seen.blocks(pair)])
        part = np.zeros((len(seen.ids), len(means)))
        part[places] = rows @ means.T
        total = total + weight * part
    np.testing.assert_allclose(seen.similarity(), total, atol=2e-6)
    per_query = seen.similarity(per="query")
    assert per_query.shape == (len(seen.ids), len(seen.target.example_ids))
    np.testing.assert_allclose(per_query.mean(axis=1), seen.similarity(per="all")[:, 0], atol=4e-6)
    longer = seen.similarity(renormalise=True)
    assert (np.abs(longer) >= np.abs(seen.similarity()) - 2e-6).all()


def test_gio_on_gradients_ranks_as_the_mean_cosine(seen):
    """core-methods §7, on real rows of one checkpoint."""
    from scipy.stats import spearmanr

    from gradsift.scorers.gio import phi

    one = type(seen)(seen.store, seen.pool, seen.target, seen.pairs[-1:], seen.seed)
    rows, target = one.rows().array(), one.queries()[0]
    cosine = unit_rows(rows) @ target.mean(axis=0)
    assert spearmanr(-phi(target, rows), cosine).statistic > 0.999


def test_gio_over_checkpoints_follows_the_cosine_and_not_the_length(seen):
    from scipy.stats import spearmanr

    found = scores()["phi"].run(seen)
    cosine = unit_rows(seen.rows().array()) @ unit_rows(seen.queries()[0]).mean(axis=0)
    assert spearmanr(found, cosine).statistic > 0.99
    assert spearmanr(found, seen.similarity(per="all")[:, 0]).statistic > 0.8


def test_rows_of_checkpoints_are_averaged_and_not_normalised(seen):
    lengths = np.linalg.norm(seen.rows().array(), axis=1)
    assert (lengths <= 1 + 1e-5).all()
    assert lengths.min() < 0.999


def test_a_budget_of_label_tokens_is_not_exceeded(copy):
    for method in ("less", "tagcos", "qtuning"):
        found = chosen(copy, method, budget={"label_tokens": 300})
        tokens = overlap_module._label_tokens(copy)
        spent = sum(tokens[i] for i in found.example_ids)
        assert 150 < spent <= 300


@pytest.mark.parametrize("method", ["less", "tagcos", "qtuning"])
def test_so_many_rows_come_of_a_budget_of_label_tokens_at_least(copy, method):
    """Of few tokens, so many rows; of many, what they allow: whichever is more."""
    few = chosen(copy, method, budget={"label_tokens": 30, "at_least": 6}, name="few")
    assert len(few.example_ids) == 6
    many = chosen(copy, method, budget={"label_tokens": 300, "at_least": 3}, name="many")
    assert many.example_ids == chosen(copy, method, budget={"label_tokens": 300}, name="bare").example_ids
    assert len(many.example_ids) > 3
    assert selections.spec_of(copy, few)["budget"] == {"label_tokens": 30, "at_least": 6}


def test_more_rows_than_there_are_cannot_be_the_least(copy):
    with pytest.raises(InputError, match="at_least is 9999 but only"):
        chosen(copy, "less", budget={"label_tokens": 30, "at_least": 9999})
    with pytest.raises(InputError, match="`at_least` is the least number of examples of a budget in `label_tokens`"):
        chosen(copy, "less", budget={"examples": 30, "at_least": 9})


def test_a_rule_that_gives_fewer_than_the_least_is_refused(seen, monkeypatch):
    def four(_e, _values, size, **_):
        return Choice(np.arange(min(size, 4)))

    monkeypatch.setitem(rules(), "quadrants", replace(rules()["quadrants"], run=four))
    select = Select(method="qtuning", label_tokens=30, at_least=6)
    with pytest.raises(InputError, match=r"select\.at_least is 6 and this method gives 4 examples"):
        choose(seen, select)


def test_parts_of_evidence_know_how_many_examples_the_pool_has(seen):
    of = Evidence(seen.store, seen.pool, seen.target, seen.pairs, usable=999)
    assert of.over(seen.pool).usable == of.towards(seen.target, 3).usable == 999


# --- several scores in one -----------------------------------------------------------------------------------------


def by_hand(e, columns, k=60, weights=None):
    """[N] reciprocal ranks of the best columns of scores that have no ties."""
    total = np.zeros(len(e.ids))
    for scores_of, weight in zip(columns, weights or [1] * len(columns), strict=True):
        best = scores_of if scores_of.ndim == 1 else scores_of.max(axis=1)
        assert len(set(best.tolist())) == len(best)
        total[np.argsort(-best)] += weight / (k + np.arange(1, len(best) + 1))
    return total


def test_fused_adds_the_ranks_of_its_members(seen):
    less_, rds = seen.similarity("gradients", "subtask"), seen.similarity("embedding", "query")
    order, found = choose(seen, Select(method="fused", examples=9))
    np.testing.assert_allclose(found, by_hand(seen, [less_, rds]), rtol=1e-12)
    assert [seen.ids[k] for k in order.order] == [seen.ids[k] for k in np.lexsort((seen.ids, -found))[:9]]
    length = seen.signal("n_label_tokens") + np.arange(len(seen.ids)) * 1e-9  # no ties
    options = {"of": ["signal", "less"], "weights": {"signal": 0.25}, "k": 5}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(seen), "signal", lambda _e, name, _checkpoint: length if name == "loss" else 1 / 0)
        _, found = choose(seen, Select(method="fused", examples=9, options=options))
    np.testing.assert_allclose(found, by_hand(seen, [less_, length], 5, [1, 0.25]), rtol=1e-12)


def test_the_order_of_members_decides_nothing_and_their_own_options_do(copy):
    names = ["rds", "bm25", "less", "ppl_low"]
    one = chosen(copy, "fused", options={"of": names}, name="one")
    other = chosen(copy, "fused", options={"of": names[::-1]}, name="other")
    assert one.example_ids == other.example_ids
    own = chosen(copy, "fused", options={"of": names, "member_options": {"rds": {"represent": "plain"}}}, name="own")
    assert own.example_ids != one.example_ids
    table = reselect.score(copy, {"method": "fused", "options": {"of": names}})["sql"]
    assert table["example_id"].to_pylist()[:10] == one.example_ids
    alone = chosen(copy, "fused", options={"of": ["ppl_low"]}, name="alone")
    assert alone.example_ids == chosen(copy, "ppl_low").example_ids


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"of": []}, "option `of`: give names of methods or scores, each once"),
        ({"of": ["less", "less"]}, "each once"),
        ({"of": ["lses"]}, "no method or score `lses`; did you mean `less`"),
        ({"of": ["less", "tagcos"]}, "`tagcos` chooses otherwise than by an order of scores"),
        ({"of": ["less", "ppl_mid"]}, "`ppl_mid` chooses otherwise"),
        ({"of": ["less", "fused"]}, "`fused` chooses otherwise"),
        ({"weights": {"bm25": 2}}, "option `weights`: `bm25` is no member; `of` has less, rds"),
        ({"weights": {"less": 0}}, "option `weights`: Input should be greater than 0"),
        ({"k": -1}, "option `k`"),
        ({"member_options": {"rds": {"repersent": "plain"}}}, "no option `repersent`"),
        ({"of": ["less", "embed"]}, "a member of `fused` needs `encoder`"),
    ],
)
def test_a_fusion_that_makes_no_sense_is_refused_before_anything_is_computed(recipe_data, options, said):
    with pytest.raises(InputError, match=said):
        parse_recipe(recipe_data | {"select": {"method": "fused", "examples": 9, "options": options}})


def test_a_fusion_holds_what_its_members_hold():
    sizes = Sizes(pool=1000, dims=64, target=10, subtasks=2, chosen=50)
    held = memory_of("fused", "top_k", {}, sizes) - memory_of("none", "top_k", {}, sizes)
    # 6 numbers of its own, J + 1 of LESS and V + 1 of RDS+, instead of the score's one zero.
    assert held == 8 * 1000 * (6 + (2 + 1) + (10 + 1) - 1)


def test_checkpoints_and_seeds_can_be_chosen(copy):
    first, last = chosen(copy, "less", checkpoint=0, name="first"), chosen(copy, "less", checkpoint=1, name="last")
    assert len(first.example_ids) == len(last.example_ids)
    assert chosen(copy, "random", seed=1).digest != chosen(copy, "random", seed=2, name="other").digest
    with pytest.raises(InputError, match="no checkpoint 9"):
        chosen(copy, "less", checkpoint=9)


@pytest.mark.parametrize("method", [m for m in STORE_ONLY if not methods()[m].options.get("low")])
def test_the_whole_pool_and_one_target_row(seen, method):
    """The smallest target there is, and a budget of everything: a whole answer or an error that says what is missing."""
    one = replace(seen.target, example_ids=seen.target.example_ids[:1], subtasks=seen.target.subtasks[:1])
    alone = type(seen)(seen.store, seen.pool, one, seen.pairs, seen.seed)
    select = Select(method=method, fraction=1.0)
    if method in ("gio", "gio_exact"):
        with pytest.raises(InputError, match="needs more than 1 target points"):
            choose(alone, select)
        return
    order = choose(alone, select)[0].order.tolist()
    assert len(order) == len(set(order))
    kept = {"ccs": 0.7, "ccs_adapt": 0.85}.get(method, 1.0)  # both leave the ends of difficulty out
    assert kept * len(seen.ids) <= len(order) <= len(seen.ids)


def test_overlap_and_scores(copy):
    for method in ("less", "mean_cosine", "length"):
        chosen(copy, method)
    found = overlap(copy, ["small-less-sql", "small-mean-cosine-sql", "small-length-sql"])
    matrix = np.array([[row[name] for name in list(row)[2:]] for row in found.rows])
    np.testing.assert_allclose(np.diag(matrix), 1)
    np.testing.assert_allclose(matrix, matrix.T)
    assert 0 < found.by_chance < 1
    by_name = {row["selection"]: row for row in found.scores}
    assert by_name["small-length-sql"]["with length"] == pytest.approx(1)
    table = reselect.score(copy, {"method": "less"})["sql"]
    assert table["score"].to_pylist() == sorted(table["score"].to_pylist(), reverse=True)
    with pytest.raises(InputError, match="chooses sets"):
        reselect.score(copy, {"method": "tagcos"})


def test_wrong_options_are_named(recipe_data):
    def parse(select):
        return parse_recipe({**recipe_data, "select": {"examples": 5, **select}})

    for select, words in (
        ({"method": "lss"}, "did you mean `less`"),
        ({"method": "tagcos", "options": {"cluster": 5}}, "did you mean `clusters`"),
        ({"method": "tsds", "options": {"kde_points": 500}}, "no option `kde_points`; known here: .*kde_neighbours"),
        ({"method": "tagcos", "options": {"clusters": "many"}}, "option `clusters`: Input should be a valid integer"),
        ({"method": "gio", "options": {"mode": "fast"}}, "option `mode`: Input should be 'released'"),
        ({"method": "dsir", "options": {"temperature": float("nan")}}, "option `temperature` must be a number"),
        ({"rule": "topk"}, "did you mean `top_k`"),
        ({"method": "embed"}, "needs `encoder`"),
        ({"fraction": 0.1}, "exactly one of"),
    ):
        with pytest.raises(InputError, match=words):
            parse(select)
    assert parse({"rule": "round_robin"}).select.parts() == ("similarity", "round_robin", {})
    assert parse({"method": "ppl_mid", "rule": "top_k"}).select.parts()[2] == {"signal": "perplexity"}


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("trak", {"ridge": 0.0}, "singular: fewer rows than dims need a ridge"),
        ("gio", {"mode": "knn", "neighbours": 0}, "one neighbour or more"),
        ("dsir", {"buckets": 0}, "one bucket or more"),
        ("ccs", {"bins": 0}, "one bin or more"),
        ("ccs_adapt", {"bins": 0}, "one bin or more"),
        ("ccs", {"hard": 1.0}, "below 1"),
        ("tsds", {"kde_neighbours": 0}, "one row or more"),
        ("tagcos_released", {"fraction": 0.5}, "give the budget as `fraction`"),
        ("tsds", {"neighbours": 0}, "one neighbour or more"),
        ("qtuning", {"group": "batch", "batch": 0}, "one example or more"),
        ("tive", {"legacy_tive_q": 0.0}, "above 0"),
    ],
)
def test_an_unsuitable_option_is_bad_input_with_the_methods_name(seen, method, options, words):
    with pytest.raises(InputError, match=f"method '{method}': .*{words}"):
        choose(seen, Select(method=method, options=options, examples=5))


def test_a_missing_package_is_named_with_its_extra(seen, monkeypatch):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(InputError, match=r"method 'bm25': .*gradsift\[text\]"):
        choose(seen, Select(method="bm25", examples=5))
    with pytest.raises(InputError, match=r"method 'bm25': .*gradsift\[text\]"):
        reselect.score(seen.store, {"method": "bm25"})


@pytest.mark.parametrize("error", [ValueError, IndexError, ImportError])
def test_a_bug_in_a_rule_is_not_the_users_fault(seen, monkeypatch, error):
    def broken(e, scores, size):
        raise error("a bug")

    monkeypatch.setitem(rules(), "random", Rule("random", broken, lambda _options: frozenset(), True))
    with pytest.raises(error, match=r"^a bug$"):
        choose(seen, Select(method="random", examples=5))


def test_influence_names_a_subtask_without_a_row(seen):
    with seen.store.catalog.write() as db:
        bare = (seen.target.example_ids[-1],)
        db.execute("UPDATE feature_row SET status='no_labels', row=NULL WHERE example_id=?", bare)
    target = replace(seen.target, subtasks=[*seen.target.subtasks[:-1], "lost"])
    e = type(seen)(seen.store, seen.pool, target, seen.pairs, seen.seed)
    with pytest.raises(InputError, match="subtask 'lost' has no row"):
        scores()["influence"].run(e)


def test_a_signal_that_was_not_kept_is_named_with_its_setting(copy):
    with pytest.raises(InputError, match=r"answer_loss: true"):
        chosen(copy, "ifd")


def test_loss_drop_prefers_what_the_target_teaches(recipe_data, copy):
    """In a run: SQL rows fall most when SQL is learnt. From a store alone it is refused."""
    with pytest.raises(InputError, match="use `gradsift run`"):
        chosen(copy, "loss_drop")
    plain = {**recipe_data, "validate": None, "select": {"method": "loss_drop", "examples": 12}}
    found = curate(parse_recipe(plain), copy).selections[0]
    assert found.source_precision > found.source_share_of_pool


@pytest.mark.slow
def test_ifd_needs_and_uses_the_answers_own_loss(recipe_data, tmp_path):
    features = {**recipe_data["features"], "signals": {"answer_loss": True, "tokens": False, "embedding": False}}
    changes = {"features": features, "validate": None, "select": {"method": "ifd", "examples": 5}}
    with Store(tmp_path / "ifd") as store:
        found = curate(parse_recipe({**recipe_data, **changes}), store).selections[0]
        table = selections.details(store, selections.get(store, found.name))
    assert found.examples == 5
    assert max(table["score"].to_pylist()) < 1


def test_the_table_of_methods_is_whole():
    rows = table()
    assert {row.method for row in rows} == set(methods())
    for name, method in methods().items():
        assert method.score in scores()
        assert method.rule in rules()
        assert checked_options(method.score, method.rule, method.options) == dict(method.options), name
    assert options_of("similarity", "softmax")["temperature"][1] == 1.0
    json.dumps([asdict(row) for row in rows])


def test_every_rule_takes_every_score(seen):
    """The axes are independent: any rule runs on any score, but for the one that asks other methods."""
    from gradsift.pipelines.methods.registry import split_options

    names = [n for n in scores() if n not in ("influence", "phi", "loss_drop")]
    for rule in (name for name, one in rules().items() if one.between is None):
        for name in names:
            of_score, of_rule = split_options(name, rule, {})
            found = rules()[rule].run(seen, scores()[name].run(seen, **of_score), 6, **of_rule)
            assert len(set(found.order.tolist())) == 6, (name, rule)


# --- Q-Tuning: masks from selection to export and training -----------------------------------------------------------


def test_masks_reach_the_export_and_the_trainer(copy, tmp_path):
    from datasets import load_dataset

    found = chosen(copy, "qtuning", budget={"fraction": 0.3})
    masks = selections.masks(copy, found)
    assert masks
    assert all(any(m) and not all(m) for m in masks.values() if len(m) > 1)
    folder = export(copy, found, runs.recipe_of(copy, found), tmp_path / "out")
    data = load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    tokens = overlap_module._label_tokens(copy)
    for row in data:
        labels = [t for t in row["labels"] if t != -100]
        kept = sum(masks[row["example_id"]]) if row["example_id"] in masks else tokens[row["example_id"]]
        assert len(labels) == kept
        assert all(label in (-100, t) for label, t in zip(row["labels"], row["input_ids"], strict=True))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["pruned_examples"] == len(masks)


def test_a_masked_loss_is_the_mean_over_kept_tokens(recipe):
    import torch

    from gradsift.pipelines.model.batches import collate, pad_id
    from gradsift.pipelines.model.encode import encode
    from gradsift.pipelines.model.head import example_losses, token_losses
    from gradsift.pipelines.model.load import load_lora
    from gradsift.pipelines.model.opened import open_model

    loaded = open_model(recipe.model)
    model = load_lora(loaded, recipe.model, recipe.lora, 0).eval()
    chat = [{"role": "user", "content": "hello there"}, {"role": "assistant", "content": "a rather longer answer"}]
    row = encode(loaded.tokenizer, chat, 64)
    keep = [k % 3 != 1 for k in range(row.n_label_tokens)]
    with torch.no_grad():
        nll = token_losses(model, collate([row], pad_id(loaded.tokenizer))).nll
        masked = example_losses(model, collate([row.masked(keep)], pad_id(loaded.tokenizer)))
    torch.testing.assert_close(masked[0], nll[torch.tensor(keep)].mean())
    with pytest.raises(ValueError, match="a mask of 1 tokens"):
        row.masked([True])


def test_dynamic_pruning_in_training(recipe_data, copy):
    """The arm `qtuning` trains on the selected examples with each batch pruned, and is recorded apart."""
    settings = {**recipe_data["validate"], "seeds": [0], "arms": ["random_lengths"], "qtuning": {"sample_ratio": 0.5}}
    result = curate(parse_recipe({**recipe_data, "validate": settings}), copy)
    arms = {arm.arm: arm for arm in result.arms}
    assert set(arms) == {"base", "selected", "qtuning", "random_lengths"}
    assert arms["qtuning"].test_loss != arms["selected"].test_loss
    assert arms["random_lengths"].examples == arms["selected"].examples
    assert abs(arms["random_lengths"].label_tokens / arms["selected"].label_tokens - 1) < 0.35


def test_the_callback_prunes_as_the_formulas_say(recipe):
    from gradsift.pipelines.model.encode import encode
    from gradsift.pipelines.model.load import load_lora
    from gradsift.pipelines.model.opened import open_model
    from gradsift.pipelines.recipe import QTuning
    from gradsift.pipelines.training.prune import dynamic, score
    from gradsift.scorers import qtuning

    loaded = open_model(recipe.model)
    model = load_lora(loaded, recipe.model, recipe.lora, 0).train()
    texts = [
        "one two three four",
        "a b c d e f",
        "the cat sat on the mat",
        "1 2 3 5 8 13",
        "zebra",
        "so it goes, and so on",
    ]
    rows = [
        encode(loaded.tokenizer, [{"role": "user", "content": "say"}, {"role": "assistant", "content": t}], 64)
        for t in texts
    ]
    kept = dynamic(QTuning(sample_ratio=0.5, token_ratio=0.5), loaded.tokenizer)(model, rows)
    assert model.training
    nll, entropy = score(model, loaded.tokenizer, rows)
    plan = qtuning.choose(np.array([np.exp(v.mean()) for v in nll]), np.array([v.mean() for v in entropy]), 0.5)
    assert len(kept) == 3
    expected = [
        max(1, row.n_label_tokens // 2) if cut else row.n_label_tokens
        for row, keep, cut in zip(rows, plan.keep, plan.prune, strict=True)
        if keep
    ]
    assert [row.n_label_tokens for row in kept] == expected
    draft = dynamic(QTuning(draft_budget=True), loaded.tokenizer)(model, rows)
    assert 1 <= len(draft) <= 3


def test_the_plane_shows_the_whole_pool(copy, tmp_path):
    from gradsift.pipelines.report.plane import draw_plane

    found = chosen(copy, "qtuning", budget={"fraction": 0.3})
    draw_plane(copy, found.name, tmp_path / "plane.svg")
    text = (tmp_path / "plane.svg").read_text()
    size = selections.details(copy, found).num_rows
    assert text.count('r="2.6"') == size
    table = selections.details(copy, found)
    assert f"added to fill the budget ({sum(table['added'].to_pylist())})" in text
    with pytest.raises(InputError, match="no error–uncertainty plane"):
        draw_plane(copy, "small-sql", tmp_path / "no.svg")


# --- the encoder ---------------------------------------------------------------------------------------------------


def test_embed_keeps_its_rows(copy, encoder_dir):
    found = chosen(copy, "embed", encoder=str(encoder_dir))
    assert len(found.example_ids) == 10
    spaces = copy.catalog.rows("SELECT spec FROM feature_space WHERE json_extract(spec, '$.kind') = 'encoder'")
    assert len(spaces) == 1
    before = copy.catalog.one("SELECT count(*) AS n FROM shard")["n"]
    chosen(copy, "embed", encoder=str(encoder_dir), name="again", budget={"examples": 11})
    assert copy.catalog.one("SELECT count(*) AS n FROM shard WHERE kind = 'features'")["n"] <= before
    with pytest.raises(InputError, match="is not a folder with a model"):
        chosen(copy, "embed", encoder="/nowhere")


def test_a_refused_selection_names_the_method_and_leaves_no_run(copy):
    for row in runs.last_run(copy).result.rows:
        if row.role == "plain":
            with copy.catalog.write() as db:
                db.execute("DELETE FROM feature_row WHERE space_id=?", (row.space_id,))
    before = copy.catalog.one("SELECT count(*) AS n FROM run")["n"]
    with pytest.raises(InputError, match=r"method 'trak': this looks at rows of plain gradients, which 153 of 153"):
        chosen(copy, "trak")
    assert copy.catalog.one("SELECT count(*) AS n FROM run")["n"] == before
