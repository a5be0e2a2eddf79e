"""Write the tables of docs/format.md from the migrations of both dialects. A test checks that they are current.

Types, keys and references are those that SQLite has after all migrations; what a column means is its comment in the
migrations, or stands below.
"""

import re
import sqlite3
from pathlib import Path

from gradsift import sql
from gradsift.datastore.sqlite import SqliteEngine

PAGE = Path(__file__).with_name("format.md")
BEGIN, END = "<!-- tables: written by docs/make_format.py -->\n", "<!-- end of tables -->\n"
TYPES = {"TEXT": "code_text", "INTEGER": "BIGINT", "REAL": "DOUBLE PRECISION", "BLOB": "BYTEA"}
KINDS = "|".join(TYPES.values())
TABLE = re.compile(r"^CREATE TABLE (\w+) \( *(?:-- *([^\n]*))?\n(.*?)^\);", re.M | re.S)
COLUMN = re.compile(rf"^ +(\w+) +({KINDS})\b(?:[^-\n]|-(?!-))*(?:-- *(.*))?$", re.M)
ADDED = re.compile(rf"^ALTER TABLE (\w+) ADD COLUMN (\w+) +({KINDS})\b[^;]*;(?: *-- *(.*))?$", re.M)

OF_TABLES = {
    "exported": "places and other columns of a selection's rows, as its first export said them",
    "head": "how far the catalog has come: one row; of SQLite's alone",
    "place": "where the files are, when they are not in the store's folder: one row, or none",
    "seal": "what each table holds, kept with every change of it (`datastore/seals.py`); of SQLite's alone",
    "selection_item": "the rows of a selection, in rank order",
    "shard_number": "the last number that was given to a shard: one row",
    "schema_migrations": "which migrations the catalog has had",
}
MEANINGS = {  # by table and column, or by column alone
    "applied": "when",
    "arm.name": "of the arm: `base`, `selected`, `random`, …",
    "arm.seed": "of the training run",
    "arm.spec": "what decides the figures, JSON; `arm_key` is its fingerprint",
    "bytes": "size of the file",
    "chars": "characters of all turns",
    "copies": "how often it occurs; more than 1 in mixtures that repeat",
    "created": "when",
    "dataset": "name of the dataset that it was read for",
    "dataset.name": "of the recipe (pool), of the target, or of the test set",
    "dataset.role": "`pool`, `target` or `test`",
    "dataset.rows": "members when it was recorded",
    "dataset_id": "number of a version of a dataset",
    "detail": "the reason in words",
    "digest": "of its content, as under *Digests*",
    "doomed.name": "path below the store's root",
    "example.row": "row in its shard, from 0",
    "example_id": "id of an example",
    "example.source": "where it counts as coming from",
    "examples": "how many",
    "excerpt": "the start of what stood there; empty after a deletion",
    "expires": "when it ends by itself",
    "exported.places": "zlib of JSON: [[file, line, other columns], …] in rank order",
    "feature_row.row": "row in its unit's shard, from 0; null where there is none",
    "feature_row.status": "`planned`, `ok`, or why there is no row: `no_labels`, `unrenderable`, `non_finite`, `zero`",
    "file": "path, or `hub:` and the data set",
    "fingerprint": "sha256 of the canonical JSON of what decides it",
    "forgetting_task.kind": "`examples`, `attribute`, `features`, `scores` (a shard), `selection`",
    "head.catalog": "a name that no other catalog has",
    "head.commits": "transactions that changed something; `catalog.head` has what it was when one was last noted",
    "kind": "which",
    "licence": "null: not known",
    "line": "line or row, from 1",
    "mark.reason": "`near_duplicate`, `leak_ngrams`, … (pool/screen.py)",
    "mean_lr": "mean learning rate of the interval that ends there",
    "membership.until": "the first version without it; 2⁶³−1: it has not left",
    "membership.since": "the first version with it",
    "membership.chain": "number of the first version",
    "method": "which chose",
    "name": "its name",
    "number": "number",
    "of_shard": "the shard of examples",
    "ordinal": "place in the order, from 0",
    "origin.source": "the source there",
    "outcome": "`failed`, `interrupted` or `crashed`",
    "owner": "the end of the name of the file `owner/…` there",
    "pool_rows": "members of that pool",
    "rank": "from 0, the best first",
    "recipe": "its name; empty: written before this was known",
    "reason": "a short code (reference.md)",
    "role": "`pool`, `target` or `test`",
    "rows": "how many",
    "run.name": "of its recipe",
    "run.summary": "what it made, JSON; null until it has finished",
    "schema_migrations.sha256": "of the migration's text",
    "schema_migrations.version": "its number",
    "score": "null where the method gives none",
    "scores_shard": "its table of scores and masks",
    "seal.digest": "hex: Σ xxh3_128 of its rows modulo 2¹²⁸, each as Python's `ascii` writes the tuple",
    "seal.name": "of the table; `sqlite_schema`: the schema",
    "search_index.kind": "`flat`, `ivf_flat`, `ivf_sq8` or `hnsw`",
    "selection.name": "of the recipe and target, or as it was asked for",
    "selection.target": "the target; `mixture` of a mixture, `none` of a selection for none",
    "sha256": "of the file's bytes",
    "shard.kind": "`examples`, `features`, `checkpoint` or `scores`",
    "shard.name": "path below the store's root: the kind, a slash, 32 hex digits, an ending",
    "shard.rows": "of the file; of a checkpoint, tensors of the adapter",
    "shard_id": "number of a shard",
    "similarity": "from 0 to 1",
    "source": "its source",
    "spec": "canonical JSON of what decides it",
    "started": "when",
    "finished": "when",
    "step": "optimizer steps that were taken",
    "store_url": "`s3://…`, `file://…`",
    "subtask": "of a target; else empty",
    "target": "of which it was measured or for which it was chosen",
    "tombstone.example_id": "its id; or, of a quarantined excerpt, the digest",
    "unit.shard_id": "null until it is done",
    "version.kind": "`pool`, `selection` or `mixture`",
    "version.dataset_id": "of a pool; null when it was pruned",
    "version.selection_id": "of a selection or mixture; null when it was pruned",
    "written.kind": "`export` or `report`",
}  # fmt: skip


def page() -> str:
    """The page as it must be: what stands around the tables is kept."""
    text = PAGE.read_text("utf-8")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{tables()}\n{END}{rest.split(END)[1]}"


def tables() -> str:
    """The tables of the catalog and their columns, as Markdown."""
    said = _said()
    database = sqlite3.connect(":memory:")
    database.execute(SqliteEngine.migrations_table)
    for migration in sql.migrations("sqlite"):
        database.executescript(migration.text)
    names = [row[0] for row in database.execute("SELECT name FROM sqlite_schema WHERE type='table' ORDER BY name")]
    made = "\n\n".join(_table(database, name, *said.get(name, ("", {}))) for name in names)
    database.close()
    return made + "\n"


def _table(database: sqlite3.Connection, name: str, what: str, theirs: dict[str, tuple[str, str]]) -> str:
    leads = {row[3]: f"{row[2]}.{row[4]}" for row in database.execute(f"PRAGMA foreign_key_list({name})")}
    lines = [f"**`{name}`**: {OF_TABLES.get(name) or what}.", "", "| column | type | meaning |", "|---|---|---|"]
    for _, column, kind, required, _, key in database.execute(f"PRAGMA table_info({name})"):
        other, comment = theirs.get(column, (TYPES[kind], ""))
        if other != TYPES[kind]:
            raise ValueError(f"{name}.{column} is {kind} in SQLite and {other} in PostgreSQL")
        numbers = "its number" if column.endswith("_id") else None
        meaning = MEANINGS.get(f"{name}.{column}") or comment or MEANINGS.get(column) or numbers
        if not meaning:
            raise ValueError(f"say in MEANINGS what {name}.{column} is")
        to = f", → `{leads[column]}`" if column in leads else ""
        lines.append(f"| `{column}` | {kind}{', key' if key else '' if required else ', or null'} | {meaning}{to} |")
    return "\n".join(lines)


def _said() -> dict[str, tuple[str, dict[str, tuple[str, str]]]]:
    """{table: (what it is, {column: (type, comment)})} in PostgreSQL's migrations."""
    found: dict[str, tuple[str, dict[str, tuple[str, str]]]] = {}
    for migration in sql.migrations("postgresql"):
        for name, what, body in TABLE.findall(migration.text):
            found[name] = (what, {column: (kind, said) for column, kind, said in COLUMN.findall(body)})
        for name, column, kind, said in ADDED.findall(migration.text):
            found[name][1][column] = (kind, said)
    return found


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
