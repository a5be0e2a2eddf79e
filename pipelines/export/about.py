"""What the card of an export says of how its rows were chosen, and of each column.

A run's own export says what its recipe and its sources decide, so that two machines write the same bytes: no version
number, which depends on what a store has seen, and no verdict, which comes after it. Who exports later adds both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from gradsift.datastore.identity import Spec, canonical_json
from gradsift.datastore.runs import BY_HAND, Json, MixturePlan, RunResult
from gradsift.datastore.selections import Selection
from gradsift.pipelines.methods.registry import methods
from gradsift.pipelines.tables import Row

NOT_VALIDATED = "Not validated when this was written: whether training on these rows helps was not measured."
COLUMNS = {
    "messages": "the chat, turn by turn",
    "tools": "the tools that the chat offers",
    "example_id": "digest of the chat; `gradsift query --like-id` takes it",
    "source": "where it counts as coming from",
    "licence": "as its source states it; empty: unknown",
    "rank": "place in the choice, 0 the first",
    "score": "what the method gave it; higher is chosen first",
    "part": "part of the mixture that took it",
    "cluster": "cluster that the method put it in",
    "file": "file that it was read from, below its source's path",
    "line": "line or row of that file, from 1",
    "extra": "other columns of the row, as JSON",
    "copy": "0 for the first copy of a chat that stands here more than once, then 1, 2, …",
    "weight": "always 1: what counts more stands here more often",
    "input_ids": "tokens of the recipe's model",
    "attention_mask": "1 for each token",
    "labels": "the token where it has loss, −100 where not",
}
OTHER_COLUMN = "another column of the rows, as it was"
BUDGETS = {"examples": "{:,} examples", "label_tokens": "{:,} label tokens", "tokens": "{:,} tokens"}


@dataclass(frozen=True)
class Told:
    """What the store's runs know of an export beside its rows, in sentences; '' where nothing is known."""

    pool: str = ""
    version: str = ""
    verdict: str = ""


def pool_words(result: RunResult) -> str:
    """How many rows a run read and how many chats it could choose from."""
    pool = result.ingest.pool
    return f"{pool.rows_read:,} rows read, {pool.left:,} different chats to choose from"


def how(
    selection: Selection, lineage: Spec, asked: MixturePlan | None, recipe: Json, told: Told, trials: str = ""
) -> list[Row]:
    """The table of how the rows were chosen. `trials` says how its method was, where it was."""
    got = f"{selection.rows:,} rows of {len(selection.example_ids):,} examples"
    said: list[tuple[str, str]] = [("version", told.version)]
    if asked:
        said.append(("budget", f"{asked.requested:,} {asked.unit} asked for, {asked.realised:,} in it: {got}"))
    else:
        said.append(("budget", f"{_budget(lineage.get('budget') or {})} asked for, {got} in it"))
    said.append(("pool", "; ".join(filter(None, [told.pool, f"sources: {_sources(recipe.get('pool', ()))}"]))))
    said += [("method", _method(*one)) for one in _methods(lineage)]
    said.append(("trials", trials))
    if selection.method == BY_HAND:
        said.append(("found by", canonical_json(lineage.get("drawn") or {})))
    said.append(("verdict", told.verdict or NOT_VALIDATED))
    return [{"what": name, "value": value} for name, value in said if value]


def columns(names: Sequence[str]) -> list[Row]:
    """A line for each column."""
    return [{"column": name, "holds": COLUMNS.get(name, OTHER_COLUMN)} for name in names]


def _budget(budget: Mapping[str, Any]) -> str:
    least = f", at least {budget['at_least']:,} examples," if "at_least" in budget else ""
    for name, value in budget.items():
        if name == "fraction":
            return f"{value:.1%} of the usable chats"
        if name in BUDGETS:
            return BUDGETS[name].format(value) + least
    return "the recipe's budget"


def _sources(pool: Sequence[Mapping[str, Any]]) -> str:
    """Names of a recipe's sources, without folders."""
    return ", ".join(str(one.get("hub") or PurePath(str(one.get("path", ""))).name) for one in pool)


def _methods(lineage: Spec) -> list[tuple[str, Mapping[str, Any]]]:
    """(method, what differs from it) of a selection; of a mixture, those that its parts choose by."""
    if "mix" not in lineage:
        return [(lineage["method"], lineage.get("options") or {})]
    default = lineage.get("default")
    found = []
    for part in lineage["mix"].get("parts", ()):
        if part.get("target") is None:
            continue
        own = part.get("select") or {}
        if "method" in own:
            found.append((own["method"], own.get("options") or {}))
        elif default:
            found.append((default[0], default[3]))
    return [one for k, one in enumerate(found) if one not in found[:k]]


def _method(name: str, options: Mapping[str, Any]) -> str:
    known = methods().get(name)
    said = f"{name}: {known.what} ({known.source})" if known else name
    return f"{said}; options {canonical_json(dict(options))}" if options else said
