"""Commands about methods: list them, select and score by another one, compare selections."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from gradsift.cli.shared import DEFAULT_STORE, Json, Options, StorePath, app

if TYPE_CHECKING:
    from gradsift.pipelines.recipe import Fields


@app.command
def methods(*, json: Json = False) -> None:
    """List the methods: what they do, what they need and cost, where they come from."""
    from gradsift.cli import show
    from gradsift.pipelines.methods.registry import table

    rows = [asdict(row) for row in table()]
    show.document(rows) if json else show.table("Methods", rows, ("method", "what", "needs", "cost", "source"))


@app.command
def select(
    *,
    method: str,
    examples: int | None = None,
    fraction: float | None = None,
    label_tokens: int | None = None,
    target: str | None = None,
    rule: str | None = None,
    option: Options = (),
    encoder: Path | None = None,
    checkpoint: int | None = None,
    seed: int | None = None,
    memory: str | None = None,
    name: str | None = None,
    picture: Path | None = None,
    store: StorePath = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Select by another method from what the store's last run computed. Loads no model.

    Parameters
    ----------
    method
        Name of a method (`gradsift methods` lists them).
    examples
        How many examples; or give --fraction or --label-tokens.
    fraction
        Share of the usable pool.
    label_tokens
        Label tokens not to be exceeded.
    target
        Only for this target; default: all.
    rule
        Another rule than the method's.
    option
        An option as NAME=VALUE; may be given several times.
    encoder
        Folder of a sentence encoder (for `embed`).
    checkpoint
        Use this checkpoint only.
    seed
        Seed of everything random; default: the recipe's.
    memory
        What the method may hold, such as 4GiB; default: the recipe's.
    name
        Name of the selection, before the target's; default: the run's and the method's.
    picture
        For `qtuning`: write the error-uncertainty plane to this SVG file.
    """
    from gradsift.cli import show, tables
    from gradsift.datastore.store import Store
    from gradsift.pipelines.runs.reselect import reselect

    chosen = {**_select_section(method, rule, option, encoder), "examples": examples, "fraction": fraction,
              "label_tokens": label_tokens}  # fmt: skip
    with Store(store, create=False) as opened, show.progress() as progress:
        made = reselect(opened, chosen, target=target, checkpoint=checkpoint, name=name, seed=seed, memory=memory,
                        progress=progress)  # fmt: skip
        if picture is not None:
            from gradsift.pipelines.report.plane import draw_plane

            draw_plane(opened, made[0].name, picture)
    rows = [asdict(report) for report in made]
    show.document(rows) if json else show.table("Selections", rows, ("version", *tables.SELECTION[1:]))


@app.command
def score(
    *,
    method: str,
    target: str | None = None,
    option: Options = (),
    encoder: Path | None = None,
    checkpoint: int | None = None,
    memory: str | None = None,
    out: Path | None = None,
    k: Annotated[int, Parameter(name=["-k", "--top"])] = 10,
    store: StorePath = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Score the pool by a method without choosing. Loads no model.

    Parameters
    ----------
    method
        Name of a method that scores examples.
    target
        Its target; needed where the run has several.
    option
        An option as NAME=VALUE; may be given several times.
    encoder
        Folder of a sentence encoder (for `embed`).
    checkpoint
        Use this checkpoint only.
    memory
        What the method may hold, such as 4GiB; default: the recipe's.
    out
        Write all scores to this Parquet file.
    k
        How many of the best to show.
    """
    from gradsift.cli import show
    from gradsift.datastore.errors import InputError
    from gradsift.datastore.store import Store
    from gradsift.pipelines.runs.reselect import score as score_pool

    with Store(store, create=False) as opened:
        by_target = score_pool(opened, _select_section(method, None, option, encoder), target, checkpoint, memory)
    if len(by_target) != 1:
        raise InputError(f"this store has several targets; give --target ({', '.join(by_target)})")
    (table,) = by_target.values()
    if out is not None:
        import pyarrow.parquet as pq

        pq.write_table(table, out, compression="zstd")
    rows = table.slice(0, k).to_pylist()
    show.document(rows) if json else show.table(f"Best of {table.num_rows} by {method}", rows)


@app.command
def overlap(
    names: tuple[str, ...] = (),
    /,
    *,
    target: str | None = None,
    k: Annotated[int | None, Parameter(name=["-k", "--top"])] = None,
    store: StorePath = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Compare selections: which examples they share, and how their scores agree with each other and with length.

    Parameters
    ----------
    names
        Selections to compare (default: all of a target; `gradsift status` lists them).
    target
        Compare the selections of this target.
    k
        Compare the first k of each instead of the whole (Jaccard index).
    """
    from gradsift.cli import show, tables
    from gradsift.datastore.store import Store
    from gradsift.pipelines.select.overlap import overlap as compare

    with Store(store, create=False) as opened:
        alike = compare(opened, names, target, k)
    show.document(asdict(alike)) if json else tables.show_overlap(alike)


def _select_section(method: str, rule: str | None, option: tuple[str, ...], encoder: Path | None) -> "Fields":
    import yaml

    from gradsift.datastore.errors import InputError

    pairs = [text.partition("=") for text in option]
    if bad := [name for name, sign, _ in pairs if not sign]:
        raise InputError(f"--option {bad[0]}: give NAME=VALUE")
    options = {name: yaml.safe_load(value) for name, _, value in pairs}
    where = None if encoder is None else str(encoder.expanduser().resolve())
    return {"method": method, "rule": rule, "options": options, "encoder": where}
