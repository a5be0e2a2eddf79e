"""What arrives in the pool of the nightly example, and what is known of it: every row is made here, from a seed.

Chats of several skills, each signed by who wrote it, in files as people send them: JSON lines, CSV, Parquet. Beside
good rows there are bad ones, rows that came before, and a question of the target's that leaked into a forum.
"""

import csv
import io
import json
import random
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gradsift.pipelines.demo.data import SKILLS, Pair, sql

SEED, VAL_ROWS = 19, 24
SIZES = {"full": (240, 64), "small": (64, 24)}  # rows of the first day, and of each file that arrives later
NAMES = ("ann", "ben", "cleo", "dan", "eva", "finn", "gita", "hugo", "ines", "jon", "kim", "lea")
COLLEAGUES = [f"{name}.{family}@example.org" for family in ("moss", "reed") for name in NAMES]
FORUM = [f"{name}.holt@example.org" for name in ("ole", "pia", "rob", "sue")]  # who write on Monday and never after it


@dataclass(frozen=True)
class Row:
    """A good row: who wrote it, what they asked, what was answered."""

    author: str
    chat: Pair


@dataclass(frozen=True)
class File:
    """A file that arrives: its name, its bytes, and what is in it. `rows` are good ones that were never there before,
    `repeats` those that were, `leaks` questions of the target, `bad` the refused ones by reason."""

    name: str
    content: bytes
    rows: Sequence[Row]
    repeats: Sequence[Row] = ()
    leaks: Sequence[Row] = ()
    bad: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Arrivals:
    """All that ever arrives, in order, and the rows of the target."""

    day_0: Sequence[File]
    bad_rows: File
    overlap: File
    evening: File
    late: File
    target: Sequence[Pair]


def arrivals(size: str = "full") -> Arrivals:
    """The same files each time (Parquet: the same rows), in one of `SIZES`."""
    rng = random.Random(SEED)
    first, later = SIZES[size]
    asked = _distinct(rng, VAL_ROWS)
    rows = _Rows(rng, {_frame(ask) for ask, _ in asked})
    day_0, monday = rows.by(COLLEAGUES, first), rows.by(FORUM, later)
    tuesday, evening, late = (rows.by(COLLEAGUES, later) for _ in range(3))
    half, again = first // 2, monday[: later // 2]
    leak = Row(rng.choice(COLLEAGUES), (f"A question for you. {asked[0][0]} Thank you!", asked[0][1]))
    return Arrivals(
        day_0=(
            File("chats.jsonl", _lines(day_0[:half]), day_0[:half]),
            File("tickets.csv", _csv(day_0[half:]), day_0[half:]),
        ),
        bad_rows=_with_bad_rows(rng, monday, leak),
        overlap=File("tuesday.jsonl", _lines([*again, *tuesday]), tuesday, repeats=again),
        evening=File("wednesday.parquet", _parquet(evening), evening),
        late=File("wednesday-late.jsonl", _lines(late), late),
        target=asked,
    )  # fmt: skip


def drop(folder: Path, file: File) -> None:
    """Put a file into a pool, at once: written under a hidden name, which no run reads, then renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    hidden = folder / f".{file.name}"
    hidden.write_bytes(file.content)
    hidden.rename(folder / file.name)


def target_lines(pairs: Sequence[Pair]) -> bytes:
    """The target's rows as a file of JSON lines."""
    return b"".join(json.dumps({"messages": _messages(pair)}).encode() + b"\n" for pair in pairs)


def _distinct(rng: random.Random, count: int) -> list[Pair]:
    pairs: dict[Pair, None] = {}
    while len(pairs) < count:
        pairs.setdefault(sql(rng))
    return list(pairs)


class _Rows:
    """Rows of all skills, a third of them of the target's: none asks what another does, or words a question as one of
    those that are taken, which would count as a leak."""

    def __init__(self, rng: random.Random, taken: Set[str]) -> None:
        self.rng, self.taken = rng, taken
        self.asked: set[str] = set()

    def by(self, people: Sequence[str], count: int) -> list[Row]:
        """So many more, each signed by one of some people."""
        return [self._row(people[k % len(people)]) for k in range(count)]

    def _row(self, author: str) -> Row:
        rng = self.rng
        while True:
            ask, answer = sql(rng) if rng.random() < 1 / 3 else SKILLS[rng.choice(sorted(SKILLS))](rng)
            if ask not in self.asked and _frame(ask) not in self.taken:
                self.asked.add(ask)
                return Row(author, (f"{ask}\n{author}", answer))


def _frame(ask: str) -> str:
    """A question of the target's without its number."""
    return ask.rpartition(" ")[0]


def _messages(pair: Pair) -> list[dict[str, str]]:
    return [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]


def _line(row: Row, source: str) -> bytes:
    record = {"messages": _messages(row.chat), "author": row.author, "source": source, "licence": "CC-BY-4.0"}
    return json.dumps(record, ensure_ascii=False).encode()


def _lines(rows: Sequence[Row], source: str = "chats") -> bytes:
    return b"".join(_line(row, source) + b"\n" for row in rows)


def _csv(rows: Sequence[Row]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("instruction", "output", "author", "source"))
    writer.writerows((*row.chat, row.author, "tickets") for row in rows)
    return text.getvalue().encode()


def _parquet(rows: Sequence[Row]) -> bytes:
    table = pa.table(
        {
            "prompt": [row.chat[0] for row in rows],
            "completion": [row.chat[1] for row in rows],
            "author": [row.author for row in rows],
            "source": ["chats"] * len(rows),
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


def _with_bad_rows(rng: random.Random, rows: Sequence[Row], leak: Row) -> File:
    """A file of a forum: a line of everybody's that stops in the middle, missing answers, and the rest good."""
    cut = [_line(row, "forum")[:-60] for row in rows[: len(FORUM)]]  # each shows an address in quarantine
    silent = [{"role": "user", "content": f"Is anybody there?\n{FORUM[0]}"}]
    bad = {
        "broken_json": [*cut, b"<html>502 Bad Gateway</html>"],
        "empty_assistant": [json.dumps({"messages": [*silent, {"role": "assistant", "content": " "}]}).encode()],
        "no_assistant": [json.dumps({"messages": silent}).encode()],
        "invalid_utf8": [b'{"prompt": "caf\xe9", "completion": "au lait"}'],
    }
    lines = [_line(row, "forum") for row in (*rows, leak)] + [line for of in bad.values() for line in of]
    rng.shuffle(lines)
    content = b"\n".join(lines) + b"\n"
    return File("monday.jsonl", content, rows, leaks=[leak], bad={why: len(of) for why, of in bad.items()})
