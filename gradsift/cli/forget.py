"""Commands about deletion: take examples out of a store for good, and let them back in."""

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from gradsift.cli.shared import DEFAULT_STORE, Flag, Json, StorePath, app

if TYPE_CHECKING:
    from gradsift.datastore.forget import Picked
    from gradsift.datastore.store import Store
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
    from gradsift.cli import show
    from gradsift.datastore.errors import InputError
    from gradsift.datastore.store import Store
    from gradsift.pipelines.runs import forget

    pick = _choice(id, source, where, file)
    with Store(store, create=False) as opened, show.progress() as progress:
        if pick is None and exports and not dry_run:
            finished = None if json else forget.finish(opened, progress)
            for line in forget.told(finished):
                show.line(line)
            rewritten = [asdict(one) for one in forget.rewrite_exports(opened, progress)]
            show.document(rewritten) if json else show.table("Exports that held deleted examples", rewritten)
            return
        if pick is None:
            if dry_run or not forget.interrupted(opened):
                raise InputError("say what to delete: --id, --source, --where or --file; no deletion was interrupted")
            finished = forget.finish(opened, progress)
            if json:
                show.document({"finished": True, **(asdict(finished) if finished else {})})
            for line in () if json else forget.told(finished):
                show.line(line)
            return
        if dry_run:
            plan = forget.planned(opened, pick(opened))
            show.document(asdict(plan)) if json else _show(plan, "Would delete")
            return
        asked = None if yes else _confirm(json=json)
        made = forget.delete(opened, pick, exports=exports, progress=progress, confirm=asked or (lambda _plan: True))
    if made is None:
        show.line("Nothing was deleted.")
        return
    show.document(asdict(made)) if json else _show(made, "Deleted")


def _choice(
    ids: tuple[str, ...], source: str | None, where: str | None, file: Path | None
) -> "Callable[[Store], Picked] | None":
    """What picks the examples; None where nothing is said. Raises InputError for more than one way."""
    from gradsift.datastore import picks
    from gradsift.datastore.errors import InputError

    ways: list[Callable[[Store], Picked]] = []
    if ids:
        ways.append(lambda store: picks.by_ids(store, ids))
    if source is not None:
        ways.append(lambda store: picks.by_source(store, source))
    if where is not None:
        ways.append(lambda store: picks.by_predicate(store, where))
    if file is not None:
        ways.append(lambda store: picks.by_list(store, file))
    if len(ways) > 1:
        raise InputError("give one of --id, --source, --where and --file; delete the others after it")
    return ways[0] if ways else None


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
    from gradsift.cli import show
    from gradsift.datastore import picks, tombstones
    from gradsift.datastore.store import Store
    from gradsift.pipelines.runs import forget

    names = [*ids, *(picks.ids_in(file) if file is not None else [])]
    with Store(store, create=False) as opened:
        if not names:
            kept_out = tombstones.listed(opened)
            show.document(kept_out) if json else show.table("Deleted, and kept out", kept_out)
            return
        count = forget.revive(opened, names)
    show.document({"revived": count}) if json else show.line(
        f"{count:,} may come back: run a recipe whose sources hold them"
    )
