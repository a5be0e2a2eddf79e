"""The way back: columns of an export that say where a row came from, and what else stood there.

Of the places of an example, those in the recipe's pool that give it its source and licence count, and of those the
first by name of the file, line and other columns: the same on every machine, and whatever else the store has read. The
names are relative to the recipe's sources.

Memory: the other columns of all chosen examples.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from gradsift.datastore import origins, selections
from gradsift.datastore.identity import canonical_json, fingerprint
from gradsift.datastore.origins import Origin, Place
from gradsift.datastore.runs import Json
from gradsift.datastore.selections import Selection
from gradsift.datastore.store import Store
from gradsift.pipelines.pool.places import namer
from gradsift.pipelines.recipe import Export

NOWHERE = Place(None, None, None)
PREFIX = "extra_"
# Columns of an export, of whatever options, and such that trainers know a data set's kind by: TRL takes rows with
# `prompt` for others than chats. Another column of these names gets the prefix.
OURS = frozenset(
    ["messages", "tools", "example_id", "source", "licence", "rank", "score", "part", "cluster", "file", "line",
     "extra", "copy", "weight", "input_ids", "attention_mask", "labels", "text", "x", "y", "neighbors",
     "prompt", "completion", "chosen", "rejected", "conversations", "images", "image", "completion_mask",
     "assistant_masks", "position_ids", "seq_lengths", "chat_template_kwargs"]
)  # fmt: skip
INT64 = range(-(1 << 63), 1 << 63)
EXACT = range(-(1 << 53), (1 << 53) + 1)  # integers that a float64 holds


def places(store: Store, selection: Selection, recipe: Json) -> list[Place]:
    """Where each chosen example was read from by a recipe, in rank order; of one that no file of its pool has by now,
    where it was read from last."""
    known = selections.facts(store, selection)
    name = namer((source.get("path"), source.get("hub")) for source in recipe.get("pool", ()))
    found = origins.origins_of(store, selection.example_ids)
    given = zip(selection.example_ids, known.sources, known.licences, strict=False)  # `layout` refuses fewer
    return [_deciding(found.get(i, []), source, licence, name) for i, source, licence in given]


def _deciding(
    of_example: Sequence[Origin], source: str, licence: str | None, name: Callable[[str], str | None]
) -> Place:
    """The place that counts, of all of an example."""
    if not of_example:
        return NOWHERE
    in_pool = [origin for origin in of_example if name(origin.file) is not None] or of_example
    alike = [o for o in in_pool if (o.source, o.licence or None) == (source, licence or None)] or in_pool
    shown = ((name(o.file) or o.file.rpartition("/")[2], o.line, o.extra or "") for o in alike)
    file, line, extra = min(shown)
    return Place(file or None, line if file else None, extra or None)


def shown(found: Sequence[Place], options: Export) -> str:
    """Digest of what an export shows of the places."""
    return fingerprint(
        [
            [(place.file, place.line) for place in found] if options.places else None,
            [place.extra for place in found] if options.extra != "none" else None,
        ]
    )


def columns(found: Sequence[Place], options: Export) -> dict[str, pa.Array]:
    """{name: [K] values} of what is known of K examples: `file`, `line`, and other columns as one text (`json`), each
    as a column of its own type (`columns`), or not at all (`none`)."""
    made = {}
    if options.places:
        made["file"] = pa.array([place.file for place in found], pa.string())
        made["line"] = pa.array([place.line for place in found], pa.int64())
    if options.extra == "json":
        made["extra"] = pa.array([place.extra for place in found], pa.string())
    if options.extra == "columns":
        made |= _typed([json.loads(place.extra) if place.extra else {} for place in found])
    return made


def _typed(rows: Sequence[dict[str, Any]]) -> dict[str, pa.Array]:
    """Each field as a column, by name."""
    names = sorted({name for row in rows for name in row})
    taken = {*OURS, *names}
    return {_free(name, taken): _column([row.get(name) for row in rows]) for name in names}


def _free(name: str, taken: set[str]) -> str:
    if name not in OURS:
        return name
    while name in taken:
        name = PREFIX + name
    taken.add(name)
    return name


def _column(values: Sequence[Any]) -> pa.Array:
    """Values as int64, float64, bool or text where all are; else the JSON text of each."""
    there = [value for value in values if value is not None]
    kinds = {type(value) for value in there}
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    if kinds == {int} and all(value in INT64 for value in there):
        return pa.array(values, pa.int64())
    if kinds <= {int, float} and all(value in EXACT for value in there if isinstance(value, int)):
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    if kinds == {str}:
        return pa.array(values, pa.string())
    return pa.array([None if value is None else canonical_json(value) for value in values], pa.string())
