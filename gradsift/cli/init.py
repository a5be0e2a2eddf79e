"""The command that begins: a recipe for data that is there, or an example to try."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from gradsift.cli.shared import DEFAULT_STORE, Flag, Json, StorePath, app, quiet_libraries

if TYPE_CHECKING:
    from gradsift.pipelines.runs.propose import Findings

Pairs = Annotated[tuple[str, ...], Parameter(negative=())]


@app.command
def init(
    pool: str | None = None,
    model: str | None = None,
    /,
    *,
    target: Pairs = (),
    test: Pairs = (),
    out: Path = Path("recipe.yaml"),
    force: Flag = False,
    example: Flag = False,
    store: StorePath = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Write a commented recipe for a pool and a model, after looking at them; or copy an example to try.

    Parameters
    ----------
    pool
        A file or folder of rows, or hub:owner/name. With --example: the name of one; without a name they are listed.
    model
        Folder of a causal language model, or hub:owner/name; without one, a mixture is proposed. With --example: the
        folder to copy to; default: the example's name.
    target
        NAME=FILE with a few chats of what the model should do. Can be given several times.
    test
        NAME=FILE with other chats of that target, to measure on. Can be given several times.
    out
        The file to write.
    force
        Write over a file that is there.
    example
        List the examples that are shipped, or copy one.
    """
    if example:
        _example(pool, model, json=json)
        return
    from gradsift.api.curation import starting
    from gradsift.cli import show

    quiet_libraries()
    started = starting()
    from gradsift.datastore.outputs import refuse_taken
    from gradsift.datastore.place import place_of
    from gradsift.pipelines.runs.propose import Asked, propose, refuse_overwrite, write_recipe

    refuse_taken(place_of(store), out, "recipe")
    if not force:
        refuse_overwrite(out)
    proposal = propose(Asked.of(pool, out, model, target, test), store, started)
    write_recipe(out, proposal.text)
    if json:
        show.document({"recipe": str(out), **asdict(proposal.findings)})
        return
    _show(out, proposal.findings)


def _show(out: Path, findings: "Findings") -> None:
    from gradsift.cli import show

    seen = findings.pool
    show.line(f"{out}: {seen.usable:,} of {seen.rows:,} rows of the pool can be read as chats.")
    if findings.plan is not None:
        show.line(f"A run takes about {show.duration(60 * sum(findings.plan.minutes.values()))}.")
        for note in findings.plan.notes:
            show.line(f"Note: {note}")
    show.line(f"Read its comments, then: gradsift run {out}")


def _example(name: str | None, folder: str | None, *, json: bool) -> None:
    from gradsift.cli import show
    from gradsift.pipelines.tables import Row
    from gradsift.shipped import copy_example, examples

    if name is None:
        rows: list[Row] = [{"example": known, "what": title} for known, title in examples().items()]
        if json:
            show.document(rows)
            return
        show.table("Examples", rows)
        show.line("gradsift init --example NAME [FOLDER] copies one.")
        return
    to = copy_example(name, Path(folder or name))
    if json:
        show.document({"example": name, "folder": str(to)})
        return
    show.line(f"{to}: copied. {to / 'README.md'} says what is in it.")
