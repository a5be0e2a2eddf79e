"""Commands about mixtures: mix, export, compare, and look at what screening left out."""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from gradsift.app import DEFAULT_STORE, Flag, Json, StorePath, app


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
    from gradsift import show
    from gradsift.datastore import selections
    from gradsift.datastore.store import Store
    from gradsift.pipelines.export.export import export as write
    from gradsift.pipelines.runs.reselect import remix
    from gradsift.settings import read_section

    section = read_section(settings, "mix")
    with Store(store, create=False) as opened, show.progress() as progress:
        made = remix(opened, section, name=name, seed=seed, progress=progress)
        if export_to is not None:
            chosen = selections.get(opened, made["name"])
            made["export"] = str(
                write(opened, chosen, selections.recipe_of(opened, chosen), export_to, progress=progress)
            )
    show.document(made) if json else show_mixture(made)


def show_mixture(made: dict[str, Any]) -> None:
    """Requested against realised, as a table."""
    from gradsift import show

    unit = made.get("unit", "rows")
    title = f"Mixture {made['name']}: {made.get('realised', 0):,} of {made.get('requested', 0):,} {unit}"
    rows = [
        {key: row[key] for key in ("part", "source", "requested", "budget", "rows", "tokens", "note")}
        | {"asked": _percent(row["weight"]), "got": _percent(row["share"])}
        for row in made["table"]
    ]
    columns = ["part", "source", "asked", "got", "requested", "rows", "tokens", "note"]
    if all(row["tokens"] is None for row in rows):
        columns.remove("tokens")
    show.table(title, rows, columns)
    if made.get("export"):
        show.line(f"{made['rows']:,} rows in {made['export']}")


def _percent(share: float | None) -> str:
    return "by rank" if share is None else f"{share:.1%}"


@app.command
def export(
    name: str,
    folder: Path,
    /,
    *,
    target: str | None = None,
    format: Annotated[Literal["parquet", "jsonl"] | None, Parameter(name="--format")] = None,  # noqa: A002
    labels: Flag = False,
    atlas: Flag = False,
    require_licence: Flag = False,
    store: StorePath = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Write a selection or mixture as a folder that `datasets`, TRL, axolotl and LLaMA-Factory read.

    Parameters
    ----------
    name
        Name of the selection (`gradsift status` lists them), or NAME@DIGEST for an older one.
    folder
        Where to write it.
    target
        Its target, if the name is not enough.
    format
        Format of the data files; default: the recipe's.
    labels
        Add `input_ids` and `labels` (always there where a method prunes tokens).
    atlas
        Add atlas.parquet: x, y and neighbours for embedding-atlas.
    require_licence
        Refuse rows of unknown licence.
    """
    from gradsift import show
    from gradsift.datastore import selections
    from gradsift.datastore.store import Store
    from gradsift.pipelines.export.export import export as write
    from gradsift.pipelines.recipe import Export

    given = {"format": format, "labels": labels or None, "atlas": atlas or None,
             "require_licence": require_licence or None}  # fmt: skip
    with Store(store, create=False) as opened, show.progress() as progress:
        chosen = selections.get(opened, name, target)
        recipes = selections.recipe_of(opened, chosen)
        options = recipes.resolved.get("export", {}) | {k: v for k, v in given.items() if v is not None}
        path = write(opened, chosen, recipes, folder, Export.model_validate(options), progress)
    made = {"name": chosen.name, "examples": len(chosen.example_ids), "rows": chosen.rows, "digest": chosen.digest,
            "folder": str(path)}  # fmt: skip
    if json:
        show.document(made)
    else:
        show.line(f"{made['rows']} rows in {path}; read them with load_dataset({str(path)!r})")


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
    """Compare two selections or mixtures: what left, what came, by source, cluster, length and score.

    Parameters
    ----------
    one
        A selection (NAME, or NAME@DIGEST for an older one) or the folder of an export.
    other
        The same for the other side.
    examples
        How many examples to show of each side's own.
    """
    from gradsift import show
    from gradsift.datastore.store import Store
    from gradsift.pipelines.export.diff import diff as compare

    folders = all((Path(side) / "manifest.json").is_file() for side in (one, other))
    if folders:
        found = compare(None, one, other, examples)
    else:
        with Store(store, create=False) as opened:
            found = compare(opened, one, other, examples)
    if json:
        show.document(found)
        return
    for key in ("a", "b"):
        side = found[key]
        show.line(f"{key}: {side['name']}@{side['digest'][:12]}, {side['rows']:,} rows, {side['examples']:,} examples")
    show.line(
        f"{found['in_both']:,} examples in both ({found['other_copies']:,} with other copies), "
        f"{found['only_a']:,} only in a, {found['only_b']:,} only in b"
    )
    for key, rows in found["by"].items():
        show.table(f"Rows by {key}", rows)
    if found["score"]:
        show.table("Scores", found["score"])
    for key, title in (("only_a", "Only in a"), ("only_b", "Only in b")):
        if found["examples"][key]:
            rows = [row | {"example_id": row["example_id"][:8]} for row in found["examples"][key]]
            show.table(f"{title}: {len(rows)} of {found[key]:,}", rows)


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
    from gradsift import show
    from gradsift.datastore.store import Store
    from gradsift.pipelines.pool.screen import marked

    with Store(store, create=False) as opened:
        found = marked(opened, reason, k)
    if json:
        show.document(found)
        return
    show.table("Left out", found["summary"])
    show.line(f"{len(found['pairs'])} pairs, the least similar first:")
    for row in found["pairs"]:
        show.line(f"{row['reason']} {row['similarity']:.2f}")
        show.line(f"  out  {row['example_id'][:8]} ({row['source']}) {row['text']}")
        show.line(f"  twin {row['twin'][:8]} ({row['twin_source']}) {row['twin_text']}")
    if found["pairs"]:
        show.line("To keep one in any case, add its id to `dedup.keep` or `decontaminate.keep` and run again.")
