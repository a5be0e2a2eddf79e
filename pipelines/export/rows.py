"""The rows of an export: which copy of which chat stands where, written part by part within bounded memory.

Two passes. The first reads each shard of examples once and appends every wanted chat to the part that it belongs to
(plain Arrow files); the second sorts one part at a time and writes it as a reader will see it. Memory is one row group
and one part, however large the mixture; disk is twice the text while it runs. What either pass has finished, a later
call uses, if it still has its digest (`partial`).

Rows of a selection come in rank order, those of a mixture in an order drawn from the seed, the example's id and the
number of its copy: the same on every machine, whatever order the sources were read in. Legend: K distinct examples in
rank order, R rows (copies counted).
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gradsift.datastore import chats, examples, groups, selections
from gradsift.datastore.chats import MESSAGES_TYPE, Messages
from gradsift.datastore.errors import CorruptionError
from gradsift.datastore.files import fsync_folder, fsync_path
from gradsift.datastore.selections import MIXTURE, Selection
from gradsift.datastore.store import Store
from gradsift.pipelines.export import partial, turns
from gradsift.pipelines.model.encode import encode
from gradsift.pipelines.progress import Progress
from gradsift.pipelines.recipe import Encoding
from gradsift.scorers.ngrams import mix as mix_bits

PART_CHARS = 128 << 20  # text of a part; at most twice that, unless one row has more: what the second pass holds, twice
LINES, LINES_CHARS = 1024, 8 << 20  # JSON lines that are made at once
IGNORED = -100  # the label that losses skip, as torch and transformers have it
SPILL = "spill"
I64 = NDArray[np.int64]
SPILL_SCHEMA = pa.schema([("place", pa.int64()), ("messages", MESSAGES_TYPE), ("more", pa.string())])


@dataclass(frozen=True)
class Layout:
    """What goes where: [R] item of each row in its final order, [R] number of its copy, and [K] facts of the items."""

    item: I64
    copy: I64
    starts: I64  # [parts + 1] first row of each part, and R
    chars: I64  # [K]
    facts: pa.Table  # example_id, source, licence, rank, score, and what the selection's details add

    @property
    def parts(self) -> int:
        """Files to write."""
        return len(self.starts) - 1


def layout(store: Store, selection: Selection, seed: int, *, bounded: bool = True) -> Layout:
    """Where each row of a selection goes; not `bounded`, in parts of equal rows whatever text they have. Memory: about
    200 bytes a row."""
    known = selections.facts(store, selection)
    if len(known.chars) != len(selection.example_ids):
        raise CorruptionError("some selected examples are no longer in the store; select again")
    copies = np.array(selection.copies, np.int64)
    item = np.repeat(np.arange(len(copies)), copies)
    copy = np.arange(len(item)) - np.repeat(np.cumsum(copies) - copies, copies)
    if selection.method == MIXTURE:
        keys = np.array([int(i[:16], 16) for i in selection.example_ids], np.uint64)[item]
        keys = mix_bits(mix_bits(keys ^ np.uint64(seed)) + copy.astype(np.uint64))
        order = np.lexsort((copy, item, keys))
        item, copy = item[order], copy[order]
    chars = np.array(known.chars, np.int64)
    facts = {
        "example_id": pa.array(selection.example_ids, pa.string()),
        "source": pa.array(known.sources, pa.string()),
        "licence": pa.array(known.licences, pa.string()),
        "rank": pa.array(np.arange(len(copies)), pa.int64()),
        "score": pa.array(selection.scores, pa.float64()),
        **_details(store, selection),
    }
    return Layout(item, copy, _starts(chars[item], bounded=bounded), chars, pa.table(facts))


def _starts(chars: I64, *, bounded: bool) -> I64:
    """Parts of equal rows, as rows of usual sizes fill them; one of far more text than others is cut by its text: Arrow
    has no column of more than 2 GiB."""
    each = max(1, -(-len(chars) // max(1, -(-int(chars.sum()) // PART_CHARS))))
    starts = []
    for first in range(0, len(chars), each):
        part = chars[first : first + each]
        cut = bounded and part.sum() > 2 * PART_CHARS
        spans = groups.spans(part.tolist(), each, PART_CHARS) if cut else [(0, each)]
        starts += [first + start for start, _ in spans]
    return np.array([*(starts or [0]), len(chars)], np.int64)


def _details(store: Store, selection: Selection) -> dict[str, pa.Array]:
    """Columns `part` and `cluster`, where the selection's details have them, in rank order."""
    table = selections.details(store, selection)
    wanted = [n for n in ("part", "cluster") if table is not None and n in table.column_names]
    if table is None or not wanted:
        return {}
    names = np.array(table["example_id"].to_pylist(), "S32")
    order = np.argsort(names)
    rows = order[np.searchsorted(names[order], np.array(selection.example_ids, "S32"))]
    return {name: table[name].combine_chunks().take(pa.array(rows)).cast(_plain(table[name].type)) for name in wanted}


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def spill(store: Store, plan: Layout, staging: Path, progress: Progress) -> None:
    """First pass: the chats of each part into a file of its own, `place` being the row's final position. Those of an
    earlier call are used if all are whole.

    Raises CorruptionError when an example's text is not where the catalog says.
    """
    folder, unfinished = staging / SPILL, staging / f"{SPILL}.tmp"
    spilled = [_spilled(number) for number in range(plan.parts)]
    if len(partial.whole(folder, spilled)) == plan.parts:
        return
    for left in (folder, unfinished):
        shutil.rmtree(left, ignore_errors=True)
    unfinished.mkdir()
    names = np.array(plan.facts["example_id"].to_pylist(), "S32")
    by_name = np.argsort(names)
    by_item = np.argsort(plan.item, kind="stable")
    start = np.searchsorted(plan.item[by_item], np.arange(len(names) + 1))
    seen = 0
    files = [pa.OSFile(str(unfinished / f".tmp-{name}"), "wb") for name in spilled]
    writers = [pa.ipc.new_file(file, SPILL_SCHEMA) for file in files]
    shards = examples.shards_of(store, plan.facts["example_id"].to_pylist())
    tables = ((number, table) for number, shard in enumerate(shards, 1) for table in examples.read_groups(store, shard))
    for number, table in tables:
        in_shard = np.array(table["example_id"].to_pylist(), "S32")
        at = np.minimum(np.searchsorted(names[by_name], in_shard), len(names) - 1)
        hit = np.flatnonzero(names[by_name][at] == in_shard)
        items = by_name[at[hit]]
        counts = start[items + 1] - start[items]
        rows = np.repeat(hit, counts)
        places = np.concatenate([by_item[start[k] : start[k + 1]] for k in items]) if len(items) else rows
        seen += len(items)
        part = np.searchsorted(plan.starts, places, side="right") - 1
        for k in np.unique(part).tolist():
            mine = np.flatnonzero(part == k)
            taken = table.take(pa.array(rows[mine])).combine_chunks()
            more = taken["more"] if "more" in taken.column_names else pa.nulls(len(mine), pa.string())
            writers[k].write_table(pa.table([pa.array(places[mine]), taken["messages"], more], schema=SPILL_SCHEMA))
        progress("export: reading chats", number, len(shards))
    for writer, file in zip(writers, files, strict=True):
        writer.close()
        file.close()
    if seen != len(names):
        raise CorruptionError(
            f"{len(names):,} examples are selected, and their shards hold {seen:,} of these; run `gradsift verify`"
        )
    for name in spilled:
        partial.finish(unfinished, unfinished / f".tmp-{name}", name)
    fsync_path(unfinished / partial.NOTES)
    fsync_folder(unfinished)
    unfinished.rename(folder)
    fsync_folder(staging)


def _spilled(number: int) -> str:
    """Name of a part's file of the first pass."""
    return f"{number}.arrow"


def has_objects(plan: Layout, staging: Path) -> bool:
    """Whether what the first pass found needs `messages` as objects (`turns`)."""
    return turns.hold_more(staging / SPILL / _spilled(number) for number in range(plan.parts))


def rows_in(path: Path) -> int:
    """Rows of a part."""
    if path.suffix == ".parquet":
        return int(pq.read_metadata(path).num_rows)
    with path.open("rb") as lines:
        return sum(1 for _ in lines)


def file_name(number: int, parts: int, suffix: str) -> str:
    """Name of a part below the export, as `load_dataset` shards are named."""
    return f"data/train-{number:05d}-of-{parts:05d}.{suffix}"


def write_parts(
    plan: Layout,
    staging: Path,
    suffix: str,
    labels: "Labels | None",
    progress: Progress,
    *,
    objects: bool,
) -> dict[str, str]:
    """Second pass: each part sorted and written under its final name; those of an earlier call that are whole are kept.
    With labels, rows without any are left out. Returns {name: sha256}."""
    names = [file_name(number, plan.parts, suffix) for number in range(plan.parts)]
    whole = partial.whole(staging, names)
    for number, name in enumerate(names):
        if name not in whole:
            temporary = (staging / name).with_name(f".tmp-{Path(name).name}")
            _write_part(plan, staging, number, temporary, labels, objects=objects)
            whole[name] = partial.finish(staging, temporary, name)
        progress("export: writing parts", number + 1, plan.parts)
    fsync_folder(staging / "data")
    return {name: whole[name] for name in names}


def _write_part(
    plan: Layout, staging: Path, number: int, path: Path, labels: "Labels | None", *, objects: bool
) -> None:
    with pa.memory_map(str(staging / SPILL / _spilled(number))) as source:
        table = pa.ipc.open_file(source).read_all()
    table = table.take(pa.array(np.argsort(table["place"].to_numpy(), kind="stable")))
    mine = slice(*plan.starts[number : number + 2].tolist())
    items = pa.array(plan.item[mine])
    of_rows = chats.of_table(table) if objects or labels is not None else []
    columns = turns.as_columns(of_rows, objects=True) if objects else {"messages": table["messages"]}
    columns |= {name: plan.facts[name].take(items) for name in plan.facts.column_names}
    columns["copy"] = pa.array(plan.copy[mine], pa.int32())
    columns["weight"] = pa.array(np.ones(len(items)), pa.float64())
    finished = pa.table(columns)
    if labels is not None:
        finished = labels.add(finished, of_rows)
    if path.suffix == ".parquet":
        pq.write_table(finished, path, compression="zstd", write_page_checksum=True, use_content_defined_chunking=True)
    else:
        with path.open("w", encoding="utf-8", newline="\n") as handle:
            sizes = plan.chars[finished["rank"].to_numpy()].tolist()
            for start, end in groups.spans(sizes, LINES, LINES_CHARS):
                lines = (turns.as_objects(row) for row in finished.slice(start, end - start).to_pylist())
                handle.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


@dataclass(frozen=True)
class Labels:
    """Tokens as the recipe's tokenizer makes them; `masks` say which label tokens of an example keep their loss."""

    tokenizer: Any
    encoding: Encoding
    masks: Mapping[str, list[bool]]

    def add(self, table: pa.Table, of_rows: Sequence[Messages]) -> pa.Table:
        """The table of these chats with `input_ids`, `attention_mask` (all ones: axolotl looks for it) and `labels`
        (−100 where a token has no loss), without rows that have no label."""
        ids, labels, learnt = [], [], []
        for name, chat in zip(table["example_id"].to_pylist(), of_rows, strict=True):
            row = encode(self.tokenizer, chat, self.encoding.max_length, self.encoding.truncation)
            row = row if name not in self.masks else row.masked(self.masks[name])
            learnt.append(any(row.labelled))
            ids.append(row.input_ids)
            labels.append([t if on else IGNORED for t, on in zip(row.input_ids, row.labelled, strict=True)])
        columns = table.append_column("input_ids", pa.array(ids, pa.list_(pa.int32())))
        ones = pa.array([[1] * len(row) for row in ids], pa.list_(pa.int8()))
        columns = columns.append_column("attention_mask", ones)
        columns = columns.append_column("labels", pa.array(labels, pa.list_(pa.int32())))
        return columns.filter(pa.array(learnt, pa.bool_()))


def labels_for(
    store: Store, selection: Selection, wanted: bool, open_tokenizer: Callable[[], tuple[Any, Encoding]]
) -> Labels | None:
    """How to label a selection's rows, or None where it needs none."""
    pruned = selections.is_masked(selection)
    if not (wanted or pruned):
        return None
    tokenizer, encoding = open_tokenizer()
    return Labels(tokenizer, encoding, selections.masks(store, selection))
