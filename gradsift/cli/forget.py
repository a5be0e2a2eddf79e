"""Commands about deletion: take examples out of a store for good, and let them back in."""

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from gradsift.cli.shared import DEFAULT_STORE, Flag, Json, StorePath, app

if TYPE_CHECKING:
    from gradsift.pipelines.runs.forget import Deletion

SHOWN = 10  # ids of a deletion on a terminal


@app.command
def delete(
    *,
    id: Annotated[tuple[str, ...], Parameter(name="--id", negative=(), consume_multiple=True)] = (),  # noqa: A002
    source: str | None = None,
    where: str | None = None,
    file: Path | None = None,
    exports: Flag = False,
    dry_run: Flag = False,
    yes: Flag = False,
    store: StorePath = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Delete examples for good: texts, gradient rows, scores, marks, excerpts, and the versions that hold them. Without
    a choice, go on with a deletion that was interrupted.

    Parameters
    ----------
    id
        Ids of examples, or their first eight characters or more.
    source
        All that was read from this source, also what another source has too.
    where
        All of which this holds, as after WHERE in SQL, over id, source, licence, file, line, chars and text.
    file
        A file with an id on each line.
    exports
        Also write exports on disk that hold them anew, without them; without a choice, those that hold any example that
        was deleted before.
    dry_run
        Only show what would go.
    yes
        Do not ask.
    """
    from gradsift import api
    from gradsift.api.deletion import choice, delete_if
    from gradsift.cli import show

    pick = choice(id, source, where, file)
    with api.open_store(store) as opened, show.progress() as progress:
        ask = (lambda _plan: True) if yes or dry_run or pick is None else _confirm(json=json)
        made = delete_if(ask, pick, exports=exports, dry_run=dry_run, store=opened, progress=progress)
    if made is None:
        show.line("Nothing was deleted.")
    elif pick is None:
        _show_finished(made, exports=exports, json=json)
    else:
        show.document(asdict(made)) if json else _show(made, "Would delete" if dry_run else "Deleted")


def _show_finished(made: "Deletion", *, exports: bool, json: bool) -> None:
    """What going on with a deletion came to, and, with `exports`, what was written anew."""
    from gradsift.cli import show
    from gradsift.pipelines.runs import forget

    rewritten = [asdict(one) for one in made.exports]
    if json:
        finished = {"finished": True, **(asdict(made.resumed) if made.resumed else {})}
        show.document(rewritten if exports else finished)
        return
    for line in forget.told(made.resumed):
        show.line(line)
    if exports:
        show.table("Exports that held deleted examples", rewritten)


def _confirm(*, json: bool) -> "Callable[[Deletion], bool]":
    """Shows the plan and asks. Raises InputError where nobody can be asked."""
    from gradsift.datastore.errors import InputError

    if json or not sys.stdin.isatty():
        raise InputError("a deletion cannot be taken back: look at it with --dry-run, then say --yes")

    def ask(plan: "Deletion") -> bool:
        _show(plan, "Would delete")
        return input("This cannot be taken back. Delete? [y/N] ").strip().lower() in ("y", "yes")

    return ask


def _show(plan: "Deletion", title: str) -> None:
    from gradsift.cli import show
    from gradsift.datastore import picks
    from gradsift.pipelines.runs import forget

    for line in forget.told(plan.resumed):
        show.line(line)
    show.table(title, [asdict(trace) for trace in plan.traces])
    if plan.sources:
        show.table("Examples by source", [{"source": name, "examples": n} for name, n in plan.sources.items()])
    if plan.ids:
        more = f" and {len(plan.ids) - SHOWN:,} more; --json has all" if len(plan.ids) > SHOWN else ""
        show.line(f"Ids: {', '.join(name[: picks.LEAST] for name in plan.ids[:SHOWN])}{more}")
    if plan.versions:
        show.line(f"Void: {', '.join(plan.versions)}; what is left of the newest has the next number")
    if plan.exports:
        show.table("Exports on disk that hold them", [asdict(one) for one in plan.exports])
        if any(one.state == "holds them" for one in plan.exports):
            show.line("--exports writes these anew; copies of them that were made elsewhere are yours to find.")
    for seen in plan.seen:
        show.line(forget.learned(seen))
    if plan.indexes:
        show.line(f"Search indexes dropped: {', '.join(plan.indexes)}; `gradsift index build` makes them again")
    if plan.examples and not plan.seen:
        show.line("No checkpoint was trained on them.")
    if plan.examples and not plan.exports:
        show.line("No export on disk holds them.")
    if plan.gone_before:
        show.line(f"{plan.gone_before:,} were deleted before.")
    for line in plan.left:
        show.line(f"Note: {line}")


@app.command
def revive(*ids: str, file: Path | None = None, store: StorePath = DEFAULT_STORE, json: Json = False) -> None:
    """Let deleted examples back in: the next run whose sources hold them reads them again. Without ids, list those
    that are kept out.

    Parameters
    ----------
    ids
        Ids of deleted examples, or their first eight characters or more.
    file
        A file with an id on each line.
    """
    from gradsift import api
    from gradsift.cli import show

    if not ids and file is None:
        kept_out = api.deleted(store)
        show.document(kept_out) if json else show.table("Deleted, and kept out", kept_out)
        return
    count = api.revive(*ids, file=file, store=store)
    show.document({"revived": count}) if json else show.line(
        f"{count:,} may come back: run a recipe whose sources hold them"
    )
