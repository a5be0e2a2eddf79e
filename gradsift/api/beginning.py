"""The function that begins: a recipe for data that are there."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from gradsift.api.shared import AnyPath, AnyStore, folder_of, whereabouts

if TYPE_CHECKING:
    from gradsift.pipelines.runs.propose import Findings

Places: TypeAlias = Mapping[str, AnyPath] | Sequence[str]


def init(
    pool: AnyPath | None = None,
    model: AnyPath | None = None,
    *,
    target: Places = (),
    test: Places = (),
    out: AnyPath = "recipe.yaml",
    force: bool = False,
    store: AnyStore = "store",
) -> "Findings":
    """Write a commented recipe for a pool, a model and targets, after looking at them.

    Parameters
    ----------
    pool
        A file or folder of rows, or hub:owner/name.
    model
        Folder of a causal language model, or hub:owner/name; without one, a mixture is proposed.
    target
        {name: file with a few chats of what the model should do}, or texts NAME=FILE.
    test
        The same of other chats of these targets, to measure on.
    out
        The file to write.
    force
        Write over a file that is there.
    store
        Where it will run: what is there already costs nothing.

    Returns
    -------
    Findings
        What was found: the pool by file, what screening leaves, the length of chats, the plan of a run.

    Raises
    ------
    InputError
        For a recipe that is there, and for what a run would refuse.

    Example
    -------
    >>> from pathlib import Path
    >>> _ = Path("pool.jsonl").write_text('{"prompt": "Two and two?", "completion": "Four."}')
    >>> found = gradsift.init("pool.jsonl", out="mixture.yaml")
    >>> found.pool.usable, found.screened.rows, dict(found.pool.files[0].shapes)
    (1, 1, {'prompt_completion': 1})
    """
    from pathlib import Path

    from gradsift.datastore.outputs import refuse_taken
    from gradsift.pipelines.runs.propose import Asked, propose, refuse_overwrite, write_recipe

    refuse_taken(whereabouts(store), Path(out), "recipe")
    if not force:
        refuse_overwrite(Path(out))
    places = None if pool is None else str(pool), Path(out), None if model is None else str(model)
    proposal = propose(Asked.of(*places, target, test), folder_of(store))
    write_recipe(Path(out), proposal.text)
    return proposal.findings
