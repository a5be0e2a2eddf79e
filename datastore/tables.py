"""The tables that SQL and `Store.frame` show of a store: their columns, of which kind each is, and what it says.

Plain words and names: nothing here reads a store. `frames` makes the tables.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradsift.datastore.predicates import SIGNALS, STATES

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Table:
    """A table: what a row of it is, and {column: (kind, what it says)}."""

    words: str
    columns: dict[str, tuple[str, str]]


TEXT, WHOLE, NUMBER, TIME, TRUTH = "text", "integer", "number", "time", "boolean"
NUMBERS, CHAT = "list of numbers", "list of {role, content}"
ID = (TEXT, "the example's id")
KINDS = {name: WHOLE if name in ("tokens", "label_tokens") else NUMBER for name in SIGNALS}
CHOICE = {
    "name": (TEXT, "its name"),
    "version": (WHOLE, "its newest number, null where no run made it or it has none yet"),
    "target": (TEXT, "the target that it was made for"),
    "method": (TEXT, "the method that made it"),
    "void": (TEXT, "why it does not hold any more, null for one that does"),
    "selection_id": (WHOLE, "its number in the catalog"),
}
ITEM = {
    "rank": (WHOLE, "the example's place in it, from 0 as every rank"),
    "id": ID,
    "score": (NUMBER, "the score that it was chosen by, null where the method gives none"),
    "copies": (WHOLE, "how often it occurs"),
    "source": (TEXT, "the source that it counted as when it was chosen"),
    "licence": (TEXT, "its licence then"),
}
TABLES: dict[str, Table] = {
    "examples": Table(
        "an example of the store, with its signals at the last checkpoint of the newest run that computed gradients",
        {
            "id": ID,
            "source": (TEXT, "the source that it counts as"),
            "licence": (TEXT, "its licence"),
            "chars": (WHOLE, "characters of all its turns"),
            "file": (TEXT, "the first file that it was read from as of that source"),
            "line": (WHOLE, "the line there"),
            "extra": (TEXT, "other columns of the row there, a JSON object: extra->>'name' gives one as text"),
            "text": (TEXT, "all its turns, one after the other, with what they think"),
            "messages": (CHAT, "its turns"),
            "more": (TEXT, "what turns hold beyond role and content (calls, tools, …), JSON by number of the turn"),
            **{name: (KINDS[name], what) for name, what in SIGNALS.items()},
            "mark": (TEXT, STATES["mark"]),
            "selected": (WHOLE, STATES["selected"]),
            "role": (TEXT, STATES["role"] + "; the first of these that holds"),
        },
    ),
    "origins": Table(
        "a place that an example was read from",
        {
            "id": ID,
            "file": (TEXT, "the file, as the store names it"),
            "line": (WHOLE, "the line, from 1; of tables the row"),
            "source": (TEXT, "the source there"),
            "licence": (TEXT, "the licence there"),
            "extra": (TEXT, "other columns of the row there, a JSON object: extra->>'name' gives one as text"),
        },
    ),
    "signals": Table(
        "a row of the model's pass over an example, at one checkpoint",
        {
            "id": ID,
            "checkpoint": (WHOLE, "number of the checkpoint; null of rows of no warm-up, as of a sentence encoder"),
            "transform": (TEXT, "what the gradient went through: plain, adam_exact, …"),
            "space": (TEXT, "start of the fingerprint of the feature space"),
            "newest": (TRUTH, "whether this is the space of the signals in `examples`"),
            **{name: (KINDS[name], what) for name, what in SIGNALS.items()},
            "transformed_norm": (NUMBER, "length of what was projected"),
            "projected_norm": (NUMBER, "length of the projected row before it was made a unit row"),
            "token_nll": (NUMBERS, "loss of each label token, where the recipe asks for it"),
            "token_entropy": (NUMBERS, "entropy at each label token, where the recipe asks for it"),
        },
    ),
    "scores": Table(
        "what a selection's method said of an example of its pool, chosen or not",
        {
            **CHOICE,
            "id": ID,
            "score": (NUMBER, "its score; null where the method gives none"),
            "rank": (WHOLE, "its place among the chosen, from 0 as every rank; null of one that was not chosen"),
            "part": (TEXT, "the part of the mixture that took it"),
            "cluster": (TEXT, "its cluster, where the method makes clusters"),
            "details": (TEXT, "all else that the method says of it, a JSON object"),
        },
    ),
    "selections": Table("an example that a selection holds", {**CHOICE, **ITEM}),
    "mixtures": Table(
        "an example that a mixture holds",
        {name: what for name, what in CHOICE.items() if name not in ("target", "method")} | ITEM,
    ),
    "marks": Table(
        "an example that a screening leaves out of a pool",
        {
            "screening": (WHOLE, "number of the screening"),
            "newest": (TRUTH, "whether it is one of the newest run's"),
            "id": ID,
            "reason": (TEXT, "leak_ngrams, leak_near_duplicate, exact, near_duplicate, semantic"),
            "twin": (TEXT, "id of the example that it repeats"),
            "similarity": (NUMBER, "between 0 and 1, as the reason measures it"),
        },
    ),
    "members": Table(
        "a member of a version of a pool, a target or a test set",
        {
            "dataset_id": (WHOLE, "number of the version in the catalog"),
            "role": (TEXT, "pool, target or test"),
            "name": (TEXT, "the dataset's name"),
            "version": (WHOLE, "its number, null for one that has none"),
            "void": (TEXT, "why it does not hold any more, null for one that does"),
            "id": ID,
            "subtask": (TEXT, "the subtask, of a target that has some"),
        },
    ),
    "quarantine": Table(
        "a row that was refused when it was read",
        {
            "recipe": (TEXT, "name of the recipe"),
            "role": (TEXT, "pool, target or test"),
            "dataset": (TEXT, "the dataset that it was read for"),
            "file": (TEXT, "its file"),
            "line": (WHOLE, "its line"),
            "source": (TEXT, "its source"),
            "reason": (TEXT, "why, as a short code"),
            "detail": (TEXT, "why, in words"),
            "excerpt": (TEXT, "the start of the row"),
        },
    ),
    "runs": Table(
        "a run, finished or not",
        {
            "run_id": (WHOLE, "its number"),
            "name": (TEXT, "name of its recipe"),
            "state": (TEXT, "finished, or how it ended; null of one that goes on, or whose process died"),
            "started": (TIME, "when it began, UTC"),
            "finished": (TIME, "when it ended, UTC"),
            "base": (TEXT, "of a later selection, mixture or validation: the run whose rows it used; else empty"),
            "recipe": (TEXT, "its recipe, a JSON object: recipe->>'$.select.method'"),
            "summary": (TEXT, "what it made, a JSON object"),
        },
    ),
    "versions": Table(
        "a numbered version that a run made or found unchanged",
        {
            "run_id": (WHOLE, "number of the run"),
            "kind": (TEXT, "pool, selection or mixture"),
            "name": (TEXT, "its name"),
            "version": (WHOLE, "its number"),
            "new": (TRUTH, "whether that run made it"),
            "rows": (WHOLE, "rows that it has"),
            "digest": (TEXT, "digest of its content"),
            "void": (TEXT, "why it does not hold any more, null for one that does"),
            "folder": (TEXT, "where that run exported it, as it recorded the path"),
        },
    ),
    "arms": Table(
        "a training of a validation, measured on one test set",
        {
            "arm": (TEXT, "which rows it trained on: selected, random, …"),
            "targets": (TEXT, "the targets that it stands for"),
            "seed": (WHOLE, "its seed"),
            "lr": (NUMBER, "its learning rate"),
            "test": (TEXT, "the target whose test rows were measured"),
            "loss": (NUMBER, "mean loss over their label tokens, nats"),
            "score": (NUMBER, "mean score of generated answers, where they are scored"),
            "examples": (WHOLE, "rows that it trained on"),
            "label_tokens": (WHOLE, "label tokens of these"),
            "steps": (WHOLE, "steps of training; null for none"),
            "seconds": (NUMBER, "seconds of training"),
            "diverged": (TRUTH, "whether it diverged, and so measured nothing"),
            "created": (TIME, "when it was recorded, UTC"),
        },
    ),
}


def schema_of(name: str) -> "dict[str, pl.DataType]":
    """{column: type} of a table as Polars has them; times are UTC without a zone."""
    import polars as pl

    turn = pl.Struct({"role": pl.String, "content": pl.String})
    types: dict[str, pl.DataType] = {
        TEXT: pl.String(), WHOLE: pl.Int64(), NUMBER: pl.Float64(), TRUTH: pl.Boolean(), TIME: pl.Datetime("us"),
        NUMBERS: pl.List(pl.Float64()), CHAT: pl.List(turn),
    }  # fmt: skip
    return {column: types[kind] for column, (kind, _) in TABLES[name].columns.items()}
