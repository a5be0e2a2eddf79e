"""Write `examples/first-curation`: a pool of ten files in the shapes that people have, with what goes wrong in them.

    python examples/make_first_curation.py [FOLDER]

The same files each time (Parquet: the same rows). What is in them is counted in `PLANTED`, which tests compare with
what a run says of every row.
"""

import csv
import gzip
import io
import json
import random
import sys
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gradsift.pipelines.demo.data import SKILLS, Pair, sql

Json = dict[str, Any]
HERE = Path(__file__).parent / "first-curation"
SEED = 18
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
PRICE = {
    "type": "function",
    "function": {
        "name": "price",
        "description": "The price of a thing.",
        "parameters": {"type": "object", "properties": {"thing": {"type": "string"}}, "required": ["thing"]},
    },
}
CITIES = ("Paris", "Oslo", "Lima", "Cairo", "Delhi", "Quito")
PLANTED = {
    "files": 10,
    "files not read": ["labels.xlsx", "notes.txt"],
    "quarantined": {
        "broken_json": 3,
        "invalid_utf8": 1,
        "not_an_object": 1,
        "unknown_shape": 2,
        "missing_field": 1,
        "role_order": 1,
        "empty_assistant": 2,
        "no_assistant": 1,
        "multimodal": 1,
    },
}


def write(folder: Path) -> None:
    """Write everything."""
    rng = random.Random(SEED)
    pool = folder / "pool"
    pool.mkdir(parents=True, exist_ok=True)
    chats = _chats(rng)
    _lines(pool / "chats.jsonl", [*chats, *chats[:6]])
    _text(pool / "alpaca.json", json.dumps([_alpaca(rng, k) for k in range(40)], indent=1) + "\n")
    (pool / "sharegpt.jsonl.gz").write_bytes(gzip.compress(_as_lines([_sharegpt(rng) for _ in range(40)]), mtime=0))
    pq.write_table(pa.Table.from_pylist([_prompt(rng, k) for k in range(60)]), pool / "prompts.parquet")
    _table(pool / "support.csv", ",", ("id", "topic", "instruction", "output"), [_support(rng, k) for k in range(50)])
    _table(pool / "tickets.tsv", "\t", ("ticket", "prompt", "completion"), [_ticket(rng, k) for k in range(30)])
    _lines(pool / "tools.jsonl", [_tool_chat(rng, k) for k in range(20)])
    _lines(pool / "functions.jsonl", [(_function if k % 2 else _sharegpt_function)(rng) for k in range(16)])
    _lines(pool / "preferences.jsonl", [_preference(rng, k) for k in range(40)])
    (pool / "scraped.jsonl").write_bytes(b"".join(line + b"\n" for line in _scraped(rng)))
    _text(pool / "notes.txt", "Exported on Monday. Ask Ann about the spreadsheet.\n")
    (pool / "labels.xlsx").write_bytes(b"PK\x05\x06" + bytes(18))  # an archive without entries
    _lines(folder / "val.jsonl", [_messages(sql(rng)) for _ in range(24)])
    _lines(folder / "test.jsonl", [_messages(sql(rng)) for _ in range(80)])


def _skill(rng: random.Random, *names: str) -> Pair:
    skill: Callable[[random.Random], Pair] = SKILLS[rng.choice(names or sorted(SKILLS))]
    return skill(rng)


def _messages(pair: Pair, **more: Any) -> Json:
    return {"messages": [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}], **more}


def _chats(rng: random.Random) -> list[Json]:
    """OpenAI's shape, with columns of their own; every fifth with content in parts, as some clients write it."""
    rows = []
    for k in range(60):
        more = {"id": f"chat-{k:03d}", "licence": "CC-BY-4.0", "quality": rng.randrange(1, 6), "reviewed": k % 3 == 0}
        row = _messages(_skill(rng), **more)
        if k % 5 == 4:
            for turn in row["messages"]:
                turn["content"] = [{"type": "text", "text": turn["content"]}]
        rows.append(row)
    return rows


def _alpaca(rng: random.Random, number: int) -> Json:
    ask, answer = _skill(rng, "capitals", "sorting")
    instruction, _, rest = ask.partition(": ")
    return {"id": number, "instruction": f"{instruction}.", "input": rest, "output": answer}


def _sharegpt(rng: random.Random) -> Json:
    turns = [turn for _ in range(rng.randrange(1, 3)) for turn in zip(("human", "gpt"), _skill(rng), strict=True)]
    row: Json = {"conversations": [{"from": who, "value": text} for who, text in turns]}
    return {"system": "You are a patient teacher.", **row} if rng.random() < 0.5 else row


def _prompt(rng: random.Random, number: int) -> Json:
    prompt, completion = sql(rng) if number % 3 == 0 else _skill(rng)
    written = date(2026, rng.randrange(1, 12), rng.randrange(1, 29))
    return {
        "row_id": 9_000 + number,
        "prompt": prompt,
        "completion": completion,
        "written": written,
        "stars": rng.random(),
    }


def _support(rng: random.Random, number: int) -> Sequence[object]:
    topic = "database" if number % 5 == 1 else "office"
    ask, answer = sql(rng) if topic == "database" else _skill(rng, "replies", "dates")
    if number % 10 == 3:
        ask = f'A colleague, who says "it is urgent", writes:\n{ask}'
    return f"S{number:03d}", topic, ask, answer


def _ticket(rng: random.Random, number: int) -> Sequence[object]:
    return f"T-{number}", *_skill(rng, "addition", "legs")


def _call(name: str, arguments: Any, number: int) -> Json:
    return {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": arguments}}


def _tool_chat(rng: random.Random, number: int) -> Json:
    """Calls of tools, with arguments as an object or, as OpenAI's interface has them, as text."""
    city, days, degrees = rng.choice(CITIES), rng.randrange(1, 9), rng.randrange(-5, 30)
    arguments: Any = {"city": city, "days": days}
    call = _call("weather", json.dumps(arguments) if number % 2 else arguments, number)
    turns: list[Json] = [
        {"role": "user", "content": f"What will the weather be in {city} in {days} days?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "name": "weather", "content": json.dumps({"degrees": degrees})},
        {"role": "assistant", "content": f"It will be {degrees} degrees in {city}."},
    ]
    return {"messages": turns, "tools": [WEATHER, PRICE] if number % 3 else [WEATHER]}


def _function(rng: random.Random) -> Json:
    """The older form of OpenAI's calls."""
    thing, price = rng.choice(("apple", "rocket", "garden", "pencil")), rng.randrange(1, 99)
    call = {"name": "price", "arguments": json.dumps({"thing": thing})}
    turns: list[Json] = [
        {"role": "user", "content": f"What does the {thing} cost?"},
        {
            "role": "assistant",
            "content": None,
            "function_call": call,
        },
        {"role": "function", "name": "price", "content": json.dumps({"price": price})},
        {"role": "assistant", "content": f"The {thing} costs {price}."},
    ]
    return {"messages": turns, "functions": [PRICE["function"]]}


def _sharegpt_function(rng: random.Random) -> Json:
    city, degrees = rng.choice(CITIES), rng.randrange(-5, 30)
    call = json.dumps({"name": "weather", "arguments": {"city": city}})
    turns = [
        ("human", f"Is it warm in {city} now?"),
        ("function_call", call),
        ("observation", json.dumps({"degrees": degrees})),
        ("gpt", f"It is {degrees} degrees there."),
    ]
    return {"conversations": [{"from": who, "value": text} for who, text in turns], "tools": json.dumps([WEATHER])}


def _preference(rng: random.Random, number: int) -> Json:
    """Pairs for preference training: what was chosen is taken, half of them as whole chats, half beside a prompt."""
    ask, answer = sql(rng) if number % 4 == 0 else _skill(rng)
    wrong = f"I would rather not say. {answer.upper()}"
    if number % 2:
        return {"id": f"p{number}", "prompt": ask, "chosen": answer, "rejected": wrong}
    good, bad = _messages((ask, answer))["messages"], _messages((ask, wrong))["messages"]
    return {"id": f"p{number}", "chosen": good, "rejected": bad, "margin": round(rng.random(), 2)}


def _scraped(rng: random.Random) -> list[bytes]:
    """A file of which more than half cannot be used, each row for the reason that `PLANTED` counts."""
    user = {"role": "user", "content": "Look at this."}
    picture = {"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}}
    bad: list[Any] = [
        ["a", "list"],
        {"url": "https://example.org", "body": "no chat at all"},
        {"question": "under another name", "answer": "so nothing says which is which"},
        {"prompt": None, "completion": "An answer to nothing."},
        {"messages": [{"role": "assistant", "content": "I begin."}, user]},
        {"messages": [user, {"role": "assistant", "content": ""}]},
        {"messages": [user, {"role": "assistant", "content": "  "}]},
        {"messages": [user]},
        {"messages": [{"role": "user", "content": [picture]}, {"role": "assistant", "content": "A cat."}]},
    ]
    good = [_messages(_skill(rng)) for _ in range(8)]
    lines = [json.dumps(row).encode() for row in [*bad, *good]]
    return [*lines, b'{"messages": [{"role": "user"', b"{'messages': []}", b"not JSON", b'{"prompt": "caf\xe9"}']


def _as_lines(rows: Sequence[Json]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _lines(path: Path, rows: Sequence[Json]) -> None:
    path.write_bytes(_as_lines(rows))


def _text(path: Path, text: str) -> None:
    path.write_bytes(text.encode())


def _table(path: Path, separator: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator="\n")
    writer.writerows([head, *rows])
    _text(path, text.getvalue())


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
