"""Commands about methods: list them, select and score by another one, compare selections."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from gradsift.cli.shared import DEFAULT_STORE, Json, Options, StorePath, app


@app.command
def methods(*, json: Json = False) -> None:
    """List the methods: what they do, what they need and cost, where they come from."""
    from gradsift import api
    from gradsift.cli import show

    rows = [asdict(row) for row in api.methods()]
    show.document(rows) if json else show.table("Methods", rows, ("method", "what", "needs", "cost", "source"))


@app.command
def select(
    *,
    method: str,
    examples: int | None = None,
    fraction: float | None = None,
    label_tokens: int | None = None,
    at_least: int | None = None,
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
        Label tokens not to be exceeded but for --at-least.
    at_least
        With --label-tokens: so many examples even where they have more tokens than that.
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
    from gradsift import api
    from gradsift.cli import show, tables

    options = _options(option)
    with show.progress() as progress:
        made = api.select(method, examples=examples, fraction=fraction, label_tokens=label_tokens, at_least=at_least,
                          target=target, rule=rule, options=options, encoder=encoder, checkpoint=checkpoint, seed=seed,
                          memory=memory, name=name, picture=picture, store=store, progress=progress)  # fmt: skip
    rows = [asdict(report) for report in made]
    if json:
        show.document(rows)
        return
    show.table("Selections", rows, ("version", *tables.SELECTION[1:]))
    tables.show_portfolios(made)


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
    from gradsift import api
    from gradsift.cli import show

    table = api.score(method, target=target, options=_options(option), encoder=encoder, checkpoint=checkpoint,
                      memory=memory, out=out, store=store)  # fmt: skip
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
    from gradsift import api
    from gradsift.cli import show, tables

    alike = api.overlap(names, target=target, k=k, store=store)
    show.document(asdict(alike)) if json else tables.show_overlap(alike)


def _options(option: tuple[str, ...]) -> dict[str, Any]:
    from gradsift.datastore.errors import InputError
    from gradsift.pipelines.recipe.written import parse_yaml

    pairs = [text.partition("=") for text in option]
    if bad := [name for name, sign, _ in pairs if not sign]:
        raise InputError(f"--option {bad[0]}: give NAME=VALUE")
    return {name: parse_yaml(value, f"--option {name}") for name, _, value in pairs}
