"""The tables that read shards, as Polars frames: examples with what is known of them, signals, scores.

Each is read a record batch or a row group at a time, and of a shard only the columns that are asked for. What
`examples` says of an example's signals, mark, choices and role is looked up in frames of the ids that have them, which
is what its memory grows with.
"""

import json
from collections.abc import Iterator

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from gradsift.datastore import signals, tombstones, where
from gradsift.datastore.chats import all_text, of_table
from gradsift.datastore.errors import CorruptionError
from gradsift.datastore.examples import read_groups
from gradsift.datastore.identity import canonical_json
from gradsift.datastore.predicates import SIGNALS
from gradsift.datastore.readers import Frames, Names, choices, of_rows
from gradsift.datastore.selections import MASK
from gradsift.datastore.store import Store
from gradsift.datastore.tables import schema_of

BATCH = 65_536  # rows of frames that are joined from smaller ones
OF_CATALOG = ("id", "source", "licence", "chars")
OF_PLACE = ("file", "line", "extra")
OF_TEXT = ("text", "messages", "more")
OF_SCORE = ("score", "part", "cluster")
SHOWN = 12  # characters of a fingerprint


def examples(store: Store, names: Names) -> Frames:
    """Examples, a shard of them at a time; with their texts, a row group. Raises BusyError where the store is compacted
    meanwhile, CorruptionError for a damaged shard."""
    beside = _beside(store, names)
    alone = set(names) <= set(OF_CATALOG) and "id" not in names  # else what is beside them is found by their ids
    wanted = [name for name in OF_CATALOG if name in names or (name == "id" and not alone)]
    listed = ", ".join("example_id AS id" if name == "id" else name for name in wanted)
    for shard_id in where.example_shards(store):
        rows = store.catalog.rows(f"SELECT {listed} FROM example WHERE shard_id=? ORDER BY row", (shard_id,))
        if not rows:
            where.require_there(store, shard_id)
            continue
        frame = of_rows("examples", wanted, rows)
        if any(name in names for name in OF_PLACE):
            frame = frame.join(_places(store, shard_id, names), on="id", how="left", maintain_order="left")
        for other in beside:
            frame = _with_columns_of(other, frame)
        if "selected" in names:
            frame = frame.with_columns(pl.col("selected").fill_null(0))
        yield from _with_texts(store, shard_id, frame, names) if set(OF_TEXT) & set(names) else [frame]


def _with_columns_of(other: pl.DataFrame, frame: pl.DataFrame) -> pl.DataFrame:
    """A frame with what another, sorted by `id`, has of its ids; null where it has none. A join would hash the other
    one again for each shard."""
    if not other.height:
        return frame.with_columns(pl.lit(None, of.dtype).alias(of.name) for of in other.drop("id"))
    at = other["id"].search_sorted(frame["id"]).clip(0, other.height - 1)
    there = other["id"].gather(at) == frame["id"]
    return frame.with_columns(of.gather(at).set(~there, None) for of in other.drop("id"))


def _with_texts(store: Store, shard_id: int, frame: pl.DataFrame, names: Names) -> Frames:
    found = 0
    for table in read_groups(store, shard_id):
        joined = _texts(table, names).join(frame, on="id", how="inner", maintain_order="left")
        found += joined.height
        if joined.height:
            yield joined
    if found != frame.height:
        raise CorruptionError(f"shard {shard_id} (examples) does not hold what the catalog says; run `gradsift verify`")


def _texts(table: pa.Table, names: Names) -> pl.DataFrame:
    """`id` and the columns of a row group that are asked for."""
    columns = {"id": table["example_id"], "messages": table["messages"]}
    columns["more"] = table["more"] if "more" in table.column_names else pa.nulls(table.num_rows, pa.string())
    frame = _of_arrow(pa.table(columns))
    if "text" in names:
        said = pl.col("messages").list.eval(pl.element().struct.field("content")).list.join("\n")
        frame = frame.with_columns(said.alias("text"))
        whole = (
            {  # turns that hold more: calls and what they think are said, too
                k: "\n".join(map(all_text, chat))
                for k, (chat, more) in enumerate(zip(of_table(table), columns["more"].to_pylist(), strict=True))
                if more is not None
            }
            if columns["more"].null_count < table.num_rows
            else {}
        )
        if whole:
            frame = frame.with_columns(frame["text"].scatter(list(whole), list(whole.values())))
    return frame.select("id", *(name for name in OF_TEXT if name in names))


def _places(store: Store, shard_id: int, names: Names) -> pl.DataFrame:
    """The first place of each example of a shard: of those of the source that it counts as, else of all."""
    rows = store.catalog.rows(
        "SELECT o.example_id AS id, o.file, o.line, o.extra FROM example AS e JOIN origin AS o USING (example_id) "
        "WHERE e.shard_id=? ORDER BY o.example_id, CASE WHEN o.source = e.source THEN 0 ELSE 1 END, o.file, o.line",
        (shard_id,),
    )
    wanted = ["id", *(name for name in OF_PLACE if name in names)]
    return of_rows("examples", wanted, rows).unique("id", keep="first", maintain_order=True)


def _beside(store: Store, names: Names) -> list[pl.DataFrame]:
    """Frames of `id` and columns that are not of the example itself, each id once."""
    schema, frames = schema_of("examples"), []
    wanted = [name for name in names if name in SIGNALS]
    space = signals.newest_space(store) if wanted else None
    if wanted:
        of_space = [] if space is None else list(_signals(store, "examples", space, wanted))
        empty = pl.DataFrame(schema={name: schema[name] for name in ("id", *wanted)})
        frames.append(pl.concat([empty, *of_space]).sort("id"))
    for name, look in (("mark", where.screened), ("selected", where.selected), ("role", where.roles)):
        if name in names:
            known = look(store)
            frames.append(pl.DataFrame({"id": list(known), name: list(known.values())},
                                       schema={"id": pl.String, name: schema[name]}).sort("id"))  # fmt: skip
    return frames


def of_signals(store: Store, names: Names) -> Frames:
    """Signals of all feature spaces."""
    newest = signals.newest_space(store)
    ordinals = {row["digest"]: row["ordinal"] for row in store.catalog.rows("SELECT digest, ordinal FROM checkpoint")}
    for row in store.catalog.rows("SELECT space_id, fingerprint, spec FROM feature_space ORDER BY space_id"):
        spec = json.loads(row["spec"])
        same = {
            "checkpoint": ordinals.get(spec.get("checkpoint")),
            "transform": spec.get("transform"),
            "space": row["fingerprint"][:SHOWN],
            "newest": row["space_id"] == newest,
        }
        schema = schema_of("signals")
        wanted = [name for name in names if name != "id" and name not in same]
        for frame in _signals(store, "signals", row["space_id"], wanted):
            yield frame.with_columns(pl.lit(same[name], schema[name]).alias(name) for name in names if name in same)


def _signals(store: Store, table: str, space_id: int, names: Names) -> Frames:
    """`id` and signals of a space's rows, null where a shard has none."""
    schema = schema_of(table)
    for part in _joined(signals.tables(store, space_id, names)):
        frame = _of_arrow(part.rename_columns({"example_id": "id"}))
        yield frame.select(
            pl.col("id"),
            *((pl.col(n) if n in frame.columns else pl.lit(None)).cast(schema[n]).alias(n) for n in names),
        )


def _joined(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Tables of more rows: a record batch is as small as a unit of work. Those of a merged shard keep their size."""
    waiting: list[pa.Table] = []
    for table in tables:
        if waiting and table.schema != waiting[0].schema:
            yield pa.concat_tables(waiting)
            waiting = []
        waiting.append(table)
        if sum(part.num_rows for part in waiting) >= BATCH:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def scores(store: Store, names: Names) -> Frames:
    """What selections and mixtures say of their pools, row group by row group."""
    going = tombstones.going(store)  # files may have these still
    for choice in choices(store, mixtures=None):
        if choice["scores_shard"] is None:
            continue
        ranks = _ranks(store, choice["selection_id"]) if "rank" in names else None
        with store.open(choice["scores_shard"]) as opened:
            file = pq.ParquetFile(opened, page_checksum_verification=True)
            for k in range(file.num_row_groups):
                frame = _scores(file.read_row_group(k), names)
                if ranks is not None:
                    frame = frame.join(ranks, on="id", how="left", maintain_order="left")
                same = [pl.lit(choice[n], schema_of("scores")[n]).alias(n) for n in names if n in choice]
                yield frame.filter(~pl.col("id").is_in(going)).with_columns(same)


def _scores(table: pa.Table, names: Names) -> pl.DataFrame:
    schema, of = schema_of("scores"), _of_arrow(table.rename_columns({"example_id": "id"}))
    told = {name: pl.col(name) if name in of.columns else pl.lit(None) for name in OF_SCORE if name in names}
    frame = of.select(pl.col("id"), *(column.cast(schema[name]).alias(name) for name, column in told.items()))
    if "details" not in names:
        return frame
    rest = [name for name in table.column_names if name not in ("example_id", MASK, *OF_SCORE)]
    text = [
        canonical_json({n: v for n, v in row.items() if v is not None and v == v})
        for row in table.select(rest).to_pylist()
    ]
    return frame.with_columns(pl.Series("details", text, pl.String))


def _ranks(store: Store, selection_id: int) -> pl.DataFrame:
    rows = store.catalog.rows("SELECT example_id AS id, rank FROM selection_item WHERE selection_id=?", (selection_id,))
    return of_rows("scores", ("id", "rank"), rows)


def _of_arrow(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)  # noqa: S101 - of a table it is
    return frame
