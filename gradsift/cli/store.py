"""Commands about a store: what it holds, and whether it is whole."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from gradsift.cli.shared import DEFAULT_STORE, Flag, Json, StorePath, app, quiet_libraries


@app.command
def status(*, store: StorePath = DEFAULT_STORE, json: Json = False) -> None:
    """Show what a store holds: examples, files, quarantine, feature rows, selections, validation arms, live work."""
    from gradsift import api
    from gradsift.cli import show, tables

    held = api.status(store)
    if json:
        show.document(held)
        return
    for name, rows in held.items():
        show.table(name.replace("_", " ").capitalize(), rows)
    tables.show_upkeep(store)


@app.command
def connect(folder: Path, /, *, catalog_url: str, store_url: str, json: Json = False) -> None:
    """Make a folder of this host for a store that hosts share: what a recipe with the same URLs does.

    Parameters
    ----------
    folder
        The folder to make: this host's reports, exports, scratch files and cache.
    catalog_url
        The store's catalog: postgresql://host/database?schema=team. Passwords come from PGPASSWORD or ~/.pgpass.
    store_url
        The store's files: s3://bucket/prefix, or file:///shared/folder.
    """
    from gradsift import api
    from gradsift.cli import show

    place = api.connect(folder, catalog_url=catalog_url, store_url=store_url)
    if json:
        show.document(asdict(place))
        return
    show.line(f"{folder} is connected. What it holds: gradsift status --store {folder}")


@app.command
def doctor(*, store: StorePath = DEFAULT_STORE, json: Json = False) -> None:
    """Check this installation and, if there is one, the store."""
    from gradsift import api
    from gradsift.cli import show
    from gradsift.datastore.errors import GradsiftError

    done = api.doctor(store)
    rows = [asdict(check) for check in done]
    show.document(rows) if json else show.table("Doctor", rows)
    if any(check.state == "bad" for check in done):
        raise GradsiftError("something is wrong; see the lines marked bad")


@app.command
def verify(
    *,
    store: StorePath = DEFAULT_STORE,
    repair: Flag = False,
    accept_loss: Flag = False,
    dry_run: Flag = False,
    drop: Annotated[bool, Parameter(negative=(), show=False)] = False,
    json: Json = False,
) -> None:
    """Check every byte of a store and its exports against their digests, and say what can be done about damage.

    Parameters
    ----------
    repair
        Make damaged files again: text from its sources, checkpoints, feature rows, scores and reports from what the
        store's runs recorded.
    accept_loss
        With --repair: remove what cannot be made again, with all that it takes down.
    dry_run
        With --repair: change nothing, and list what would be done.
    """
    from gradsift import api
    from gradsift.cli import show
    from gradsift.datastore.errors import CorruptionError, InputError

    if drop:
        raise InputError("`verify --drop` is `verify --repair` now, which makes again what it dropped")
    plan = dry_run or not repair
    quiet_libraries()
    with show.progress() as progress:
        done = api.verify(store, repair=repair, accept_loss=accept_loss, dry_run=dry_run, progress=progress)
    if json:
        show.document([asdict(mended) for mended in done])
    else:
        from gradsift.cli.tables import show_mended

        show_mended(done, plan=plan)
    bad = any(mended.is_damage for mended in done)
    kept = [mended for mended in done if mended.state == "kept"]
    count = sum(mended.state != "noted" for mended in done)
    files = "1 damaged file" if count == 1 else f"{count:,} damaged files"
    waiting = sum(mended.waits for mended in kept)
    lost = len(kept) - waiting
    more = f" ({lost} cannot be made again: --accept-loss removes them with what they take down)" if lost else ""
    if waiting == count:
        following = "next: what the list says of each; --repair makes none of them again, and removes none"
    else:
        more += f" ({waiting} wait for what the list says, and are never removed)" if waiting else ""
        following = f"next: gradsift verify --repair{more}"
    if bad and plan:
        raise CorruptionError(f"{files}; {following}")
    if kept:
        raise CorruptionError(f"{len(kept):,} of {files} left as before; {following}")


@app.command
def gc(
    *, store: StorePath = DEFAULT_STORE, grace_hours: float = 1.0, dry_run: Flag = False, json: Json = False
) -> None:
    """Delete files that no catalog row refers to, and half-made exports in the store (left by killed processes).

    Parameters
    ----------
    grace_hours
        Keep files younger than this; a live writer may be about to commit them.
    dry_run
        Only list them.
    """
    from gradsift import api
    from gradsift.cli import show

    rows = [asdict(one) for one in api.gc(store, grace_hours=grace_hours, dry_run=dry_run)]
    if json:
        show.document(rows)
        return
    show.table("Unreferenced files", rows)
    if young := len(api.gc(store, grace_hours=-math.inf, dry_run=True)) - (len(rows) if dry_run else 0):
        show.line(
            f"Kept: {young:,} younger than {grace_hours:g} h, which a writer may be about to commit; when nothing "
            "works on the store, --grace-hours 0 takes them, too."
        )


@app.command
def compact(
    *,
    target_mib: int = 256,
    grace_hours: float = 1.0,
    dry_run: Flag = False,
    store: StorePath = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Merge small files into large ones; nothing that they hold changes.

    Parameters
    ----------
    target_mib
        Size of a full file of gradient rows; of examples, an eighth of it.
    grace_hours
        Keep the merged files this long: other processes may have begun to read them.
    dry_run
        Only list what would be merged.
    """
    from gradsift import api
    from gradsift.cli import show, tables

    with show.progress() as progress:
        done = api.compact(store, target_mib=target_mib, grace_hours=grace_hours, dry_run=dry_run, progress=progress)
    show.document(asdict(done)) if json else tables.show_compacted(done, dry_run=dry_run)
