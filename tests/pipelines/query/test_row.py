"""What a store knows of one example: its chat and places, its signals, its tokens, its twins."""

import math
import shutil
from concurrent.futures import ThreadPoolExecutor

import hostile
import numpy as np
import pytest

from gradsift.datastore import choices, examples, features, runs, selections
from gradsift.datastore.errors import CorruptionError, InputError
from gradsift.datastore.example_signals import signals_of
from gradsift.datastore.store import Store
from gradsift.pipelines.query import tokens as tokens_module
from gradsift.pipelines.query.row import row
from gradsift.pipelines.query.tokens import NO_ROW, NO_ROWS, NOT_KEPT, texts, tokens_of
from gradsift.pipelines.query.twins import difference, twins


@pytest.fixture
def store(browsed):
    with Store(browsed, create=False) as opened:
        yield opened


@pytest.fixture
def pruned(store):
    """The selection that prunes tokens, and an example of it that has some pruned."""
    chosen = selections.get(store, "small-qtuning-sql")
    name = next(i for i, mask in selections.masks(store, chosen).items() if not all(mask))
    return chosen, name


def test_signals_of_one_example_are_those_of_the_block(store):
    space = runs.last_run(store, computed=True).result.pool_rows[-1].space_id
    block = features.read_all(store, space, features.ids_with_rows(store, space)[:40])
    for k in (0, 7, 39):
        found = signals_of(store, space, block.example_ids[k])
        assert found.status == "ok"
        for name in ("loss", "entropy", "grad_norm"):
            assert found.values[name] == float(block.signal(name)[k])
        assert found.values["projected_norm"] == float(block.norm[k])
        assert np.array_equal(np.array(found.nll, np.float32), block.token_signal("token_nll")[k])
        assert len(found.entropy) == found.values["label_tokens"] == block.signal("n_label_tokens")[k]
        assert "vector" not in found.values
        assert "embedding" not in found.values
    assert signals_of(store, space, "f" * 32) is None


def test_a_row_that_is_another_examples_is_no_row_of_this_one(copy):
    space = runs.last_run(copy).result.pool_rows[-1].space_id
    one = features.ids_with_rows(copy, space)[0]
    with copy.catalog.write() as db:
        db.execute("UPDATE feature_row SET row = (row = 0) WHERE space_id=? AND example_id=?", (space, one))
    with pytest.raises(CorruptionError, match="does not hold the examples"):
        signals_of(copy, space, one)


def test_a_row_shows_its_chat_its_places_and_where_it_was_chosen(store):
    chosen = selections.get(store, "small-sql")
    name = chosen.example_ids[3]
    view = row(store, name[:12])
    assert view.example_id == name
    assert view.messages == examples.get_messages(store, [name])[name]
    assert [(one.dataset, one.checkpoint, one.role) for one in view.passes] == [
        ("small", 0, "pool"),
        ("small", 1, "pool"),
    ]
    assert all(math.isfinite(one.signals.values["loss"]) for one in view.passes)
    assert [(one.name, one.rank, one.score) for one in view.chosen if one.name == "small-sql"] == [
        ("small-sql", 3, chosen.scores[3])
    ]
    assert view.origins[0].file.endswith("small.jsonl")
    assert view.origins[0].line > 0
    with pytest.raises(InputError, match="no example has an id"):
        row(store, "not an id")


def test_a_row_without_a_run_has_no_signals_and_says_which_option_brings_them(tmp_path):
    with Store(tmp_path / "new") as empty:
        examples.add(empty, hostile.rows())
        view = row(empty, hostile.IDS["script"])
        assert view.messages[0]["content"] == hostile.SCRIPT
        assert view.tools[0]["type"] == "function"
        assert (view.passes, view.chosen, view.twins) == ([], [], [])
        assert view.origins[0].extra == {hostile.SCRIPT[:200]: hostile.SCRIPT[:200]}
        assert tokens_of(empty, hostile.IDS["script"]).notes == [NO_ROWS]
        assert twins(empty).pairs == []


def test_tokens_add_up_to_the_rendered_chat_and_have_the_figures_of_the_pass(store, pruned):
    chosen, name = pruned
    view = tokens_of(store, name)
    assert view.notes == []
    assert (view.checkpoint, list(view.checkpoints)) == (1, [0, 1])
    text = "".join(token.text for token in view.tokens)
    for turn in examples.get_messages(store, [name])[name]:
        assert turn["content"].strip() in text
    space = runs.last_run(store, computed=True).result.pool_rows[-1].space_id
    found = signals_of(store, space, name)
    labels = [token for token in view.tokens if token.label]
    assert [token.nll for token in labels] == found.nll
    assert [token.entropy for token in labels] == found.entropy
    assert all(token.nll is None for token in view.tokens if not token.label)
    mask = selections.masks(store, chosen)[name]
    assert view.mask in view.masks
    assert view.mask.startswith("small-qtuning-sql")
    assert [token.kept for token in labels] == mask
    assert not all(mask)
    assert choices.mask_of(store, chosen.selection_id, name) == mask
    whole = tokens_of(store, name, checkpoint=0, mask="")
    assert whole.checkpoint == 0
    assert all(token.kept for token in whole.tokens)
    with pytest.raises(InputError, match="prunes no token"):
        tokens_of(store, name, mask="small-sql")
    with pytest.raises(InputError, match="at checkpoint 9"):
        tokens_of(store, name, checkpoint=9)


def test_threads_share_the_tokenizer(store, pruned):
    tokens_module._opened.cache_clear()
    names = selections.get(store, "small-qtuning-sql").example_ids
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda name: tokens_of(store, name), names))
    assert together == [tokens_of(store, name) for name in names]
    assert all(view.notes == [] for view in together)


def test_without_the_tokenizer_there_are_figures_and_no_text(browsed, tmp_path, model_dir, pruned, monkeypatch):
    """Where it is gone, and where it is another one by now."""
    shutil.copytree(browsed, tmp_path / "store")
    tokens_module._opened.cache_clear()
    other = tmp_path / "model"
    shutil.copytree(model_dir, other)
    with Store(tmp_path / "store") as store:
        with store.catalog.write() as db:
            db.execute("UPDATE run SET recipe = replace(recipe, ?, ?)", (str(model_dir), str(other)))
        assert tokens_of(store, pruned[1]).notes == []
        shutil.rmtree(other)
        tokens_module._opened.cache_clear()
        (note,) = tokens_of(store, pruned[1]).notes
        assert "there is no model folder" in note
        shutil.copytree(model_dir, other)
        settings = other / "chat_template.jinja"
        settings.write_text(settings.read_text() + " " if settings.exists() else "{{ messages }}")
        view = tokens_of(store, pruned[1])
        assert "is not the one that made the rows" in view.notes[0]
        assert {token.text for token in view.tokens} == {None}
        assert all(token.nll is not None for token in view.tokens)
        assert not all(token.kept for token in view.tokens), "what is pruned is known without text"
    tokens_module._opened.cache_clear()


def test_an_example_without_figures_says_what_is_missing(store, monkeypatch):
    name = hostile.IDS["script"]
    assert tokens_of(store, name).notes == [NO_ROW]
    space = runs.last_run(store, computed=True).result.pool_rows[-1].space_id
    known = features.ids_with_rows(store, space)[0]
    found = signals_of(store, space, known)
    monkeypatch.setattr(
        "gradsift.pipelines.query.passes.signals_of",
        lambda *_: type(found)(found.status, found.values, None, None, {}),
    )
    view = tokens_of(store, known)
    assert view.notes == [NOT_KEPT]
    assert view.tokens
    assert all(token.nll is None for token in view.tokens)


def test_characters_of_several_tokens_stand_at_the_first(model_dir):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    text = "naïve 日本語 🏴‍☠️ end"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = list(texts(tokenizer, ids))
    assert len(pieces) == len(ids)
    assert "".join(pieces) == text
    assert "" in pieces
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(pieces)


def test_marks_are_paged_by_reason_with_the_words_that_differ(store):
    page = twins(store, count=2)
    assert page.reason == next(iter(page.counts))
    assert page.total == page.counts[page.reason]
    assert len(page.pairs) == min(2, page.total)
    for reason, total in page.counts.items():
        every = [pair for first in range(0, total, 3) for pair in twins(store, reason, first, 3).pairs]
        assert len(every) == total == len({pair.left_out.example_id for pair in every})
        assert [pair.similarity for pair in every] == sorted(pair.similarity for pair in every)
    pair = twins(store, count=1).pairs[0]
    marked = row(store, pair.left_out.example_id).twins[0]
    assert (marked.twin, marked.left_out) == (pair.twin.example_id, True)
    back = row(store, pair.twin.example_id).twins
    assert (pair.left_out.example_id, False) in [(one.twin, one.left_out) for one in back]
    with pytest.raises(InputError, match="left nothing out for 'boredom'"):
        twins(store, "boredom")


def test_a_difference_of_words_gives_both_texts_back():
    (a, cut_a), (b, cut_b) = difference("the quick brown fox, twice", "the quick red fox,  twice!")
    assert "".join(piece.text for piece in a) == "the quick brown fox, twice"
    assert "".join(piece.text for piece in b) == "the quick red fox,  twice!"
    assert next(piece.text for piece in a if piece.differs) == "brown "
    assert not cut_a
    assert not cut_b
    (a, cut_a), (b, _) = difference("x " * 100_000, "x " * 100_000 + "y")
    assert cut_a
    assert len("".join(piece.text for piece in a)) < 6_001
    assert difference("", "") == (([], False), ([], False))
