"""Mixtures: budgets to the row, shares, what is refused, and that nothing but the recipe decides."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradsift.datastore import runs, selections
from gradsift.datastore.errors import InputError
from gradsift.datastore.store import Store
from gradsift.pipelines.methods.evidence import Evidence
from gradsift.pipelines.mix import mixture, order, part
from gradsift.pipelines.model import losses
from gradsift.pipelines.pool import ingest
from gradsift.pipelines.recipe import Part, parse_recipe
from gradsift.pipelines.runs import reselect
from gradsift.pipelines.runs.curate import curate
from gradsift.pipelines.training import loop

SIZES = {"alpha": 60, "beta": 30, "gamma": 10}


def rows(sizes=SIZES, licence=None):
    out = []
    for source, count in sizes.items():
        for k in range(count):
            turn = f"{source} {k} " + " ".join(f"{source}{k}w{j}" for j in range(3 + k % 7))
            row = {"messages": [{"role": "user", "content": turn}, {"role": "assistant", "content": turn[::-1]}]}
            out.append(row | {"source": source} | ({"licence": licence} if licence else {}))
    return out


@pytest.fixture
def mixed(tmp_path, write_jsonl):
    """(mix section, more) → what came out of a store with the three sources."""
    path = write_jsonl(*rows(), name="pool.jsonl")

    def run(mix, *, store=None, files=None, **more):
        data = {"name": "mixed", "pool": [{"path": str(f)} for f in (files or [path])], "mix": mix, **more}
        opened = store or Store(tmp_path / "store")
        made = curate(parse_recipe(data), opened, export_root=tmp_path / "out").mixtures[0]
        return SimpleNamespace(**vars(made), selection=selections.get(opened, "mixed"))

    return run


def by_source(made):
    return {row.source: row.rows for row in made.table}


def test_shares_are_those_of_the_weights(mixed):
    assert by_source(mixed({"examples": 50})) == {"alpha": 30, "beta": 15, "gamma": 5}
    assert by_source(mixed({"examples": 30, "weights": "uniform"})) == {"alpha": 10, "beta": 10, "gamma": 10}
    assert by_source(mixed({"examples": 20, "weights": {"alpha": 1, "gamma": 1}})) == {"alpha": 10, "gamma": 10}
    warm = by_source(mixed({"examples": 40, "weights": "temperature", "temperature": 2}))
    assert warm == {"alpha": 19, "beta": 13, "gamma": 8}
    assert by_source(mixed({"fraction": 0.5})) == {"alpha": 30, "beta": 15, "gamma": 5}


def test_a_mixture_of_older_methods_is_not_taken_for_todays(mixed, monkeypatch):
    now = mixed({"examples": 50}).selection
    assert mixed({"examples": 50}).selection.selection_id == now.selection_id
    monkeypatch.setattr(mixture, "METHODS_VERSION", -1)
    assert mixed({"examples": 50}).selection.selection_id != now.selection_id


def test_caps_floors_and_what_there_is(mixed):
    made = mixed({"examples": 50, "caps": {"alpha": 0.4}, "floors": {"gamma": 0.16}})
    assert by_source(made) == {"alpha": 20, "beta": 22, "gamma": 8}
    notes = {row.source: row.note for row in made.table}
    assert notes["alpha"] == "cap"
    assert notes["gamma"] == "floor"
    short = mixed({"examples": 60, "weights": "uniform"})
    assert by_source(short) == {"alpha": 25, "beta": 25, "gamma": 10}
    line = next(row for row in short.table if row.source == "gamma")
    assert (line.requested, line.budget, line.note) == (20, 10, "all there is")


def test_repetition_is_whole_copies_and_then_the_best_once_more(mixed):
    made = mixed({"examples": 125, "weights": {"gamma": 1, "alpha": 4}, "repeat": 3})
    assert by_source(made) == {"gamma": 25, "alpha": 100}
    chosen = made.selection
    assert Counter(chosen.copies) == Counter({2: 40, 1: 20}) + Counter({3: 5, 2: 5})
    assert chosen.rows == 125
    assert made.examples == 70


def test_parts_take_in_their_order_and_nothing_twice(mixed):
    made = mixed({"examples": 40, "parts": [
        {"name": "small", "sources": ["gamma", "beta"], "share": 0.25, "weights": "uniform"},
        {"name": "rest"},
    ]})  # fmt: skip
    table = Counter()
    for row in made.table:
        table[row.part] += row.rows
    assert table == {"small": 10, "rest": 30}
    assert len(set(made.selection.example_ids)) == 40


def test_a_budget_in_tokens_is_met_to_the_token(mixed, model_dir):
    for unit in ("label_tokens", "tokens"):
        made = mixed({unit: 1300, "weights": "uniform"}, model={"path": str(model_dir)})
        assert made.requested == made.realised == 1300
        assert all(abs(row.tokens - row.budget) < 10 for row in made.table)
        assert [row.budget for row in made.table] == [434, 433, 433]


def test_a_part_has_so_many_rows_even_where_its_share_of_tokens_holds_fewer(mixed, model_dir):
    """It gets the tokens that they take, the other part what it was to get: the whole has more than was asked for."""
    lm = {"path": str(model_dir)}
    parts = [{"name": "few", "share": 0.1, "sources": ["beta"]}, {"name": "rest"}]
    bare = mixed({"label_tokens": 400, "parts": parts}, model=lm)
    rows = {made.part: made.rows for made in bare.table}
    wanted = rows["few"] + 5
    parts[0]["at_least"] = wanted
    more = mixed({"label_tokens": 400, "parts": parts}, model=lm)
    assert wanted <= sum(made.rows for made in more.table if made.part == "few") <= wanted + 2
    spent = {name: sum(m.tokens for m in made.table if m.part == "rest") for name, made in (("a", bare), ("b", more))}
    assert spent["a"] == spent["b"] == 360
    assert more.requested == 400 < more.realised
    parts[0]["at_least"] = rows["few"]
    assert mixed({"label_tokens": 400, "parts": parts}, model=lm).table == bare.table
    parts[0]["at_least"] = 9999
    with pytest.raises(InputError, match="part 'few': at least 9,999 rows are asked for and there are"):
        mixed({"label_tokens": 400, "parts": parts}, model=lm)


def test_a_part_grows_in_a_few_steps_though_its_last_rows_are_long(monkeypatch):
    """999 rows for a budget of 1,000, and the thousandth at 2,000: by the share that is missing it would take 700."""
    asked = []

    def filled(_mixer, _part, budget, *_):
        asked.append(budget)
        return SimpleNamespace(rows=999 if budget < 2_000 else 1_000, sources=[], picked=None)

    monkeypatch.setattr(part, "PartRanking", lambda *_: None)
    monkeypatch.setattr(part, "groups_of", lambda *_: SimpleNamespace(room=[9_000]))
    monkeypatch.setattr(part, "allowed", lambda *_: True)
    monkeypatch.setattr(part, "_filled_part", filled)
    monkeypatch.setattr(part, "_note_taken", lambda *_: None)
    part.fill_part(SimpleNamespace(pool=None), Part(name="p", at_least=1_000), 1_000, part.Taken(True))
    assert asked[:2] == [1_000, 1_002]
    assert 2_000 <= asked[-1] < 3_000
    assert len(asked) < 13


def test_the_seed_decides_and_ranks_are_nested(mixed):
    first = mixed({"examples": 20}).selection
    again = mixed({"examples": 20}).selection
    other = mixed({"examples": 20}, seed=1).selection
    more = mixed({"examples": 40}).selection
    assert first.digest == again.digest != other.digest
    assert set(first.example_ids) <= set(more.example_ids)


def test_promise_5_neither_batch_nor_order_of_files_decides(tmp_path, write_jsonl, monkeypatch, tally):
    """Two machines: other folders, other file order, other batches; and a chat that two sources have."""
    shared = [row | {"source": s} for s in ("alpha", "gamma") for row in rows({"shared": 5})]
    one, two = [*rows(), *shared], [*shared[::-1], *rows()[::-1]]
    digests, tables = [], []
    for number, (content, batch) in enumerate(((one, 5_000), (two, 7))):
        monkeypatch.setattr(ingest, "BATCH_ROWS", batch)
        middle = len(content) // 2 + number
        files = [
            write_jsonl(*part, name=f"{number}{k}.jsonl") for k, part in enumerate((content[:middle], content[middle:]))
        ]
        data = {"name": "mixed", "pool": [{"path": str(f)} for f in files], "dedup": {},
                "mix": {"examples": 70, "weights": "temperature", "repeat": 2}}  # fmt: skip
        with Store(tmp_path / f"machine{number}") as store:
            made = curate(parse_recipe(data), store).mixtures[0]
        digests.append(made.digest)
        tables.append(made.table)
    assert digests[0] == digests[1]
    assert tables[0] == tables[1]
    tally("other batches and another order of files, for a mixture", promise=5).harmless()


@pytest.mark.slow
def test_promise_5_gradient_batches_do_not_decide_a_mixture(recipe_data, tmp_path, tally):
    """Parts by gradients, computed in other batches, units and workers: the same mixture and the same data file."""
    mix = {"examples": 30, "parts": [{"target": "sql", "share": 0.6, "weights": "temperature"}, {"name": "rest"}]}
    digests = []
    for number, features in enumerate(({}, {"batch_tokens": 300, "unit_rows": 17})):
        data = recipe_data | {"name": "mixed", "validate": None, "select": None, "mix": mix, "workers": 1 + number}
        data["features"] = recipe_data["features"] | features
        with Store(tmp_path / str(number)) as store:
            made = curate(parse_recipe(data), store).mixtures[0]
        manifest = json.loads((Path(made.export) / "manifest.json").read_text("utf-8"))
        digests.append((made.digest, manifest["digest"]))
    assert digests[0] == digests[1]
    tally("other batches, units and workers, for a mixture by gradients and its export", promise=5).harmless()


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ({"examples": 101}, "101 rows are asked for and there are 100. Lower the budget"),
        ({"examples": 301, "repeat": 3}, "there are 300 in 3 copies"),
        ({"examples": 20, "weights": {"delta": 1}}, "the pool has no source 'delta'.*there are: alpha, beta, gamma"),
        ({"examples": 20, "caps": {"delta": 0.5}}, "the pool has no source 'delta'"),
        ({"examples": 20, "parts": [{"sources": ["delta"]}]}, "the pool has no source 'delta'"),
        ({"examples": 50, "floors": {"gamma": 0.5}}, "source 'gamma' has a floor of 25 and it has 10"),
        ({"examples": 50, "floors": {"gamma": 0.1}, "caps": {"gamma": 0.05}}, "a floor of 5 and its cap allows 2"),
        ({"examples": 10, "floors": {"alpha": 0.7, "beta": 0.7}}, "the floors sum to 14, the budget is 10"),
        ({"examples": 90, "caps": {"alpha": 0.1}}, "caps and sizes leave 49 of the 90"),
        ({"examples": 20, "weights": {"alpha": 0}}, "sum to 0"),
        ({"examples": 40, "parts": [{"name": "all-gamma", "sources": ["gamma"], "share": 0.25},
                                    {"weights": {"gamma": 1, "alpha": 1}}]}, "'gamma' has no row left for it"),
    ],
)  # fmt: skip
def test_what_cannot_be_met_is_refused_with_the_way_out(mixed, mix, message):
    with pytest.raises(InputError, match=message):
        mixed(mix)


@pytest.mark.parametrize(
    ("content", "why"),
    [("", "no rows at all"), ('{"prompt": "x", "completion": " "}\nnonsense\n', "1 empty_assistant")],
)
def test_a_source_without_a_usable_row_is_refused_and_its_rows_are_in_quarantine(mixed, tmp_path, content, why):
    (tmp_path / "empty.jsonl").write_text(content)
    with Store(tmp_path / "own") as store:
        with pytest.raises(InputError, match=rf"empty\.jsonl gives no usable example to pool 'mixed' \(.*{why}"):
            mixed({"examples": 5}, store=store, files=[tmp_path / "pool.jsonl", tmp_path / "empty.jsonl"])
        assert len(store.catalog.rows("SELECT * FROM quarantine")) == content.count("\n")


def test_a_source_that_screening_emptied_is_named(mixed, tmp_path, write_jsonl):
    leaked = rows({"delta": 3})
    test = write_jsonl(*leaked, name="test.jsonl")
    files = [tmp_path / "pool.jsonl", write_jsonl(*leaked, name="delta.jsonl")]
    with pytest.raises(InputError, match=r"no source 'delta' \(after screening; `gradsift marks` shows"):
        mixed(
            {"examples": 20, "weights": {"delta": 1}}, files=files, decontaminate={"sets": {"t": {"path": str(test)}}}
        )


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ({}, "exactly one of `examples`, `fraction`, `label_tokens` and `tokens`"),
        ({"examples": 9, "at_least": 3}, "`at_least` is the least number of rows of a budget in `label_tokens`"),
        ({"examples": 5, "fraction": 0.1}, "exactly one of"),
        ({"examples": 5, "weights": "uniform", "parts": [{}]}, "`weights` belongs in the parts"),
        ({"examples": 5, "parts": [{"name": "a", "share": 0.7}, {"name": "b", "share": 0.7}]}, "sum to 1.4, not to 1"),
        ({"examples": 5, "parts": [{"name": "a", "share": 0.7}]}, "sum to 0.7, not to 1"),
        ({"examples": 5, "parts": [{"name": "a", "share": 1}, {"name": "b"}]}, "leave nothing for the one without"),
        ({"examples": 5, "parts": [{}, {}]}, "two parts are named 'pool'"),
        ({"examples": 5, "parts": [{"target": "maths"}]}, "no target 'maths'; there are: none"),
        ({"tokens": 5}, "a budget in tokens needs `model`"),
        ({"examples": 5, "weights": "scaling_law"}, "`weights: scaling_law` needs `model`"),
        ({"examples": 5, "weights": "tive"}, "a mixture with gradients needs `model`"),
        ({"examples": 5, "weight": "tive"}, "did you mean `weights`"),
        ({"examples": 5, "prospect": {"spectrum": "extremile"}}, "at least 1 for `extremile`"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(mixed, mix, message):
    with pytest.raises(InputError, match=message):
        mixed(mix)


def test_a_recipe_must_ask_for_something(recipe_data):
    plain = {"name": "x", "pool": recipe_data["pool"]}
    with pytest.raises(InputError, match=r"give `select`.*`mix`.*or both"):
        parse_recipe(plain)
    with pytest.raises(InputError, match="`select` needs `targets`"):
        parse_recipe(plain | {"select": {"examples": 3}, "model": recipe_data["model"]})
    with pytest.raises(InputError, match="`select` by `less` needs `model`"):
        parse_recipe(plain | {"select": {"examples": 3}, "targets": recipe_data["targets"]})


def table_of(made):
    out = {}
    for row in made.table:
        out.setdefault(row.part, {})[row.source] = row.rows
    return out


def test_parts_of_targets_choose_by_their_methods(copy):
    """Half LESS, a third TAGCOS of what is left, the rest at random: no example twice, every share to the row."""
    made = reselect.remix(copy, {"examples": 30, "parts": [
        {"target": "sql", "share": 0.5},
        {"target": "sql", "name": "spread", "share": 0.3, "select": {"method": "tagcos", "options": {"clusters": 4}}},
        {"name": "human"},
    ]})  # fmt: skip
    assert {part: sum(found.values()) for part, found in table_of(made).items()} == {"sql": 15, "spread": 9, "human": 6}
    chosen = selections.get(copy, made.name)
    assert len(set(chosen.example_ids)) == 30
    alone = reselect.reselect(copy, {"method": "less", "examples": 15}, name="alone")
    assert set(chosen.example_ids[:15]) == set(selections.get(copy, alone[0].name).example_ids)


def test_parts_take_the_memory_in_turn(copy, monkeypatch):
    """Each choice may take all of `memory`: the one before, of another part or source, has given its rows back."""
    made, held = [], []
    init, choose = Evidence.__init__, order.choose

    def noted(self, *args, **more):
        init(self, *args, **more)
        made.append(self)

    def looked(e, select):
        held.append([key for one in made if one is not e for key in one._kept if key[0] in ("rows", "laid")])
        return choose(e, select)

    monkeypatch.setattr(Evidence, "__init__", noted)
    monkeypatch.setattr(order, "choose", looked)
    reselect.remix(copy, {"examples": 24, "parts": [
        {"target": "sql", "name": "one", "share": 0.5, "select": {"method": "k_center"}},
        {"target": "sql", "name": "two", "select": {"method": "tagcos", "options": {"clusters": 3}}},
    ]})  # fmt: skip
    assert held == [[], []]
    assert len(made) >= 2


@pytest.mark.parametrize("method", ["less", "tagcos", "facility_location"])
def test_a_part_without_shares_is_the_methods_own_choice(copy, method):
    """Not one made source by source; in the method's own order."""
    options = {"tagcos": {"clusters": 3}}.get(method, {})
    choose = {"method": method, "options": options}
    made = reselect.remix(copy, {"examples": 14, "parts": [{"target": "sql", "select": choose}]}, name="part")
    reselect.reselect(copy, choose | {"examples": 14}, name="whole")
    assert selections.get(copy, made.name).example_ids == selections.get(copy, "whole-sql").example_ids


@pytest.mark.parametrize("method", ["less", "tagcos", "gio", "qtuning"])
def test_any_method_can_be_held_to_shares(copy, method):
    options = {"tagcos": {"clusters": 3}, "gio": {"quantise": 10}}.get(method, {})
    made = reselect.remix(copy, {"examples": 20, "parts": [
        {"target": "sql", "select": {"method": method, "options": options}, "weights": "uniform"},
    ]})  # fmt: skip
    counts = table_of(made)["sql"]
    assert sum(counts.values()) == 20
    assert max(counts.values()) - min(counts.values()) <= 1 or any(row.note for row in made.table)


def test_a_ranking_keeps_its_order_within_caps(copy):
    free = table_of(reselect.remix(copy, {"examples": 20, "parts": [{"target": "sql"}]}, name="free"))["sql"]
    top = max(free, key=free.get)
    capped = reselect.remix(copy, {"examples": 20, "parts": [{"target": "sql", "caps": {top: 0.3}}]}, name="capped")
    assert table_of(capped)["sql"][top] == 6
    assert sum(table_of(capped)["sql"].values()) == 20


@pytest.mark.parametrize("weights", ["tive", "prospect"])
def test_weights_from_the_pass(copy, weights):
    made = reselect.remix(copy, {"examples": 25, "weights": weights}, name=weights)
    asked = {row.source: row.weight for row in made.table}
    assert sum(asked.values()) == pytest.approx(1)
    assert sum(row.rows for row in made.table) == 25


def test_masks_of_a_part_stay_with_their_examples(copy):
    made = reselect.remix(copy, {"examples": 80, "parts": [
        {"target": "sql", "select": {"method": "qtuning"}, "share": 0.5}, {"name": "rest"}]})  # fmt: skip
    chosen = selections.get(copy, made.name)
    masks = selections.masks(copy, chosen)
    assert masks
    assert set(masks) <= set(chosen.example_ids[:40])


def test_the_fitted_law_mixes_and_is_not_fitted_twice(copy, monkeypatch):
    """The real thing, small: nine runs of a tiny model; a second call trains nothing."""
    trained, real = [], loop.train
    monkeypatch.setattr(loop, "train", lambda *a, **k: trained.append(1) or real(*a, **k))
    counts = runs.last_run(copy).result.ingest.pool.used_by_source
    names = list(counts)[:2]
    law = {"weights": "scaling_law", "sources": names,
           "scaling_law": {"rows_each": 3, "held_out": 3, "epochs": 1, "batch_size": 4, "lr": 1e-3}}  # fmt: skip
    made = reselect.remix(copy, {"examples": 10, "parts": [law]}, name="law")
    assert len(trained) == 9
    assert set(table_of(made)["pool"]) <= set(names)
    assert sum(table_of(made)["pool"].values()) == 10
    reselect.remix(copy, {"examples": 11, "parts": [law]}, name="law-again")
    assert len(trained) == 9
    for settings_, message in (
        ({"rows_each": 333, "held_out": 1}, "the law's runs need 999 usable rows of source"),
        ({"held_out": 999}, "rows, of which 999 would be held out"),
    ):
        with pytest.raises(InputError, match=message):
            reselect.remix(copy, {"examples": 10, "parts": [law | {"scaling_law": settings_}]}, name="much")


def test_a_law_whose_runs_diverge_names_the_part(copy, monkeypatch):
    monkeypatch.setattr(losses, "token_mean", lambda *_: 0.0)
    names = list(runs.last_run(copy).result.ingest.pool.used_by_source)[:2]
    settings_ = {"rows_each": 3, "held_out": 3, "epochs": 1, "batch_size": 4}
    part = {"name": "fitted", "weights": "scaling_law", "sources": names, "scaling_law": settings_}
    with pytest.raises(InputError, match="part 'fitted': losses must be finite and positive"):
        reselect.remix(copy, {"examples": 10, "parts": [part]}, name="law")


def test_remix_needs_rows_that_were_computed(tmp_path, write_jsonl, recipe_data):
    path = write_jsonl(*rows(), name="pool.jsonl")
    data = {"name": "plain", "pool": [{"path": str(path)}], "mix": {"examples": 5}}
    with Store(tmp_path / "store") as store:
        curate(parse_recipe(data), store)
        assert reselect.remix(store, {"examples": 7}).rows == 7
        with pytest.raises(InputError, match="no target 'sql'"):
            reselect.remix(store, {"examples": 7, "parts": [{"target": "sql"}]})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
@given(
    total=st.integers(1, 200),
    weights=st.fixed_dictionaries({name: st.floats(0.1, 5) for name in SIZES}),
    repeat=st.integers(1, 3),
    cap=st.floats(0.3, 1.0),
)
def test_every_mixture_meets_its_budget_or_says_why_not(mixed, tmp_path_factory, total, weights, repeat, cap):
    with Store(tmp_path_factory.mktemp("any") / "store") as store:
        try:
            made = mixed({"examples": total, "weights": weights, "repeat": repeat, "caps": {"alpha": cap}}, store=store)
        except InputError as error:
            room = min(60 * repeat, int(cap * total + 1e-9)) + 40 * repeat
            assert room < total, error
        else:
            assert sum(row.rows for row in made.table) == total == made.selection.rows
            assert max(made.selection.copies) <= repeat
