"""Functions about methods: list them, select and score by another one, compare selections."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradsift.api.shared import AnyPath, AnyStore, opened, whereabouts
from gradsift.pipelines.progress import Progress, quiet

if TYPE_CHECKING:
    import pyarrow as pa

    from gradsift.datastore.runs import SelectionReport
    from gradsift.pipelines.methods.registry import MethodRow
    from gradsift.pipelines.select.overlap import Overlap


def methods() -> "list[MethodRow]":
    """List the methods: what they do, what they need and cost, where they come from.

    Returns
    -------
    list of MethodRow
        In the order of the documentation, those of other packages at the end.

    Raises
    ------
    InputError
        For a package whose methods cannot be loaded.

    Example
    -------
    >>> without_model = [row.method for row in gradsift.methods() if row.needs == "text"]
    """
    from gradsift.pipelines.methods.registry import table

    return table()


def select(
    method: str,
    *,
    examples: int | None = None,
    fraction: float | None = None,
    label_tokens: int | None = None,
    at_least: int | None = None,
    target: str | None = None,
    rule: str | None = None,
    options: Mapping[str, Any] | None = None,
    encoder: AnyPath | None = None,
    checkpoint: int | None = None,
    seed: int | None = None,
    memory: str | None = None,
    name: str | None = None,
    picture: AnyPath | None = None,
    store: AnyStore = "store",
    progress: Progress = quiet,
) -> "list[SelectionReport]":
    """Select by another method from what the store's last run computed. Loads no model.

    Parameters
    ----------
    method
        Name of a method (`gradsift.methods` lists them).
    examples
        How many examples; or give `fraction` or `label_tokens`.
    fraction
        Share of the usable pool.
    label_tokens
        Label tokens not to be exceeded but for `at_least`.
    at_least
        With `label_tokens`: so many examples even where they have more tokens than that.
    target
        Only for this target; default: all.
    rule
        Another rule than the method's.
    options
        Options of the method, by name.
    encoder
        Folder of a sentence encoder (for `embed`).
    checkpoint
        Use this checkpoint only.
    seed
        Seed of everything random; default: the recipe's.
    memory
        What the method may hold, such as "4GiB"; default: the recipe's.
    name
        Name of the selection, before the target's; default: the run's and the method's.
    picture
        For `qtuning`: write the error-uncertainty plane to this SVG file.
    store
        Folder of the store, or an open one.
    progress
        Called with the stage's name, targets done, and targets in all.

    Returns
    -------
    list of SelectionReport
        One for each target.

    Raises
    ------
    InputError
        For a method or option that is not there, a method that needs rows which the last run did not compute, or more
        memory than it may have.
    BusyError
        While a run works on the store.

    Example
    -------
    >>> (made,) = gradsift.select("bm25", fraction=0.1, store="store")
    >>> gradsift.diff(made.name, made.version, store="store").in_both == made.examples
    True
    """
    from gradsift.datastore.amounts import require_number
    from gradsift.datastore.outputs import refuse_taken

    require_number("the seed", seed)
    if picture is not None:
        refuse_taken(whereabouts(store), Path(picture), "SVG picture")
    section = _section(method, rule, options, encoder) | {
        "examples": examples, "fraction": fraction, "label_tokens": label_tokens, "at_least": at_least
    }  # fmt: skip
    with opened(store) as there:
        from gradsift.pipelines.runs.reselect import reselect  # loads torch: not for a store that is not there

        made = reselect(there, section, target=target, checkpoint=checkpoint, name=name, seed=seed, memory=memory,
                        progress=progress)  # fmt: skip
        if picture is not None:
            from gradsift.pipelines.report.plane import draw_plane

            draw_plane(there, made[0].name, Path(picture))
    return made


def score(
    method: str,
    *,
    target: str | None = None,
    options: Mapping[str, Any] | None = None,
    encoder: AnyPath | None = None,
    checkpoint: int | None = None,
    memory: str | None = None,
    out: AnyPath | None = None,
    store: AnyStore = "store",
) -> "pa.Table":
    """Score the pool by a method without choosing. Loads no model, records nothing.

    Parameters
    ----------
    method
        Name of a method that scores examples.
    target
        Its target; needed where the run has several.
    options
        Options of the method, by name.
    encoder
        Folder of a sentence encoder (for `embed`).
    checkpoint
        Use this checkpoint only.
    memory
        What the method may hold, such as "4GiB"; default: the recipe's.
    out
        Also write the table to this Parquet file.
    store
        Folder of the store, or an open one.

    Returns
    -------
    pyarrow.Table
        All usable examples, the best first: `example_id`, `source`, `score` and `label_tokens`.

    Raises
    ------
    InputError
        For a method or option that is not there, for a method that scores no example, and for several targets of which
        none is named.

    Example
    -------
    >>> best = gradsift.score("bm25", store="store").slice(0, 5).to_pylist()
    >>> best[0]["score"] >= best[-1]["score"]
    True
    """
    from gradsift.datastore.errors import InputError
    from gradsift.datastore.outputs import refuse_taken

    if out is not None:
        refuse_taken(whereabouts(store), Path(out), "Parquet file")
    with opened(store) as there:
        from gradsift.pipelines.runs.reselect import score as score_pool

        by_target = score_pool(there, _section(method, None, options, encoder), target, checkpoint, memory)
    if len(by_target) != 1:
        raise InputError(f"this store has several targets; give --target ({', '.join(by_target)})")
    (table,) = by_target.values()
    if out is not None:
        import pyarrow.parquet as pq

        pq.write_table(table, out, compression="zstd")
    return table


def overlap(
    names: Sequence[str] = (), *, target: str | None = None, k: int | None = None, store: AnyStore = "store"
) -> "Overlap":
    """Compare selections: which examples they share, and how their scores agree with each other and with length.

    Parameters
    ----------
    names
        Selections to compare; default: all of a target.
    target
        Compare the selections of this target.
    k
        Compare the first k of each instead of the whole (Jaccard index).
    store
        Folder of the store, or an open one.

    Returns
    -------
    Overlap
        Two matrices as lists of rows, and what chance alone gives.

    Raises
    ------
    InputError
        For fewer than two selections, and for several targets of which none is named.

    Example
    -------
    >>> made = [gradsift.select(method, examples=8, store="store")[0].name for method in ("bm25", "random")]
    >>> alike = gradsift.overlap(made, k=5, store="store")
    """
    from gradsift.pipelines.select.overlap import overlap as compare

    with opened(store) as there:
        return compare(there, names, target, k)


def _section(
    method: str, rule: str | None, options: Mapping[str, Any] | None, encoder: AnyPath | None
) -> "dict[str, Any]":
    where = None if encoder is None else str(Path(encoder).expanduser().resolve())
    return {"method": method, "rule": rule, "options": dict(options or {}), "encoder": where}
