"""A run computes what its methods need and nothing else; methods of other packages register in one way."""

import sys
from importlib.metadata import EntryPoint

import numpy as np
import pytest
from running import python

from gradsift.datastore import selections
from gradsift.datastore.errors import InputError
from gradsift.pipelines.methods import registry
from gradsift.pipelines.recipe import parse_recipe
from gradsift.pipelines.runs.curate import curate
from gradsift.pipelines.runs.dryrun import plan_run
from gradsift.pipelines.runs.reselect import reselect

WITHOUT_ROWS = ["ingest", "select", "export", "report"]


@pytest.fixture
def rowless(recipe_data):
    """The recipe without what asks for rows by itself."""
    asks = {name: value for name, value in recipe_data["features"].items() if name != "plain_rows"}
    return recipe_data | {"features": asks}


@pytest.fixture
def plain(rowless):
    """The recipe without a model and what is done with one."""
    return {name: rowless[name] for name in ("name", "pool", "targets", "decontaminate")}


def stages(result):
    return [stage.stage for stage in result.stages]


@pytest.mark.parametrize("method", ["random", "bm25", "dsir"])
def test_words_need_no_model(plain, store, method):
    result = curate(parse_recipe(plain | {"select": {"method": method, "examples": 9}}), store)
    assert stages(result) == WITHOUT_ROWS
    assert not result.rows
    assert [chosen.examples for chosen in result.selections] == [9]


def test_embed_needs_the_encoder_alone(plain, store, encoder_dir):
    select = {"method": "embed", "examples": 9, "encoder": str(encoder_dir)}
    recipe = plain | {"select": select}
    result = curate(parse_recipe(recipe), store)
    assert "warmup" not in stages(result)
    assert not result.rows
    assert [chosen.examples for chosen in result.selections] == [9]


def test_a_fusion_needs_what_its_members_need(plain, store, encoder_dir):
    """Of words and an encoder: no model, and no rows but the encoder's; so does another of a store without rows."""
    options = {"of": ["bm25", "dsir", "embed"], "weights": {"dsir": 0.5}}
    select = {"method": "fused", "examples": 9, "encoder": str(encoder_dir), "options": options}
    result = curate(parse_recipe(plain | {"select": select}), store)
    assert stages(result) == WITHOUT_ROWS
    assert [chosen.examples for chosen in result.selections] == [9]
    (again,) = reselect(store, {"method": "fused", "examples": 9, "options": {"of": ["bm25", "dsir"]}})
    assert again.examples == 9
    with pytest.raises(InputError, match="'fused' looks at gradients and the store's last run"):
        reselect(store, {"method": "fused", "examples": 9})


def test_without_rows_a_selection_is_what_it_is_with_them(plain, store, copy):
    """Of the words of the pool and the target, whatever else a run computed."""
    result = curate(parse_recipe(plain | {"select": {"method": "bm25", "examples": 12}}), store)
    (chosen,) = reselect(copy, {"method": "bm25", "examples": 12})
    assert result.selections[0].digest == chosen.digest
    assert chosen.version == f"{chosen.name}@1"


def test_validation_of_random_rows_has_a_model_and_no_warm_up(rowless, store):
    recipe = rowless | {
        "select": {"method": "random", "examples": 12},
        "validate": {"seeds": [0], "epochs": 1, "test_rows": 12, "arms": ["random"]},
    }
    result = curate(parse_recipe(recipe), store)
    assert stages(result) == ["model", "ingest", "select", "export", "validate", "report"]
    assert {arm.arm for arm in result.arms} == {"base", "selected", "random"}


def test_an_arm_that_reads_rows_has_them(rowless):
    recipe = rowless | {"select": {"method": "random", "examples": 12}}
    assert not parse_recipe(recipe | {"validate": {"seeds": [0], "arms": ["bm25"]}}).needs_rows
    assert parse_recipe(recipe | {"validate": {"seeds": [0], "arms": ["rds"]}}).needs_rows


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"select": {"method": "less", "examples": 9}}, "model"),
        ({"select": {"method": "random", "examples": 9}, "validate": {"seeds": [0]}}, "model"),
        ({"select": {"method": "random", "label_tokens": 900}}, "model"),
        ({"select": {"method": "embed", "examples": 9}}, "encoder"),
        ({"mix": {"examples": 9, "parts": [{"target": "sql", "share": 1.0, "select": {"method": "less"}}]}}, "model"),
    ],
)
def test_what_is_needed_and_lacking_is_said_before_any_work(plain, changes, said):
    with pytest.raises(InputError, match=said):
        parse_recipe(plain | changes)


@pytest.mark.parametrize("select", [{"method": "bm25"}, {"method": "fused", "options": {"of": ["bm25", "dsir"]}}])
def test_a_part_by_words_computes_no_rows(plain, store, select):
    mix = {
        "examples": 20,
        "parts": [{"target": "sql", "share": 0.5, "select": select}, {"name": "rest", "share": 0.5}],
    }
    result = curate(parse_recipe(plain | {"mix": mix}), store)
    assert stages(result) == ["ingest", "mix", "export", "report"]
    assert result.mixtures[0].rows == 20


def test_a_store_without_rows_says_what_a_method_lacks(plain, store):
    curate(parse_recipe(plain | {"select": {"method": "random", "examples": 9}}), store)
    (chosen,) = reselect(store, {"method": "bm25", "examples": 5})
    assert chosen.examples == 5
    with pytest.raises(InputError, match=r"'less' looks at gradients.*computed none.*add a `model`"):
        reselect(store, {"method": "less", "examples": 5})


def test_a_store_with_a_model_and_without_rows_says_so(rowless, store):
    curate(parse_recipe(rowless | {"select": {"method": "random", "examples": 9}, "validate": None}), store)
    with pytest.raises(InputError, match=r"'less' looks at gradients.*computed none.*recipe and use"):
        reselect(store, {"method": "less", "examples": 5})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("select", "change"),
    [
        ({"method": "random", "label_tokens": 120}, {"encoding": {"max_length": 24}}),
        ({"method": "loss_drop", "examples": 9}, {"encoding": {"max_length": 48}}),
        ({"method": "loss_drop", "examples": 9}, {"warmup": {"lr": 0.05, "batch_size": 2}}),
    ],
)
def test_without_rows_the_model_s_settings_decide_too(rowless, store, select, change):
    """Another length or another training under the same name is another selection, as it is under another name."""
    recipe = rowless | {"select": select, "validate": None}
    curate(parse_recipe(recipe), store)
    again = curate(parse_recipe(recipe | change), store).selections[0]
    anew = curate(parse_recipe(recipe | change | {"name": "other"}), store).selections[0]
    assert again.digest == anew.digest


def test_later_selections_take_what_the_run_could_use(rowless, store):
    """Examples without a label token are left out by both, and tokens are counted by both."""
    recipe = rowless | {"encoding": {"max_length": 24}, "validate": None}
    first = curate(parse_recipe(recipe | {"select": {"method": "random", "fraction": 1.0}}), store).selections[0]
    assert first.examples < 150
    (later,) = reselect(store, {"method": "random", "fraction": 1.0})
    assert later.digest == first.digest
    (budget,) = reselect(store, {"method": "bm25", "label_tokens": 90})
    assert 0 < budget.examples < first.examples


def test_a_dry_run_plans_no_rows(plain, tmp_path):
    plan = plan_run(parse_recipe(plain | {"select": {"method": "random", "examples": 9}}), tmp_path / "store")
    assert (set(plan.minutes), plan.checkpoints) == ({"start", "read and screen", "choose and export"}, 0)
    assert plan.pool_rows > 100
    assert not (tmp_path / "store").exists()


def test_a_dry_run_of_random_rows_plans_the_arms_alone(rowless, tmp_path):
    plan = plan_run(parse_recipe(rowless | {"select": {"method": "random", "examples": 9}}), tmp_path / "store")
    assert set(plan.minutes) == {"start", "read and screen", "choose and export", "validate"}
    assert plan.bytes_needed > 1000, "the text"


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("import no_such_module", "No module named 'no_such_module'"),
        ("method('random', 'mine')(lambda e: 0)", "'random' already, of gradsift"),
        ("method('mine', 'mine', needs=('texts'))(lambda e: 0)", r"needs=\('texts',\)"),
        ("method('mine', 'mine', needs=('text',))(lambda e: 0)", "did you mean `texts`"),
        ("method('mine', 'mine')(lambda e, *, weight=1.0: 0)", "`weight` must have an annotation and a default"),
        ("method('mine', 'mine')(lambda e, *, weight: 0)", "`weight` must have an annotation and a default"),
    ],
)
def test_a_package_whose_methods_cannot_be_had_is_named(monkeypatch, tmp_path, module, said):
    imports = "from gradsift.pipelines.methods.registry import method\n"
    (tmp_path / "their_methods.py").write_text(imports + module)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "their_methods", raising=False)
    points = [EntryPoint("theirs", "their_methods", registry.GROUP)]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    registry._load.cache_clear()
    try:
        with pytest.raises(InputError, match=f"their_methods.*{said}"):
            registry.methods()
    finally:
        monkeypatch.undo()
        registry._load()


@pytest.mark.parametrize(
    ("gives", "said"),
    [
        (lambda e: [1.0] * len(e.ids), None),
        (lambda e: np.ones(3), r"'mine' gave scores of shape \[3\] for \d+ examples"),
        (lambda e: 1.0, r"'mine' gave scores of shape \[\]"),
        (lambda e: np.full(len(e.ids), np.nan), "'mine'"),
    ],
)
def test_what_a_score_gives_is_checked(monkeypatch, plain, store, gives, said):
    registry.methods()
    monkeypatch.setitem(registry._SCORES, "mine", registry.Score("mine", gives, lambda _: frozenset()))
    monkeypatch.setitem(registry._METHODS, "mine", registry.Method("mine", "mine", "top_k", "N", ""))
    recipe = parse_recipe(plain | {"select": {"method": "mine", "examples": 5}})
    if said is None:
        assert curate(recipe, store).selections[0].examples == 5
    else:
        with pytest.raises(InputError, match=said):
            curate(recipe, store)


def test_true_is_no_number(plain):
    with pytest.raises(InputError, match="must not be true or false"):
        parse_recipe(plain | {"select": {"method": "dsir", "examples": 5, "options": {"temperature": True}}})


def test_another_version_of_a_package_is_another_selection(monkeypatch, plain, store):
    """What a method of another package chose is not taken for what its next version would."""
    recipe = parse_recipe(plain | {"select": {"method": "bm25", "examples": 9}})
    first = curate(recipe, store).selections[0]
    assert "packages" not in selections.spec_of(store, selections.get(store, first.name))
    for version in ("1.0", "2.0"):
        monkeypatch.setitem(registry._FOREIGN, ("score", recipe.select.parts()[0]), f"words {version}")
        curate(recipe, store)
        assert selections.spec_of(store, selections.get(store, first.name))["packages"] == [f"words {version}"]


@pytest.mark.parametrize(("variables", "value"), [({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active")])
def test_threads_of_openmp_sleep_unless_the_user_says_otherwise(monkeypatch, variables, value):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    said = "import os, gradsift.pipelines; print(os.environ['OMP_WAIT_POLICY'])"
    assert python("-c", said, **variables).stdout.strip() == value


def test_where_torch_is_loaded_already_nothing_is_changed(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    loaded = "import os, sys; sys.modules['torch'] = sys; import gradsift.pipelines"
    assert python("-c", f"{loaded}; print('OMP_WAIT_POLICY' in os.environ)").stdout.strip() == "False"
