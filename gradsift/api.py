"""What the command line does, as functions: a store is a folder or an open `Store`, nothing is printed.

Each function imports what it needs when it is called, so that `import gradsift` is quick. All raise InputError for what
the caller can mend, and for a folder that is no store; only `run` makes one.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from gradsift.pipelines.progress import Progress, quiet

if TYPE_CHECKING:
    from gradsift.datastore.maintenance import Damage
    from gradsift.datastore.overview import Table
    from gradsift.datastore.runs import MixtureReport, RunResult, SelectionReport
    from gradsift.datastore.store import Store
    from gradsift.datastore.versions import Entry
    from gradsift.pipelines.export.diff import Difference
    from gradsift.pipelines.pool.marked import Marked
    from gradsift.pipelines.recipe import Recipe
    from gradsift.pipelines.runs.query import Answer

AnyPath: TypeAlias = str | Path
AnyStore: TypeAlias = "Store | str | Path"


def open_store(store: AnyPath) -> "Store":
    """Open a store that is there, for a `with` block or to be closed. Raises InputError for a folder that is none."""
    from gradsift.datastore.store import Store

    return Store(store, create=False)


@contextmanager
def _opened(store: AnyStore) -> "Iterator[Store]":
    """The store, closed afterwards only where it was given as a folder."""
    if not isinstance(store, str | Path):
        yield store
        return
    with open_store(store) as opened:
        yield opened


def run(
    recipe: "Recipe | Mapping[str, Any] | str | Path",
    store: AnyStore = "store",
    *,
    export_to: AnyPath | None = None,
    new_warmup: bool | None = None,
    progress: Progress = quiet,
) -> "RunResult":
    """Run a recipe (file, mapping or Recipe), or finish an interrupted run. Makes the store; uses no Prefect."""
    from gradsift.datastore.store import Store
    from gradsift.pipelines.recipe import Recipe, load_recipe, parse_recipe
    from gradsift.pipelines.runs.curate import curate

    if isinstance(recipe, str | Path):
        recipe = load_recipe(Path(recipe))
    elif not isinstance(recipe, Recipe):
        recipe = parse_recipe(dict(recipe))
    root = None if export_to is None else Path(export_to)
    if not isinstance(store, str | Path):
        return curate(recipe, store, export_root=root, new_warmup=new_warmup, progress=progress)
    with Store(store) as opened:
        return curate(recipe, opened, export_root=root, new_warmup=new_warmup, progress=progress)


def select(
    method: str,
    *,
    examples: int | None = None,
    fraction: float | None = None,
    label_tokens: int | None = None,
    target: str | None = None,
    rule: str | None = None,
    options: Mapping[str, Any] | None = None,
    encoder: AnyPath | None = None,
    checkpoint: int | None = None,
    seed: int | None = None,
    memory: str | None = None,
    name: str | None = None,
    store: AnyStore = "store",
    progress: Progress = quiet,
) -> "Sequence[SelectionReport]":
    """Select by another method from what the last run computed: a report for each target. Loads no model."""
    from gradsift.pipelines.runs.reselect import reselect

    where = None if encoder is None else str(Path(encoder).expanduser().resolve())
    section = {"method": method, "rule": rule, "options": dict(options or {}), "encoder": where,
               "examples": examples, "fraction": fraction, "label_tokens": label_tokens}  # fmt: skip
    with _opened(store) as opened:
        return reselect(opened, section, target=target, checkpoint=checkpoint, name=name, seed=seed, memory=memory,
                        progress=progress)  # fmt: skip


def mix(
    settings: Mapping[str, Any],
    *,
    name: str | None = None,
    seed: int | None = None,
    store: AnyStore = "store",
    progress: Progress = quiet,
) -> "MixtureReport":
    """Make another mixture, by the fields of a recipe's `mix`, from what the last run read and computed."""
    from gradsift.pipelines.runs.reselect import remix

    with _opened(store) as opened:
        return remix(opened, dict(settings), name=name, seed=seed, progress=progress)


def query(
    text: str | None = None,
    *,
    answer: str | None = None,
    id: str | None = None,  # noqa: A002 - the name of the command's flag
    k: int = 10,
    checkpoint: int | Literal["all"] | None = None,
    opposed: bool = False,
    everything: bool = False,
    index: str | None = None,
    store: AnyStore = "store",
) -> "Answer":
    """The training rows whose gradients are most like a chat's, or like those of a stored example (start of its id)."""
    from gradsift.datastore.errors import InputError

    if (text is None) == (id is None) or k < 1:
        raise InputError("give either a text or an id, and k of at least 1")
    with _opened(store) as opened:
        from gradsift.datastore.examples import find_prefix
        from gradsift.pipelines.runs.query import query_by_id, query_by_text

        if id is not None:
            found = find_prefix(opened, id)
            return query_by_id(opened, found, k, checkpoint, everything=everything, index=index, opposed=opposed)
        return query_by_text(opened, text or "", answer, k, checkpoint, everything=everything, index=index,
                             opposed=opposed)  # fmt: skip


def diff(one: str, other: str, *, examples: int = 3, store: AnyStore = "store") -> "Difference":
    """Compare two selections, mixtures or pools of a store by name or version."""
    from gradsift.pipelines.export.diff import diff as compare

    with _opened(store) as opened:
        return compare(opened, one, other, examples)


def marks(*, reason: str | None = None, k: int = 10, store: AnyStore = "store") -> "Marked":
    """What the last run's screening left out, each beside its twin; `k` pairs."""
    from gradsift.pipelines.pool.marked import marked

    with _opened(store) as opened:
        return marked(opened, reason, k)


def log(name: str | None = None, *, store: AnyStore = "store") -> "list[Entry]":
    """The numbered versions of pools, selections and mixtures, those of the newest run first."""
    from gradsift.datastore import versions

    with _opened(store) as opened:
        return versions.log(opened, name)


def status(*, store: AnyStore = "store") -> "dict[str, Table]":
    """What a store holds, as lists of rows by name."""
    from gradsift.datastore.overview import overview

    with _opened(store) as opened:
        return overview(opened)


def verify(store: AnyStore = "store") -> "list[Damage]":
    """Check every byte of a store against its digests: what is damaged, or nothing. Changes nothing."""
    from gradsift.datastore.maintenance import verify as check

    with _opened(store) as opened:
        return check(opened)
