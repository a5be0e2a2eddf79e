"""Rows by their words: all of them, in either case, page after page, within a time."""

import pytest

from gradsift.datastore import examples
from gradsift.datastore.errors import InputError
from gradsift.datastore.examples import Example
from gradsift.datastore.identity import example_id
from gradsift.pipelines.query.find import find, holding, terms


def said(*texts):
    return [{"role": role, "content": text} for role, text in zip(("user", "assistant"), texts, strict=True)]


ROWS = [
    said("Straße one", "two three"),
    said("ONE", "three. two"),
    said("one", "four"),
    [{"role": "user", "content": "call it", "tools": [{"type": "function", "function": {"name": "forecast"}}]},
     {"role": "assistant", "content": "yes"}],
]  # fmt: skip
IDS = [example_id(chat) for chat in ROWS]


@pytest.fixture
def texts(store):
    for chat in ROWS:  # a shard each
        examples.add(store, [Example(example_id(chat), chat, "s")])
    return store


@pytest.mark.parametrize(
    ("words", "rows"),
    [("one", [0, 1, 2]), ("three ONE", [0, 1]), ('"two three"', [0]), ("STRASSE", []), ("straße", [0]), ("forecast", [3]),
     (".", [1]), ("three nothing", [])],
)  # fmt: skip
def test_a_row_has_all_words_anywhere(texts, words, rows):
    assert [seen.example_id for seen in find(texts, words).rows] == [IDS[k] for k in rows]
    assert holding(texts, words) == [IDS[k] for k in rows]


def test_a_hit_is_shown_with_what_stands_around_it(texts):
    (seen,) = find(texts, '"TWO THREE"').rows
    assert (seen.before, seen.word, seen.after, seen.source) == ("Straße one\n", "two three", "", "s")


def test_pages_end_where_the_next_begin(texts):
    first = find(texts, "one", most=2)
    second = find(texts, "one", most=2, start=first.next)
    assert [seen.example_id for page in (first, second) for seen in page.rows] == IDS[:3]
    assert (second.next, first.looked_at + second.looked_at) == ("", 4)


def test_a_page_ends_in_time_and_says_where_to_go_on(texts):
    seen, start, pages = [], "", 0
    while pages == 0 or start:
        page = find(texts, "one", start=start, seconds=0)
        seen += [one.example_id for one in page.rows]
        start, pages = page.next, pages + 1
    assert (seen, pages) == (IDS[:3], 4)


def test_only_some_examples_are_looked_for(texts):
    assert [seen.example_id for seen in find(texts, "one", ids=[IDS[1], "f" * 32]).rows] == [IDS[1]]


def test_what_is_no_question_is_refused(texts):
    for words in ("", "  ", "x" * 201):
        with pytest.raises(InputError, match="give words to look for"):
            find(texts, words)
    with pytest.raises(InputError, match="no place that a search named"):
        find(texts, "one", start="1.x")
    assert terms('a "b c"  d') == ["a", "b c", "d"]
