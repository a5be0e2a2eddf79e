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
    from gradsift.cli import show, tables
    from gradsift.datastore import versions
    from gradsift.datastore.store import Store

    with Store(store, create=False) as opened:
        entries = versions.log(opened, name)
    show.document([asdict(entry) for entry in entries]) if json else tables.show_log(entries, store.resolve())


@app.command
def checkout(version: str, /, *, out: Path | None = None, store: StorePath = DEFAULT_STORE, json: Json = False) -> None:
    """Export an old version of a selection or mixture, byte for byte as its run did.

    Parameters
    ----------
    version
        NAME@NUMBER, or selection@NUMBER and mixture@NUMBER where the store has one name of that kind.
    out
        Where to write it; default: exports/NAME@NUMBER in the store.
    """
    from gradsift.cli import show
    from gradsift.datastore.store import Store
    from gradsift.pipelines.export.checkout import checkout as write

    with Store(store, create=False) as opened, show.progress() as progress:
        made = write(opened, version, out, progress)
    if json:
        show.document(asdict(made))
        return
    compared = "the bytes that its run exported" if made.as_then else "its run exported nothing to compare with"
    show.line(f"{made.version}: {made.rows:,} rows in {made.folder}; {compared}")


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
    from gradsift.cli import show, tables
    from gradsift.datastore.prune import prune as drop
    from gradsift.datastore.store import Store
    from gradsift.pipelines.runs import forget

    with Store(store, create=False) as opened:
        if not dry_run:
            forget.finish(opened)
        pruned = drop(opened, keep, examples=examples, dry_run=dry_run)
    show.document(asdict(pruned)) if json else tables.show_pruned(pruned, dry_run=dry_run)
