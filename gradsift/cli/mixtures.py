"""Commands about mixtures: mix, export, compare, and look at what screening left out."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from gradsift.cli.shared import DEFAULT_STORE, Flag, Json, StorePath, app


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
    from gradsift import api
    from gradsift.cli import show, tables

    with show.progress() as progress:
        made = api.mix(settings, name=name, seed=seed, export_to=export_to, store=store, progress=progress)
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
    push: str | None = None,
    revision: str | None = None,
    private: bool = True,
    dry_run: Flag = False,
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
    push
        Also push it to this data set on the Hugging Face Hub, `owner/name`, with the token of HF_TOKEN or `hf auth
        login`: one commit of what the hub does not have yet.
    revision
        Branch to push to; default: the main one. It is made where it is not there.
    private
        A new data set is private, and one that is public is refused; --no-private: everybody may see it.
    dry_run
        Write the export and ask the hub what it has, but push nothing: print what would be pushed.
    """
    from gradsift import api
    from gradsift.cli import pushed, show

    with show.progress() as progress:
        made = api.export(name, folder, target=target, format=format, labels=labels, atlas=atlas,
                          require_licence=require_licence, push=push, revision=revision, private=private,
                          dry_run=dry_run, store=store, progress=progress)  # fmt: skip
    if json:
        show.document(asdict(made))
        return
    show.line(f"{made.rows} rows in {made.folder}; read them with load_dataset({made.folder!r})")
    if made.replaced:
        show.line(f"They replaced the export of {made.replaced} that was there.")
    if made.pushed:
        pushed.show_pushed(made.pushed)


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
    from gradsift import api
    from gradsift.cli import show, tables

    difference = api.diff(one, other, examples=examples, store=store)
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
    from gradsift import api
    from gradsift.cli import show

    left_out = api.marks(store, reason=reason, k=k)
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
