"""What changed between two selections or mixtures: rows in and out, by source, cluster, part, length and score.

Either side is a selection of the store (NAME, or NAME@DIGEST for an older one) or the folder of an export.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds

from gradsift.datastore import examples, selections
from gradsift.datastore.errors import InputError
from gradsift.datastore.store import Store
from gradsift.pipelines.export.rows import layout

SHOWN = 3
TEXT_CHARS = 160
BINS = ("below 200", "200 to 499", "500 to 999", "1,000 to 1,999", "2,000 to 4,999", "5,000 and more")
EDGES = (200, 500, 1000, 2000, 5000)


@dataclass(frozen=True)
class Side:
    """One side: {example: copies}, its facts as columns, and how to read a chat."""

    name: str
    digest: str
    copies: Mapping[str, int]
    facts: Mapping[str, Mapping[str, Any]]  # by example: source, score, chars, part, cluster where known
    chats: Any


def diff(store: Store | None, one: str, other: str, shown: int = SHOWN) -> dict[str, Any]:
    """Compare two sides: counts, tables, and up to `shown` examples that only one has. Raises InputError."""
    a, b = _side(store, one), _side(store, other)
    gone, come = sorted(set(a.copies) - set(b.copies)), sorted(set(b.copies) - set(a.copies))
    both = set(a.copies) & set(b.copies)
    return {
        "a": {"name": a.name, "digest": a.digest, "examples": len(a.copies), "rows": sum(a.copies.values())},
        "b": {"name": b.name, "digest": b.digest, "examples": len(b.copies), "rows": sum(b.copies.values())},
        "in_both": len(both),
        "only_a": len(gone),
        "only_b": len(come),
        "other_copies": sum(a.copies[i] != b.copies[i] for i in both),
        "by": {key: table for key in ("source", "part", "cluster", "length") if (table := _by(a, b, key))},
        "score": _scores(a, b, gone, come, both),
        "examples": {"only_a": _shown(a, gone, shown), "only_b": _shown(b, come, shown)},
    }


def _side(store: Store | None, name: str) -> Side:
    folder = Path(name)
    if (folder / "manifest.json").is_file():
        return _exported(folder)
    if store is None:
        raise InputError(f"{name} is not the folder of an export, and there is no store to look for a selection in")
    return _stored(store, name)


def _stored(store: Store, name: str) -> Side:
    chosen = selections.get(store, name)
    facts = layout(store, chosen, 0).facts
    chars = dict(zip(chosen.example_ids, selections.facts(store, chosen).chars, strict=True))
    known = {row["example_id"]: row | {"chars": chars[row["example_id"]]} for row in facts.to_pylist()}
    copies = dict(zip(chosen.example_ids, chosen.copies, strict=True))
    return Side(chosen.name, chosen.digest, copies, known, lambda ids: examples.get_messages(store, ids))


def _exported(folder: Path) -> Side:
    import json

    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    files = [str(folder / name) for name in manifest["files"] if name.startswith("data/")]
    data = ds.dataset(files, format="json" if files[0].endswith(".jsonl") else "parquet")
    columns = [n for n in ("example_id", "source", "score", "part", "cluster", "messages") if n in data.schema.names]
    copies: dict[str, int] = {}
    facts: dict[str, dict[str, Any]] = {}
    for batch in data.to_batches(columns=columns, batch_size=4096):
        for row in batch.to_pylist():
            copies[row["example_id"]] = copies.get(row["example_id"], 0) + 1
            chars = sum(len(turn["content"]) for turn in row.pop("messages"))
            facts[row["example_id"]] = row | {"chars": chars}

    def chats(ids: Sequence[str]) -> dict[str, Any]:
        found = data.to_table(columns=["example_id", "messages"], filter=ds.field("example_id").isin(list(ids)))
        return dict(zip(found["example_id"].to_pylist(), found["messages"].to_pylist(), strict=True))

    return Side(manifest["name"], manifest["selection"]["digest"], copies, facts, chats)


def _value(side: Side, example: str, key: str) -> str | None:
    fact = side.facts[example]
    if key == "length":
        return BINS[int(np.searchsorted(EDGES, fact["chars"], side="right"))]
    value = fact.get(key)
    return None if value is None else str(value)


def _by(a: Side, b: Side, key: str) -> list[dict[str, Any]]:
    counts: dict[str, list[int]] = {}
    for at, (side, other) in enumerate(((a, b), (b, a))):
        for example, copies in side.copies.items():
            value = _value(side, example, key)
            if value is not None:
                row = counts.setdefault(value, [0, 0, 0, 0])
                row[at] += copies
                row[2 + at] += example not in other.copies
    order = BINS if key == "length" else sorted(counts, key=lambda v: (-abs(counts[v][1] - counts[v][0]), v))
    names = (key if key != "length" else "characters", "a", "b", "change", "left", "came")
    found = []
    for value in order:
        if value in counts:
            n_a, n_b, left, came = counts[value]
            found.append(dict(zip(names, (value, n_a, n_b, n_b - n_a, left, came), strict=True)))
    return found


def _scores(a: Side, b: Side, gone: Sequence[str], come: Sequence[str], both: set[str]) -> list[dict[str, Any]]:
    groups = (
        ("left (score in a)", a, gone),
        ("stays (score in a)", a, sorted(both)),
        ("stays (score in b)", b, sorted(both)),
        ("came (score in b)", b, come),
    )
    rows = []
    for name, side, ids in groups:
        values = [s for i in ids if (s := side.facts[i].get("score")) is not None]
        if values:
            low, middle, high = np.quantile(values, [0, 0.5, 1]).tolist()
            rows.append({"rows that": name, "examples": len(values), "lowest": low, "median": middle, "highest": high})
    return rows


def _shown(side: Side, ids: Sequence[str], count: int) -> list[dict[str, Any]]:
    """The best-scored of them (without scores, the first ids), with the start of their text."""
    ranked = sorted(ids, key=lambda i: (-(side.facts[i].get("score") or 0.0), i))[:count]
    chats = side.chats(ranked)
    return [
        {
            "example_id": i,
            "source": side.facts[i].get("source"),
            "score": side.facts[i].get("score"),
            "user": _first(chats[i], "user"),
            "assistant": _first(chats[i], "assistant"),
        }
        for i in ranked
    ]


def _first(chat: Sequence[Mapping[str, str]], role: str) -> str:
    text = next((turn["content"] for turn in chat if turn["role"] == role), "")
    return text if len(text) <= TEXT_CHARS else f"{text[: TEXT_CHARS - 1]}…"
