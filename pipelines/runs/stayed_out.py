"""Rows that stayed out, to look at one by one: refused when they were read, or of no use to the last run's model."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

from gradsift.datastore import examples, quarantine
from gradsift.datastore.errors import InputError
from gradsift.datastore.quarantine import Asked
from gradsift.datastore.runs import Run, last_run
from gradsift.datastore.store import Store
from gradsift.datastore.unusable import Unusable, unusable
from gradsift.pipelines.tables import first_turn, printable

EXCERPT_CHARS = 120
BATCH = 500


@dataclass(frozen=True)
class Stayed:
    """A row that stayed out: where it is, why, and the start of it. One that became an example has its id."""

    role: str
    dataset: str
    file: str
    line: int
    source: str
    reason: str
    detail: str
    excerpt: str
    example_id: str = ""


@dataclass(frozen=True)
class Kind:
    """How many rows of a source stayed out for one reason, and where the first of them is."""

    source: str
    reason: str
    rows: int
    role: str
    dataset: str
    first: str


def kinds(store: Store, asked: Asked = quarantine.ANY) -> list[Kind]:
    """Rows that stayed out by dataset, source and reason, the most first."""
    refused = [Kind(**row) for row in quarantine.summary(store, asked)]
    counts: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], str] = {}
    run = _computed(store)
    for one in _unusable(store, run, asked):
        counts[one.source, one.status] += 1
        first.setdefault((one.source, one.status), f"{one.file}:{one.line}")
    name = run.name if run else ""
    found = [Kind(*key, rows, "pool", name, first[key]) for key, rows in counts.items()]
    return sorted([*refused, *found], key=lambda kind: (-kind.rows, kind.source, kind.reason, kind.role, kind.dataset))


def stayed_out(store: Store, asked: Asked = quarantine.ANY, limit: int | None = None) -> Iterator[Stayed]:
    """Refused rows by file and line, then rows of the last run's pool that its model cannot use; read a part at a
    time."""
    refused = (Stayed(**vars(entry)) for entry in quarantine.entries(store, asked))
    return islice(chain(refused, _of_the_model(store, asked)), limit)


def _of_the_model(store: Store, asked: Asked) -> Iterator[Stayed]:
    run = _computed(store)
    found = _unusable(store, run, asked)
    while part := list(islice(found, BATCH)):
        chats = examples.get_messages(store, [one.example_id for one in part])
        for one in part:
            text = printable(first_turn(chats.get(one.example_id, []), "user", EXCERPT_CHARS))
            detail = _advice(run, one.status) if run else ""
            yield Stayed(
                "pool",
                run.name if run else "",
                one.file,
                one.line,
                one.source,
                one.status,
                detail,
                text,
                one.example_id,
            )


def _computed(store: Store) -> Run | None:
    try:
        return last_run(store, computed=True)
    except InputError:
        return None  # no run has finished


def _unusable(store: Store, run: Run | None, asked: Asked) -> Iterator[Unusable]:
    if run is None:
        return iter(())
    pool = run.result.ingest.pool
    spaces: Sequence[int] = [row.space_id for row in run.result.pool_rows]
    found = unusable(store, pool.used_dataset_id, spaces) if pool.used_dataset_id is not None else iter(())
    return (one for one in found if _is_asked(one, asked))


def _is_asked(one: Unusable, asked: Asked) -> bool:
    return (
        asked.source in (None, one.source)
        and asked.reason in (None, one.status)
        and (asked.file is None or one.file == asked.file or one.file.endswith(f"/{asked.file}"))
    )


def _advice(run: Run, status: str) -> str:
    """Why the model cannot use it, and what to do."""
    encoding = run.recipes.resolved.get("encoding", {})
    if status == "no_labels":
        other = "" if encoding.get("truncation") == "keep_answer" else ", or set encoding.truncation: keep_answer"
        return f"no label token within encoding.max_length ({encoding.get('max_length')}): raise it{other}"
    return {
        "unrenderable": "the chat template refuses it, does not render it turn by turn, or leaves out tools or calls",
        "non_finite": "its gradient is not finite: look at the row, or compute in float32",
        "zero": "its gradient is zero: the model has nothing to learn from it",
    }.get(status, "its row was not computed; run the recipe again")
