"""Spaces of stored rows: what they take from the store, what they compute, and what they say where there is nothing."""

import json
import shutil

import numpy as np
import pytest

from gradsift.datastore import examples, features, runs
from gradsift.datastore.errors import FeatureSpaceMismatch, InputError
from gradsift.datastore.store import Store
from gradsift.pipelines.query.models import keep_models, model_for
from gradsift.pipelines.query.opening import open_space
from gradsift.pipelines.recipe import parse_recipe
from gradsift.pipelines.runs.curate import curate


@pytest.fixture
def copied(searched, tmp_path):
    shutil.copytree(searched, tmp_path / "copy")
    with Store(tmp_path / "copy") as store:
        yield store


@pytest.fixture(scope="module")
def bare(recipe_data, tmp_path_factory):
    """A store of runs that kept no embeddings and have no encoder: with gradients, and, the newest, without."""
    (source,) = recipe_data["pool"]
    few = {"pool": [source | {"rows": 24}], "validate": None, "warmup": None, "select": {"examples": 5}}
    features_ = recipe_data["features"] | {"plain_rows": False, "transform": "sgd", "signals": {"embedding": False}}
    root = tmp_path_factory.mktemp("bare")
    with Store(root / "gradients") as store:
        curate(parse_recipe(recipe_data | few | {"features": features_}), store)
    with Store(root / "words") as store:
        words = {"features": features_, "select": {"method": "bm25", "examples": 5}}
        curate(parse_recipe(recipe_data | few | words), store)
    return root


def pool_of(store):
    return examples.get_dataset(store, runs.last_run(store).result.ingest.pool.used_dataset_id).example_ids


@pytest.mark.parametrize("name", ["gradients", "embedding", "encoder", "bm25"])
def test_rows_of_stored_examples_take_no_model(searched, name):
    """Those of a target, too; its words count for the length of a question, though the pool may lack some."""
    with Store(searched) as store:
        space = open_space(store, name, by_model=False)
        (target,) = runs.last_run(store).result.ingest.targets.values()
        ids = [*pool_of(store)[:3], *examples.find_dataset(store, "target", "sql", target.digest).example_ids[:2]]
        assert space.known([*ids, "nobody"]) == ids
        rows = space.of_ids(ids)
        lengths = np.linalg.norm(rows, axis=1)
        assert lengths[:3] == pytest.approx(np.ones(3), abs=2e-3)
        assert lengths[3:] == pytest.approx(np.ones(2), abs=0.2 if name == "bm25" else 2e-3)
        again = space.unit(3 * rows)
        assert np.linalg.norm(again, axis=1) == pytest.approx(np.ones(5), abs=1e-6)
        for odd, words in ((0 * rows, "all zeros"), (np.nan * rows, "not finite")):
            with pytest.raises(InputError, match=words):
                space.unit(odd)
        with pytest.raises(InputError, match=r"nobody.*(no model|not in the store)"):
            space.of_ids(["nobody"])


@pytest.mark.parametrize("name", ["embedding", "encoder"])
def test_a_chat_has_the_row_that_it_would_be_stored_with(searched, name):
    with Store(searched) as store:
        space = open_space(store, name)
        ids = pool_of(store)[:7]
        chats = examples.get_messages(store, ids)
        computed = space.of_chats([chats[i] for i in ids])
        assert (computed * space.of_ids(ids)).sum(axis=1) == pytest.approx(np.ones(7), abs=2e-3)
        question = [turn for turn in chats[ids[0]] if turn["role"] == "user"]
        alone = space.of_chats([question])
        assert np.linalg.norm(alone) == pytest.approx(1, abs=2e-3)
        assert (alone @ computed[0]).item() < 0.9999


def test_an_embedding_is_of_the_checkpoint_that_is_asked_for(searched):
    with Store(searched) as store:
        ordinals = [row.checkpoint for row in runs.last_run(store).result.pool_rows]
        rows = [open_space(store, "embedding", at).of_ids(pool_of(store)[:1]) for at in ordinals]
        assert open_space(store, "embedding").checkpoint == ordinals[-1]
        assert not np.array_equal(*rows)
        for at, words in ((77, "there is no checkpoint 77"), ("all", "at one checkpoint")):
            with pytest.raises(InputError, match=words):
                open_space(store, "embedding", at)


@pytest.mark.parametrize(
    ("of", "name", "words"),
    [
        ("gradients", "embedding", r"kept no embeddings; set `features\.signals\.embedding: true`"),
        (
            "gradients",
            "encoder",
            r"no rows of a sentence encoder; a recipe computes them for `select\.encoder: FOLDER`",
        ),
        ("words", "embedding", "computed no gradients"),
        ("words", "gradients", "computed no gradients"),
        ("words", "sounds", "there is no space 'sounds'; there are: gradients, embedding, encoder, bm25"),
    ],
)
def test_a_space_that_a_run_does_not_have_is_told_with_what_makes_it(bare, of, name, words):
    with Store(bare / of) as store, pytest.raises(InputError, match=words):
        open_space(store, name)


def test_words_are_searched_in_a_run_without_a_model(bare):
    with Store(bare / "words") as store:
        space = open_space(store, "bm25")
        ids = pool_of(store)
        assert [n.example_id for n in space.near(space.of_ids(ids[:1]), 1).near[0]] == ids[:1]


def test_promise_4_another_encoder_than_that_of_the_rows_is_refused(copied, encoder_dir, tmp_path):
    shutil.copytree(encoder_dir, tmp_path / "other")
    tokenizer = tmp_path / "other" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text("utf-8") + "\n", "utf-8")
    recipe = dict(runs.last_run(copied).recipes.resolved)
    recipe["select"] = {**recipe["select"], "encoder": str(tmp_path / "other")}
    with copied.catalog.write() as db:
        db.execute("UPDATE run SET recipe=?", (json.dumps(recipe),))
    space = open_space(copied, "encoder")
    assert space.of_ids(pool_of(copied)[:1]).any()
    with pytest.raises(FeatureSpaceMismatch, match="is not the one that made this store's rows"):
        space.of_chats([[{"role": "user", "content": "hello"}]])
    shutil.rmtree(tmp_path / "other")
    with pytest.raises(InputError, match="is not a folder with a model"):
        space.of_chats([[{"role": "user", "content": "hello"}]])


def test_of_two_encoders_the_recipes_is_searched(copied, encoder_dir, tmp_path):
    """Rows of an older run's encoder are still there."""
    shutil.copytree(encoder_dir, tmp_path / "other")
    tokenizer = tmp_path / "other" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text("utf-8") + "\n", "utf-8")
    (first,) = features.spaces_of(copied, "encoder")
    data = runs.last_run(copied).recipes.resolved
    curate(parse_recipe(data | {"select": {"examples": 12, "encoder": str(tmp_path / "other")}}), copied)
    _, second = features.spaces_of(copied, "encoder")
    assert open_space(copied, "encoder").space == second
    curate(parse_recipe(data), copied)
    assert open_space(copied, "encoder").space == first


def test_rows_that_left_the_pool_are_answers_where_everything_is(copied):
    ids = pool_of(copied)
    space = open_space(copied, "embedding")
    near = space.near(space.of_ids(ids[:1]), 2).near[0][1].example_id
    with copied.catalog.write() as db:
        db.execute("DELETE FROM membership WHERE example_id=?", (near,))
    for everything in (False, True):
        space = open_space(copied, "embedding", everything=everything)
        found = [n.example_id for n in space.near(space.of_ids(ids[:1]), 1000).near[0]]
        assert (near in found) == everything
        assert len(found) == len(ids) - (not everything)


def test_a_model_is_kept_where_that_is_wanted(store):
    made = []

    def take(key):
        with model_for(store, key, lambda: made.append(key) or key) as model:
            assert model == key

    take("a"), take("a")
    assert made == ["a", "a"]
    keep_models(store)
    for key in "bbabbb":
        take(key)
    assert made == ["a", "a", "b", "a", "b"]
