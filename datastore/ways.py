"""What the catalog knows of the way of an example, and of what became of the rows of a file."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from gradsift.datastore import versions
from gradsift.datastore.engine import Row, marks
from gradsift.datastore.identity import digest_ids
from gradsift.datastore.selections import MIXTURE
from gradsift.datastore.store import Store
from gradsift.datastore.where import newest_screenings

NUMBER = "(SELECT max(number) FROM version AS v WHERE v.{0}_id = {1}.{0}_id) AS number"
NO_LABEL = ("no_labels", "unrenderable")  # statuses of examples that a training leaves out


@dataclass(frozen=True)
class Member:
    """A version of a pool, target or test set that has an example; `version` is '' where it has no number, `void` says
    why it does not hold any more."""

    dataset_id: int
    role: str
    name: str
    version: str
    subtask: str
    void: str | None


@dataclass(frozen=True)
class Choice:
    """A selection or mixture that holds an example: `rank` from 0, `copies` in it; source and licence as they were
    then."""

    selection_id: int
    kind: str
    name: str
    target: str
    method: str
    digest: str
    version: str
    rank: int
    score: float | None
    copies: int
    source: str | None
    licence: str | None
    void: str | None

    @property
    def reference(self) -> str:
        """What names this one: its version, else NAME@DIGEST."""
        return self.version or f"{self.name}@{self.digest[:12]}"


@dataclass(frozen=True)
class Scored:
    """What a selection's method said of an example: its score (higher is taken first), its rank by that among `of`
    (from 0, ties share it), and its cluster or part of the mixture. None is what it does not say."""

    name: str
    version: str
    target: str
    method: str
    score: float | None
    rank: int | None
    of: int
    cluster: str | None
    part: str | None


@dataclass(frozen=True)
class Training:
    """A recorded training of a validation: what it was, a digest of its rows, and its mean loss by test set."""

    arm: str
    targets: str
    seed: int
    lr: float | None
    rows: str
    examples: int
    diverged: bool
    losses: dict[str, float]


@dataclass(frozen=True)
class Taken:
    """How many examples of a file a selection or mixture holds, and how many rows they are, copies counted."""

    kind: str
    reference: str
    target: str
    method: str
    examples: int
    rows: int
    void: str | None


def starting_with(store: Store, start: str, most: int) -> list[str]:
    """Some of the examples whose ids begin with hexadecimal digits."""
    rows = store.catalog.rows(
        "SELECT example_id FROM example WHERE example_id >= ? AND example_id < ? ORDER BY example_id LIMIT ?",
        (start, f"{start}g", most),
    )
    return [str(row["example_id"]) for row in rows]


def selections(store: Store) -> list[int]:
    """Numbers of all selections and mixtures."""
    return [int(row["n"]) for row in store.catalog.rows("SELECT selection_id AS n FROM selection ORDER BY 1")]


def members(store: Store, example: str) -> list[Member]:
    """Versions of datasets that have an example, in the order in which they were made."""
    rows = store.catalog.rows(
        f"SELECT d.dataset_id, d.role, d.name, d.void, m.subtask, {NUMBER.format('dataset', 'd')} "
        "FROM dataset_member AS m JOIN dataset AS d USING (dataset_id) WHERE m.example_id=? ORDER BY d.dataset_id",
        (example,),
    )
    return [
        Member(row["dataset_id"], row["role"], row["name"], _label("pool", row), row["subtask"], row["void"])
        for row in rows
    ]


def choices(store: Store, example: str) -> list[Choice]:
    """Selections and mixtures that hold an example, void ones too, in the order in which they were made. Cost: a pass
    over all chosen rows."""
    rows = store.catalog.rows(
        f"SELECT s.*, i.rank, i.score, i.copies, i.source, i.licence, {NUMBER.format('selection', 's')} FROM "
        "selection_item AS i JOIN selection AS s USING (selection_id) WHERE i.example_id=? ORDER BY s.selection_id",
        (example,),
    )
    same = ("selection_id", "name", "target", "method", "digest", "rank", "score", "copies", "source", "licence",
            "void")  # fmt: skip
    return [
        Choice(kind=_kind(row), version=_label("selection", row), **{name: row[name] for name in same}) for row in rows
    ]


def scored(store: Store, example: str) -> list[Scored]:
    """What the methods of the selections that hold said of an example, chosen or not. Cost: two columns of each table
    of scores."""
    rows = store.catalog.rows(
        f"SELECT s.*, {NUMBER.format('selection', 's')} FROM selection AS s WHERE s.void IS NULL "
        "AND s.scores_shard IS NOT NULL ORDER BY s.selection_id"
    )
    return [told for row in rows if (told := _scored(store, row, example)) is not None]


def _scored(store: Store, row: Row, example: str) -> Scored | None:
    with store.open(row["scores_shard"]) as opened:
        file = pq.ParquetFile(opened, page_checksum_verification=True)
        there = [name for name in ("score", "cluster", "part") if name in file.schema_arrow.names]
        table = file.read(["example_id", *there])
    at = pc.index(table["example_id"], example).as_py()
    if at < 0:
        return None
    said = {name: table[name][at].as_py() for name in there}
    score, rank = said.get("score"), None
    if score is not None:
        rank = int(pc.sum(pc.greater(table["score"], score)).as_py() or 0)
    name, version = row["name"], _label("selection", row)
    cluster, part = (None if said.get(of) is None else str(said[of]) for of in ("cluster", "part"))
    return Scored(name, version, row["target"], row["method"], score, rank, table.num_rows, cluster, part)


def warmups(store: Store, example: str) -> list[str]:
    """Fingerprints of the warm-ups that are known to have trained on an example."""
    rows = store.catalog.rows(
        "SELECT fingerprint FROM warmup_example WHERE example_id=? ORDER BY fingerprint", (example,)
    )
    return [str(row["fingerprint"]) for row in rows]


def trainings(store: Store) -> list[Training]:
    """Recorded trainings of validations, in the order in which they were made."""
    found = []
    for row in store.catalog.rows("SELECT name, target, seed, spec, result FROM arm ORDER BY created, arm_key"):
        spec, result = json.loads(row["spec"]), json.loads(row["result"])
        if "tests" in result:  # else a run of a mixing law
            losses = {name: measured["loss"] for name, measured in result["tests"].items()}
            found.append(
                Training(row["name"], row["target"], row["seed"], (spec.get("training") or {}).get("lr"),
                         str(spec.get("examples")), result["examples"], bool(result.get("diverged")), losses)
            )  # fmt: skip
    return found


def digests_of_rows(store: Store, selection_id: int) -> set[str]:
    """Digests that the rows of a selection have as those of a training: with and without examples that a model could
    make no label of."""
    rows = store.catalog.rows(
        "SELECT example_id, copies FROM selection_item WHERE selection_id=? ORDER BY rank", (selection_id,)
    )
    return _with_and_without(store, [row["example_id"] for row in rows for _ in range(row["copies"])])


def digests_of_members(store: Store, dataset_id: int) -> set[str]:
    """The same of all members of a dataset."""
    rows = store.catalog.rows(
        "SELECT example_id FROM dataset_member WHERE dataset_id=? ORDER BY example_id", (dataset_id,)
    )
    return _with_and_without(store, [row["example_id"] for row in rows])


def _with_and_without(store: Store, ids: Sequence[str]) -> set[str]:
    rows = store.catalog.rows(
        f"SELECT DISTINCT example_id FROM feature_row WHERE status IN ({marks(NO_LABEL)})", NO_LABEL
    )
    without = {row["example_id"] for row in rows}
    return {digest_ids(ids), digest_ids([name for name in ids if name not in without])}


def files_named(store: Store, name: str) -> list[str]:
    """Files that rows were read from, examples or refused, by the whole path or its end after a slash; sorted."""
    rows = store.catalog.rows(
        "SELECT file FROM origin WHERE file=? OR substr(file, length(file) - length(?) + 1) = ? UNION "
        "SELECT file FROM quarantine WHERE file=? OR substr(file, length(file) - length(?) + 1) = ? ORDER BY 1",
        (name, f"/{name}", f"/{name}") * 2,
    )
    return [str(row["file"]) for row in rows]


def some_files(store: Store, count: int) -> list[str]:
    """Some of the files that examples were read from, sorted."""
    rows = store.catalog.rows("SELECT DISTINCT file FROM origin WHERE file <> '' ORDER BY file LIMIT ?", (count,))
    return [str(row["file"]) for row in rows]


def at_line(store: Store, file: str, line: int) -> list[str]:
    """Ids of the examples that a line of a file gave, sorted."""
    rows = store.catalog.rows("SELECT example_id FROM origin WHERE file=? AND line=? ORDER BY 1", (file, line))
    return [str(row["example_id"]) for row in rows]


def lines_of(store: Store, file: str) -> list[tuple[int, str]]:
    """(line, id) of the rows of a file that became examples, in order."""
    rows = store.catalog.rows("SELECT line, example_id FROM origin WHERE file=? ORDER BY line, example_id", (file,))
    return [(int(row["line"]), str(row["example_id"])) for row in rows]


OF_FILE = "(SELECT DISTINCT example_id FROM origin WHERE file=?)"


def left_out(store: Store, file: str) -> dict[str, str]:
    """{id: why} of the examples of a file that the newest run's screenings left out."""
    numbers = newest_screenings(store)
    rows = store.catalog.rows(
        f"SELECT example_id, reason FROM mark WHERE screening_id IN ({marks(numbers) or 'NULL'}) "
        f"AND example_id IN {OF_FILE} ORDER BY example_id",
        (*numbers, file),
    )
    return {str(row["example_id"]): str(row["reason"]) for row in rows}


def taken(store: Store, file: str) -> list[Taken]:
    """Selections and mixtures that hold examples of a file, in the order in which they were made."""
    rows = store.catalog.rows(
        f"SELECT s.*, {NUMBER.format('selection', 's')}, n.examples, n.rows FROM selection AS s JOIN "
        "(SELECT selection_id, count(*) AS examples, sum(copies) AS rows FROM selection_item "
        f"WHERE example_id IN {OF_FILE} GROUP BY selection_id) AS n USING (selection_id) ORDER BY s.selection_id",
        (file,),
    )
    return [
        Taken(
            _kind(row),
            _label("selection", row) or f"{row['name']}@{row['digest'][:12]}",
            row["target"],
            row["method"],
            int(row["examples"]),
            int(row["rows"]),
            row["void"],
        )
        for row in rows
    ]


def holders(store: Store, file: str) -> dict[str, list[str]]:
    """{id: the selections and mixtures that hold it and are not void}, of the examples of a file."""
    rows = store.catalog.rows(
        f"SELECT i.example_id, s.name, s.digest, {NUMBER.format('selection', 's')} FROM selection_item AS i "
        f"JOIN selection AS s USING (selection_id) WHERE s.void IS NULL AND i.example_id IN {OF_FILE} "
        "ORDER BY i.example_id, s.selection_id",
        (file,),
    )
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["example_id"], []).append(
            _label("selection", row) or f"{row['name']}@{row['digest'][:12]}"
        )
    return found


def _kind(row: Any) -> str:
    return "mixture" if row["method"] == MIXTURE else "selection"


def _label(kind: str, row: Any) -> str:
    return "" if row["number"] is None else versions.label(kind, row["name"], row["number"])
