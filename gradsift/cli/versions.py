"""Commands about versions: list them, export an old one as it was, drop old ones."""

from dataclasses import asdict
from pathlib import Path

from gradsift.cli.shared import DEFAULT_STORE, Flag, Json, StorePath, app


@app.command
def log(name: str | None = None, /, *, store: StorePath = DEFAULT_STORE, json: Json = False) -> None:
    """List the numbered versions of pools, selections and mixtures, those of the newest run first.

    Parameters
    ----------
    name
        Only versions of this name, or of this kind: pool, selection, mixture.
    """
    from gradsift import api
    from gradsift.cli import show, tables

    entries = api.log(name, store=store)
    show.document([asdict(entry) for entry in entries]) if json else tables.show_log(entries, store.resolve())


@app.command
def checkout(
    version: str,
    /,
    *,
    out: Path | None = None,
    push: str | None = None,
    revision: str | None = None,
    private: bool = True,
    dry_run: Flag = False,
    store: StorePath = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Export an old version of a selection or mixture, byte for byte as its run did.

    Parameters
    ----------
    version
        NAME@NUMBER, or selection@NUMBER and mixture@NUMBER where the store has one name of that kind.
    out
        Where to write it; default: exports/NAME@NUMBER in the store.
    push
        Also push it to this data set on the Hugging Face Hub, `owner/name`, as `gradsift export` does.
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
        made = api.checkout(version, out=out, push=push, revision=revision, private=private, dry_run=dry_run,
                            store=store, progress=progress)  # fmt: skip
    if json:
        show.document(asdict(made))
        return
    compared = "the bytes that its run exported" if made.as_then else "its run exported nothing to compare with"
    show.line(f"{made.version}: {made.rows:,} rows in {made.folder}; {compared}")
    if made.pushed:
        pushed.show_pushed(made.pushed)


@app.command
def prune(
    *,
    keep: int,
    examples: Flag = False,
    dry_run: Flag = False,
    store: StorePath = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Drop old versions: lists of rows, tables of scores, checkpoints. Never what a kept version or the last run needs.

    Parameters
    ----------
    keep
        How many of the newest versions of each name to keep.
    examples
        Also drop examples that nothing kept holds, with their gradient rows, and those of dropped
        checkpoints: should they come back, they must be computed again.
    dry_run
        Only list what would be dropped, and its bytes.
    """
    from gradsift import api
    from gradsift.cli import show, tables

    pruned = api.prune(store, keep=keep, examples=examples, dry_run=dry_run)
    show.document(asdict(pruned)) if json else tables.show_pruned(pruned, dry_run=dry_run)
