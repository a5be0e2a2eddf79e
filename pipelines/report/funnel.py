"""Where the rows of a pool went: each row that was read is counted in exactly one line."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gradsift.datastore.runs import Counts, LeftOut, PoolReport, RunResult
from gradsift.pipelines.pool.warnings import warnings
from gradsift.pipelines.report import charts
from gradsift.pipelines.report.parts import Part
from gradsift.pipelines.tables import Row

WHAT = {
    "quarantined": "refused",
    "filtered": "left out by `where`",
    "not drawn": "beyond the sample of `rows`",
    "deleted": "deleted before",
    "duplicates": "repeat another row's chat",
    "test rows": "rows of a test set",
    "screened": "near-duplicates and leaks",
    "unusable": "not usable by the model",
}
STATUSES = {
    "no_labels": "no label token within encoding.max_length",
    "unrenderable": "the chat template refuses it",
    "non_finite": "its gradient is not finite",
    "zero": "its gradient is zero",
    "missing": "not computed",
}
NEXT = {
    "quarantined": "gradsift quarantine",
    "deleted": "gradsift revive",
    "screened": "gradsift marks",
    "unusable": "gradsift quarantine --reason no_labels",
}
SOURCES = 40  # rows of the table by source


@dataclass(frozen=True)
class Line:
    """Rows that went one way: an outcome (`WHAT`), for one reason where there are several; by source where known."""

    outcome: str
    reason: str
    rows: int
    by_source: Counts = field(default_factory=dict)

    @property
    def words(self) -> str:
        """The outcome and its reason."""
        return f"{WHAT[self.outcome]}: {self.reason}" if self.reason else WHAT[self.outcome]


@dataclass(frozen=True)
class Funnel:
    """Rows `read` = rows of all `out` lines + rows `used`. `chosen` are distinct examples by selection and mixture."""

    read: int
    out: Sequence[Line]
    used: int
    chosen: Counts
    read_by_source: Counts = field(default_factory=dict)  # empty for runs of older versions
    used_by_source: Counts = field(default_factory=dict)


def funnel(result: RunResult) -> Funnel:
    """Where the rows of a run's pool went. Of runs of older versions, sources are not known."""
    pool = result.ingest.pool
    out = [line for line in _lines(pool, unusable_of(result)) if line.rows]
    read_by_source = pool.went.get("read", {})
    used = pool.left - sum(line.rows for line in out if line.outcome == "unusable")
    by_source = Counter(read_by_source)
    for line in out:
        by_source.subtract(line.by_source)
    chosen = {made.name: made.examples for made in result.made}
    known = {source: rows for source, rows in by_source.items() if rows} if read_by_source else {}
    return Funnel(pool.rows_read, out, used, chosen, read_by_source, known)


def _lines(pool: PoolReport, unusable: Sequence[LeftOut]) -> Iterator[Line]:
    went = pool.went
    first = {
        "quarantined": sum(pool.quarantined.values()),
        "filtered": pool.filtered,
        "not drawn": pool.not_drawn,
        "deleted": pool.deleted,
        "duplicates": pool.duplicates,
    }
    yield from (Line(outcome, "", rows, went.get(outcome, {})) for outcome, rows in first.items())
    yield Line("test rows", "", pool.left_out_test_rows, pool.test_rows_by_source)
    yield from (Line("screened", one.reason, one.examples, one.by_source) for one in pool.left_out)
    yield from (Line("unusable", one.reason, one.examples, one.by_source) for one in unusable)


def unusable_of(result: RunResult) -> Sequence[LeftOut]:
    """Examples that screening left and the model cannot use, by status; of older runs, those at the last checkpoint."""
    if result.unusable is not None:
        return result.unusable
    rows = result.pool_rows
    statuses: Counts = rows[-1].statuses if rows else {}
    return [LeftOut(status, count, {}) for status, count in statuses.items() if status != "ok"]


def as_rows(counted: Funnel) -> list[Row]:
    """The funnel as a table: what happened, rows, what is left after it, and the command that shows more."""
    left = counted.read
    rows: list[Row] = [{"where rows went": "read", "rows": left, "left": left, "see": ""}]
    for line in counted.out:
        left -= line.rows
        rows.append({"where rows went": line.words, "rows": line.rows, "left": left, "see": _see(line)})
    rows.append({"where rows went": "used", "rows": counted.used, "left": counted.used, "see": ""})
    for name, chosen in counted.chosen.items():
        rows.append({"where rows went": f"chosen: {name}", "rows": chosen, "left": "", "see": ""})
    return rows


def _see(line: Line) -> str:
    return f"gradsift quarantine --reason {line.reason}" if line.outcome == "unusable" else NEXT.get(line.outcome, "")


def by_source(counted: Funnel) -> list[Row]:
    """One line for each source, the one that lost the largest share first: rows read, where they went, used. The
    columns but `read` and `lost` add up to `read`."""
    outcomes = dict.fromkeys(line.outcome for line in counted.out)
    rows: list[Row] = []
    for source, read in counted.read_by_source.items():
        lost = {
            outcome: sum(line.by_source.get(source, 0) for line in counted.out if line.outcome == outcome)
            for outcome in outcomes
        }
        used = counted.used_by_source.get(source, 0)
        rows.append({"source": source, "read": read, **lost, "used": used, "lost": f"{(read - used) / read:.0%}"})
    return sorted(rows, key=lambda row: (row["used"] / row["read"], -row["read"], row["source"]))[:SOURCES]


def funnel_parts(result: RunResult) -> list[Part]:
    """What the report shows of it: a picture with its table, the table by source, warnings."""
    counted = funnel(result)
    steps = [("read", counted.read, 0)]
    left = counted.read
    for line in counted.out:
        left -= line.rows
        steps.append((line.words, left, line.rows))
    steps.append(("used", counted.used, 0))
    steps += [(f"chosen: {name}", chosen, 0) for name, chosen in counted.chosen.items()]
    parts = [
        Part(
            "Where the rows went",
            as_rows(counted),
            charts.funnel("Where the rows went", steps),
            "Each row that was read is in exactly one line: those that went and those that are used add up to it. "
            "Dark: rows that are left; orange: rows that went.",
        )
    ]
    if by := by_source(counted):
        parts.append(Part("Where the rows of each source went", by, note="The source that lost most comes first."))
    if told := warnings(result.ingest):
        parts.append(Part("Files and rows that were not read", [{"warning": text} for text in told]))
    return parts


def left_over(counted: Funnel) -> int:
    """Rows that no line accounts for: 0."""
    return counted.read - sum(line.rows for line in counted.out) - counted.used


def document(result: RunResult) -> Mapping[str, object]:
    """The funnel as plain data, and the warnings beside it."""
    counted = funnel(result)
    return {
        "funnel": {
            "read": counted.read,
            "out": [
                {"outcome": one.outcome, "reason": one.reason, "rows": one.rows, "by_source": dict(one.by_source)}
                for one in counted.out
            ],
            "used": counted.used,
            "used_by_source": dict(counted.used_by_source),
            "chosen": dict(counted.chosen),
        },
        "warnings": warnings(result.ingest),
    }
