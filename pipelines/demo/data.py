"""The demo's pool: generated chats of several skills with planted truth, so that what is found can be counted.

Planted: a target skill (SQL), wrong answers to it (marked in the source name), near-duplicates of a few of its rows,
exact duplicates, leaked test questions, and bad rows of every kind that ingest refuses.
"""

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from gradsift.datastore.chats import Messages

Pair = tuple[str, str]
TARGET = "sql"
WRONG, NEAR, LEAK = f"{TARGET}-wrong", f"{TARGET}-near-duplicate", f"{TARGET}-leak"
ROWS_PER_SKILL, TARGET_ROWS, WRONG_ROWS, NEAR_ROWS, EXACT_ROWS, LEAK_ROWS = 220, 120, 60, 40, 20, 15
VAL_ROWS, TEST_ROWS = 24, 80

_TABLES = ("orders", "users", "books", "cities", "trips", "films", "songs", "teams", "shops", "plants")
_COLUMNS = ("price", "age", "year", "size", "score", "weight", "length", "rank")
_WORDS = (
    "apple", "river", "stone", "cloud", "green", "table", "quiet",
    "north", "silver", "window", "garden", "paper", "candle", "bridge",
    "winter", "music", "letter", "orange", "doctor", "summer", "copper",
    "market", "yellow", "forest", "pencil", "island", "rocket", "button",
)  # fmt: skip
_LEGS = {"horse": 4, "spider": 8, "ant": 6, "duck": 2}
_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip


def sql(rng: random.Random) -> Pair:
    """A chat of the target skill."""
    table, column, number = rng.choice(_TABLES), rng.choice(_COLUMNS), rng.randrange(2, 99)
    more = rng.random() < 0.5
    ask = f"Write SQL: the names of all {table} whose {column} is {'above' if more else 'below'} {number}."
    return ask, f"SELECT name FROM {table} WHERE {column} {'>' if more else '<'} {number};"


def _reverse(rng: random.Random) -> Pair:
    one, two = rng.sample(_WORDS, 2)
    return f"Spell {one} {two} backwards.", " ".join(reversed(one + two))


def _upper(rng: random.Random) -> Pair:
    words = " ".join(rng.sample(_WORDS, 3))
    return f"Write in capitals: {words}", words.upper()


def _add(rng: random.Random) -> Pair:
    a, b = rng.randrange(2, 60), rng.randrange(2, 60)
    return f"What is {a} plus {b}?", f"{a} plus {b} is {a + b}."


def _sort(rng: random.Random) -> Pair:
    words = rng.sample(_WORDS, 4)
    return f"Sort these words: {', '.join(words)}", ", ".join(sorted(words))


def _legs(rng: random.Random) -> Pair:
    animal, count = rng.choice(list(_LEGS)), rng.randrange(1, 80)
    return f"How many legs do you count on {count} {animal}s?", f"That makes {count * _LEGS[animal]} legs."


def _date(rng: random.Random) -> Pair:
    month, day, year = rng.randrange(12), rng.randrange(1, 29), rng.randrange(1950, 2030)
    return f"Write the date {_MONTHS[month]} {day}, {year} as numbers.", f"{year}-{month + 1:02d}-{day:02d}"


def _reply(rng: random.Random) -> Pair:
    thing, when = rng.choice(_WORDS), f"in {rng.randrange(2, 40)} days"
    ask = f"Answer politely: can you send me the {thing} {when}?"
    return ask, f"Thank you for your message. I will gladly send you the {thing} {when}."


SKILLS: dict[str, Callable[[random.Random], Pair]] = {
    "reverse": _reverse,
    "capitals": _upper,
    "addition": _add,
    "sorting": _sort,
    "legs": _legs,
    "dates": _date,
    "replies": _reply,
}


@dataclass(frozen=True)
class Planted:
    """How many rows of each kind were planted; bad ones by the reason that ingest should give."""

    target_rows: int
    wrong_answers: int
    near_duplicates: int
    exact_duplicates: int
    leaks: int
    bad_rows: Mapping[str, int]


@dataclass(frozen=True)
class _Row:
    """A line of a file of rows."""

    source: str
    licence: str
    messages: Messages

    def as_json(self) -> str:
        return json.dumps(asdict(self))


def _row(source: str, pair: Pair) -> _Row:
    return _Row(source, "CC0-1.0", _chat(pair))


def _chat(pair: Pair) -> Messages:
    return [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]


def _pair(row: _Row) -> Pair:
    user, answer = (turn["content"] for turn in row.messages)
    return user, answer


def general_text(rng: random.Random, rows: int) -> list[Messages]:
    """Chats of all skills but the target's, to train the base model on."""
    names = sorted(SKILLS)
    return [_chat(SKILLS[rng.choice(names)](rng)) for _ in range(rows)]


def _bad_lines() -> dict[str, list[bytes]]:
    """Bad rows by the reason that ingest should give."""

    def line(*turns: tuple[str, str]) -> bytes:
        return json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]}).encode()

    return {
        "broken_json": [b'{"messages": [{"role": "user"', b"not json at all"],
        "invalid_utf8": [b'{"messages": [{"role": "user", "content": "caf\xe9"}]}'],
        "empty_assistant": [line(("user", "Are you there?"), ("assistant", "  "))],
        "no_assistant": [line(("user", "Nobody answers."))],
        "role_order": [line(("assistant", "I speak first.")), line(("user", "a"), ("user", "b"))],
        "nul": [line(("user", "a\x00b"), ("assistant", "c"))],
        "surrogate": [line(("user", "a\ud800b"), ("assistant", "c"))],
        "too_long": [line(("user", "x" * 1_000_001), ("assistant", "y"))],
        "unknown_shape": [b'{"text": "neither prompt nor answer"}'],
        "not_an_object": [b'["a", "list"]'],
    }


def write_demo_data(folder: Path, seed: int = 0) -> Planted:
    """Write pool.jsonl, val.jsonl and test.jsonl below a folder; returns what was planted."""
    rng = random.Random(seed)  # noqa: S311 - a generator of examples
    target = [_row(TARGET, pair) for pair in _distinct(sql, rng, TARGET_ROWS + VAL_ROWS + TEST_ROWS + WRONG_ROWS)]
    val, test = target[:VAL_ROWS], target[VAL_ROWS : VAL_ROWS + TEST_ROWS]
    pool = target[VAL_ROWS + TEST_ROWS : VAL_ROWS + TEST_ROWS + TARGET_ROWS]
    asked = target[-WRONG_ROWS:]
    wrong = [_row(WRONG, (_pair(row)[0], _wrong_answer(rng))) for row in asked]
    near = []
    for number in range(NEAR_ROWS):
        user, answer = _pair(pool[number % 10])
        near.append(_row(NEAR, (user.rstrip(".") + "!" * (1 + number // 10), answer)))
    leaks = []
    for row in test[:LEAK_ROWS]:
        user, answer = _pair(row)
        leaks.append(_row(LEAK, (f"A question for you. {user} Thank you!", answer)))
    others = [_row(name, pair) for name, make in SKILLS.items() for pair in _distinct(make, rng, ROWS_PER_SKILL)]
    lines = [row.as_json().encode() for row in (*pool, *wrong, *near, *leaks, *others, *pool[:EXACT_ROWS])]
    bad = _bad_lines()
    lines += [line for bad_lines in bad.values() for line in bad_lines]
    rng.shuffle(lines)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pool.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    for name, part in (("val", val), ("test", test)):
        text = "".join(row.as_json() + "\n" for row in part)
        (folder / f"{name}.jsonl").write_text(text, "utf-8")
    return Planted(
        target_rows=TARGET_ROWS,
        wrong_answers=WRONG_ROWS,
        near_duplicates=NEAR_ROWS,
        exact_duplicates=EXACT_ROWS,
        leaks=LEAK_ROWS,
        bad_rows={reason: len(bad_lines) for reason, bad_lines in bad.items()},
    )


def _distinct(make: Callable[[random.Random], Pair], rng: random.Random, count: int) -> list[Pair]:
    pairs: dict[Pair, None] = {}
    while len(pairs) < count:
        pairs.setdefault(make(rng))
    return list(pairs)


def _wrong_answer(rng: random.Random) -> str:
    return rng.choice(
        (
            f"I like {rng.choice(_WORDS)} and {rng.choice(_WORDS)}.",
            f"DROP TABLE {rng.choice(_TABLES)};",
            " ".join(rng.choice(_WORDS) for _ in range(6)),
        )
    )
