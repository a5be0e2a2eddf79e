"""Truncation: what stays of a long chat, and targets that lose their labels."""

import json
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from gradsift.datastore import checkpoints, runs, selections
from gradsift.datastore.errors import InputError
from gradsift.datastore.store import Store
from gradsift.pipelines.export.export import export
from gradsift.pipelines.model.encode import encode
from gradsift.pipelines.model.labels import check_labels
from gradsift.pipelines.model.truncate import kept, last_answer
from gradsift.pipelines.recipe import Encoding, Export, parse_recipe
from gradsift.pipelines.runs.curate import curate
from gradsift.pipelines.runs.dryrun import plan_run

LABELS = st.lists(st.booleans(), max_size=80)
LENGTH = st.integers(8, 90)


def test_by_hand():
    chat = [False] * 10 + [True] * 4 + [False]
    assert kept(chat, 15, "keep_answer") == list(range(15))
    assert kept(chat, 14, "keep_answer") == list(range(14))  # what follows the answer goes first
    assert kept(chat, 9, "keep_answer") == [0, 1, 7, 8, 9, 10, 11, 12, 13]
    assert kept(chat, 9, "keep_first") == list(range(9))
    long = [False] * 10 + [True] * 40
    assert kept(long, 16, "keep_answer") == [0, 9, *range(10, 24)]  # an eighth of the prompt, the answer's beginning
    assert kept([False, *[True] * 40], 16, "keep_answer") == list(range(16))  # a prompt of one token


@given(LABELS, LENGTH)
def test_what_fits_is_whole_and_nothing_is_longer(labels, length):
    for truncation in ("keep_first", "keep_answer"):
        places = kept(labels, length, truncation)
        assert places == sorted(set(places))
        assert len(places) == min(len(labels), length)
    if len(labels) <= length:
        assert places == list(range(len(labels)))


@given(LABELS, LENGTH)
def test_keep_answer_keeps_the_answer_and_both_ends_of_the_prompt(labels, length):
    start, end = last_answer(labels)
    places = kept(labels, length, "keep_answer")
    answer = [t for t in places if start <= t < end]
    assert answer == list(range(start, start + len(answer))), "from its start, without a gap"
    least = min(start, max(2, length // 8))
    if end - start <= length - least:
        assert len(answer) == end - start, "whole where it fits"
    if not start or not answer:
        return
    prompt = [t for t in places if t < start]
    assert len(prompt) >= least
    assert start - 1 in prompt, "the answer follows its own prompt"
    gap = set(range(start)) - set(prompt)
    assert gap == set() or gap == set(range(min(gap), max(gap) + 1)), "one gap, in the middle"
    if len(prompt) > 1:
        assert prompt[0] == 0


def medical(rng, words):
    """A question after a long abstract: as PubMedQA has them."""
    text = " ".join(rng.choice(["sort", "the", "list", "of", "words", "and", "numbers"]) for _ in range(words))
    return [
        {"role": "user", "content": f"{text}. Question: is it so?"},
        {"role": "assistant", "content": "yes, it is so."},
    ]


@pytest.fixture
def tokenizer(model_dir):
    return AutoTokenizer.from_pretrained(model_dir)


@pytest.mark.parametrize("marked", [True, False])
def test_labels_stay_on_the_answers_own_tokens(tokenizer, marked):
    if marked:
        tokenizer.chat_template = (
            "{% for m in messages %}{{ '<|start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}"
            "{% generation %}{{ m['content'] + '<|end|>' }}{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}"
            "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
        )
    chat = medical(random.Random(0), 150)
    whole = encode(tokenizer, chat, 4096)
    assert len(whole.input_ids) > 150
    cut = encode(tokenizer, chat, 96, "keep_answer")
    assert cut.status == "truncated"
    assert len(cut.input_ids) <= 96
    labelled = [i for i, on in zip(cut.input_ids, cut.labelled, strict=True) if on]
    assert tokenizer.decode(labelled) == "yes, it is so.<|end|>"
    assert cut.input_ids[:20] == whole.input_ids[:20]
    assert encode(tokenizer, chat, 96).status == "no_labels"
    for truncation in ("keep_first", "keep_answer"):
        assert encode(tokenizer, chat, 4096, truncation) == whole


def test_an_earlier_answer_that_stays_keeps_its_labels(tokenizer):
    first = [{"role": "user", "content": "say a"}, {"role": "assistant", "content": "a"}]
    chat = [*first, *medical(random.Random(0), 150)]
    cut = encode(tokenizer, chat, 96, "keep_answer")
    labelled = [i for i, on in zip(cut.input_ids, cut.labelled, strict=True) if on]
    assert tokenizer.decode(labelled) == "a<|end|>yes, it is so.<|end|>"


def chats(short, long):
    rng = random.Random(1)
    return [medical(rng, 20) for _ in range(short)] + [medical(rng, 250) for _ in range(long)]


def test_a_set_that_loses_its_labels_is_refused_with_the_length_that_keeps_it(tokenizer):
    sets = chats(10, 30)
    with pytest.raises(
        InputError, match=r"targets.med.val: 30 of 40 rows lose their answer at .*192.*keep_answer"
    ) as e:
        check_labels(tokenizer, Encoding(max_length=192), {"targets.med.val": sets})
    advised = int(str(e.value).split("A max_length of ")[1].split()[0].replace(",", ""))
    whole = [encode(tokenizer, chat, 4096) for chat in sets]
    kept_whole = [
        encode(tokenizer, chat, advised).n_label_tokens == w.n_label_tokens for chat, w in zip(sets, whole, strict=True)
    ]
    assert sum(kept_whole) / len(sets) >= 0.95
    one_less = [
        encode(tokenizer, chat, advised - 1).n_label_tokens == w.n_label_tokens
        for chat, w in zip(sets, whole, strict=True)
    ]
    assert sum(one_less) / len(sets) < 0.95
    assert check_labels(tokenizer, Encoding(max_length=advised), {"x": sets}) == []
    assert check_labels(tokenizer, Encoding(max_length=192, truncation="keep_answer"), {"x": sets}) == []


def test_some_rows_without_a_label_are_said_few_are_not(tokenizer):
    encoding = Encoding(max_length=192)
    (said,) = check_labels(tokenizer, encoding, {"few": chats(39, 1), "some": chats(35, 5)})
    assert said.startswith("some: 5 of 40 rows lose their answer")


def test_a_set_without_answers_is_refused_in_other_words(tokenizer):
    with pytest.raises(InputError, match=r"none of 3 rows has a label token at any length \(3 no_labels\)"):
        check_labels(tokenizer, Encoding(), {"x": [[{"role": "user", "content": "what?"}]] * 3})


@pytest.fixture
def medical_recipe(recipe_data, tmp_path):
    """A recipe whose target has long contexts before short answers; nothing is in both of its files."""
    for name, seed in (("val", 2), ("test", 3)):
        rng = random.Random(seed)
        rows = [{"messages": medical(rng, 250)} for _ in range(12)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    target = {name: {"path": str(tmp_path / f"{name}.jsonl")} for name in ("val", "test")}
    short = {"warmup": {"fraction": 0.1, "min_examples": 8, "epochs": 1}, "validate": None, "decontaminate": None}
    return {**recipe_data, **short, "targets": {"med": target}, "encoding": {"max_length": 192}}


def test_a_medical_target_is_refused_before_training_and_works_with_keep_answer(medical_recipe, tmp_path):
    refused = parse_recipe(medical_recipe)
    said = r"targets.med.val: 12 of 12 rows lose their answer"
    with pytest.raises(InputError, match=said):
        plan_run(refused, tmp_path / "none")
    with Store(tmp_path / "store") as store:
        with pytest.raises(InputError, match=said):
            curate(refused, store)
        assert not list(store.catalog.rows("SELECT 1 FROM checkpoint")), "nothing was trained"
        keeps = parse_recipe({**medical_recipe, "encoding": {"max_length": 192, "truncation": "keep_answer"}})
        result = curate(keeps, store)
        assert [row.statuses for row in result.rows if row.role == "target"] == [{"ok": 12}]
        check_export(store, tmp_path, keeps)


def check_export(store, tmp_path, recipe):
    """An export with labels has the tokens that rows were taken of, and one without says what a trainer would do."""
    from datasets import load_dataset

    chosen = selections.get(store, f"{recipe.name}-med")
    recipes = runs.recipe_of(store, chosen)
    folder = export(store, chosen, recipes, tmp_path / "labelled", Export(labels=True))
    tokenizer = AutoTokenizer.from_pretrained(recipe.model.path)
    for row in load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache")):
        chat = encode(tokenizer, row["messages"], 192, "keep_answer")
        assert row["input_ids"] == list(chat.input_ids)
    assert "messages` are whole" in (folder / "README.md").read_text()
    folder = export(store, chosen, recipes, tmp_path / "plain", Export(labels=False))
    assert "labels: true" in (folder / "README.md").read_text()
    assert "keep_answer" in (folder / "trl.yaml").read_text()


def test_truncation_decides_rows_lengths_and_training(finished, monkeypatch):
    """Fingerprints with `keep_first` are what they were; with `keep_answer` all are others."""
    from gradsift.pipelines.features.space import make_job
    from gradsift.pipelines.model.lengths import lengths_spec
    from gradsift.pipelines.model.work import open_work
    from gradsift.pipelines.training.spec import training_spec
    from gradsift.pipelines.training.warmup import reusable

    with Store(finished[1]) as store:
        work = open_work(store, parse_recipe(finished[0]))
        point = reusable(work, work.recipe.warmup)
        assert training_spec(work)["truncation"] == lengths_spec(work)["truncation"] == "keep-first"
        other = work.under(
            work.recipe.model_copy(update={"encoding": Encoding(max_length=128, truncation="keep_answer")})
        )
        assert point
        assert not reusable(other, work.recipe.warmup)
        assert training_spec(other)["truncation"] == lengths_spec(other)["truncation"] == "keep-answer"
        job = make_job(work, checkpoints.listed(store, point[0].fingerprint)[0])
        assert job.space()["truncation"] == "keep-first"
        assert replace(job, encoding=other.recipe.encoding).space()["truncation"] == "keep-answer"
