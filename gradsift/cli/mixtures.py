"""Commands about mixtures: mix, export, compare, and look at what screening left out."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from gradsift.cli.shared import DEFAULT_STORE, Flag, Json, StorePath, app, read_section


@app.command
def mix(
    settings: Path,
    /,
    *,
    name: str | None = None,
    seed: int | None = None,
    export_to: Path | None = None,
    store: StorePath = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Make another mixture from what the store's last run read and computed.

    Parameters
    ----------
    settings
        YAML file with the fields of a recipe's `mix`.
    name
        Name of the mixture; default: the run's with `-mix`.
    seed
        Seed of everything random; default: the recipe's.
    export_to
        Also write it to this folder.
    """
    from gradsift.cli import show, tables
    from gradsift.datastore import runs, selections
    from gradsift.datastore.store import Store
    from gradsift.pipelines.export.export import export as write
    from gradsift.pipelines.runs.reselect import remix

    section = read_section(settings, "mix")
    with Store(store, create=False) as opened, show.progress() as progress:
        made = remix(opened, section, name=name, seed=seed, progress=progress)
        if export_to is not None:
            recipes = runs.recipe_of(opened, made)
            path = write(opened, selections.get(opened, made.name), recipes, export_to, progress=progress)
            made = replace(made, export=str(path))
    show.document(asdict(made)) if json else tables.show_mixture(made)


@app.command
def export(
    name: str,
    folder: Path,
    /,
    *,
    target: str | None = None,
    format: Annotated[Literal["parquet", "jsonl"] | None, Parameter(name="--format")] = None,  # noqa: A002
    labels: bool | None = None,
    atlas: Flag = False,
    require_licence: Flag = False,
    store: StorePath = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Write a selection or mixture as a folder that `datasets`, TRL, axolotl and LLaMA-Factory read.

    Parameters
    ----------
    name
        Name of the selection (`gradsift status` lists them); NAME@NUMBER for a version of it (`gradsift log`), or
        NAME@DIGEST.
    folder
        Where to write it.
    target
        Its target, if the name is not enough.
    format
        Format of the data files; default: the recipe's.
    labels
        Add `input_ids` and `labels`, or with --no-labels do not; default: the recipe's. Always there where a method
        prunes tokens.
    atlas
        Add atlas.parquet: x, y and neighbours for embedding-atlas.
    require_licence
        Refuse rows of unknown licence.
    """
    from gradsift.cli import show
    from gradsift.datastore import selections, versions
    from gradsift.datastore.store import Store
    from gradsift.pipelines.export.export import export as write
    from gradsift.pipelines.recipe import Export
    from gradsift.pipelines.runs.told import told_of

    given = {"format": format, "labels": labels, "atlas": atlas or None,
             "require_licence": require_licence or None}  # fmt: skip
    with Store(store, create=False) as opened, show.progress() as progress:
        chosen = selections.get(opened, name, target)
        recipes = versions.recipes_of(opened, name, chosen)
        options = recipes.resolved.get("export", {}) | {k: v for k, v in given.items() if v is not None}
        told = told_of(opened, chosen)
        path = write(opened, chosen, recipes, folder, Export.model_validate(options), progress, told=told)
    if json:
        show.document({"name": chosen.name, "examples": len(chosen.example_ids), "rows": chosen.rows,
                       "digest": chosen.digest, "folder": str(path)})  # fmt: skip
    else:
        show.line(f"{chosen.rows} rows in {path}; read them with load_dataset({str(path)!r})")


@app.command
def diff(
    one: str,
    other: str,
    /,
    *,
    examples: int = 3,
    store: StorePath = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Compare two selections, mixtures or pools: what left, what came, by source, cluster, length and score.

    Parameters
    ----------
    one
        A selection or mixture (NAME; NAME@NUMBER or KIND@NUMBER for a version, as in `mixture@3` and `pool@3`; or
        NAME@DIGEST), or the folder of an export.
    other
        The same for the other side.
    examples
        How many examples to show of each side's own.
    """
    from gradsift.cli import show, tables
    from gradsift.datastore.store import Store
    from gradsift.pipelines.export.diff import diff as compare

    folders = all((Path(side) / "manifest.json").is_file() for side in (one, other))
    if folders:
        difference = compare(None, one, other, examples)
    else:
        with Store(store, create=False) as opened:
            difference = compare(opened, one, other, examples)
    show.document(asdict(difference)) if json else tables.show_difference(difference)


@app.command
def marks(
    *,
    reason: str | None = None,
    k: Annotated[int, Parameter(name=["-k", "--top"])] = 10,
    store: StorePath = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Show what the last run's screening left out: near-duplicates and leaked test rows, each beside its twin.

    Parameters
    ----------
    reason
        Only this reason: leak_ngrams, leak_near_duplicate, exact, near_duplicate, semantic.
    k
        How many pairs to show.
    """
    from gradsift.cli import show
    from gradsift.datastore.store import Store
    from gradsift.pipelines.pool.marked import marked

    with Store(store, create=False) as opened:
        left_out = marked(opened, reason, k)
    if json:
        show.document(asdict(left_out))
        return
    show.table("Left out", [asdict(entry) for entry in left_out.summary])
    show.line(f"{len(left_out.pairs)} pairs, the least similar first:")
    for pair in left_out.pairs:
        show.line(f"{pair.reason} {pair.similarity:.2f}")
        show.line(f"  out  {pair.example_id[:8]} ({pair.source}) {pair.text}")
        show.line(f"  twin {pair.twin[:8]} ({pair.twin_source}) {pair.twin_text}")
    if left_out.pairs:
        show.line("To keep one in any case, add its id to `dedup.keep` or `decontaminate.keep` and run again.")
