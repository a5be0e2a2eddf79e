"""The command that asks a store which rows are like a question."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from gradsift.cli.shared import DEFAULT_STORE, Flag, Json, StorePath, app, quiet_libraries

if TYPE_CHECKING:
    from gradsift.pipelines.query.answers import Answer

Ids = Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=True)]
Many = Annotated[tuple[str, ...], Parameter(negative=())]
SHOWN_LAYERS = 3  # of the parameters whose parts of two rows agree most
NAMES = {
    "gradients": "gradient space", "embedding": "embeddings", "encoder": "the sentence encoder's rows", "bm25": "words"
}  # fmt: skip


@app.command
def query(
    text: str | None = None,
    /,
    *,
    answer: str | None = None,
    greedy: Flag = False,
    id: Annotated[str | None, Parameter(name="--id")] = None,  # noqa: A002 - the flag's name
    chats: Path | None = None,
    target: str | None = None,
    vectors: Path | None = None,
    like: Ids = (),
    unlike: Ids = (),
    k: Annotated[int, Parameter(name=["-k", "--top"])] = 10,
    opposed: Flag = False,
    space: Literal["gradients", "embedding", "encoder", "bm25"] = "gradients",
    checkpoint: int | Literal["all"] | None = None,
    everything: Flag = False,
    index: str | None = None,
    source: Many = (),
    licence: Many = (),
    chars: str | None = None,
    loss: str | None = None,
    score: str | None = None,
    cluster: str | None = None,
    mark: str | None = None,
    selected_in: str | None = None,
    where: str | None = None,
    parquet: Path | None = None,
    store: StorePath = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Show the training rows whose gradients are most like a chat's, or most unlike, or that are so by another measure.

    Parameters
    ----------
    text
        What the user says.
    answer
        What the assistant answers. A gradient is of an answer; the spaces of words and embeddings need none.
    greedy
        Let the model write the answer, at the last checkpoint that is searched.
    id
        Ask for the neighbours of a stored example instead (the start of its id is enough).
    chats
        Ask for each chat of a file, in any shape that a pool may have.
    target
        Ask with the mean row of a target's examples.
    vectors
        Ask with the vectors of a .npy file, [D] or [Q, D], of the projected space of the run's gradients.
    like
        Ask for more like these examples; with `unlike`, and less like those.
    unlike
        Examples to be less like.
    k
        How many rows.
    opposed
        Show the farthest rows instead, those that point the other way most: the lowest similarities.
    space
        What is compared: gradients, embedding (RDS+), encoder (of sentences) or bm25 (words).
    checkpoint
        Which checkpoint's rows, or `all`: the cosines' sum, weighted by mean learning rates; default: the last.
    everything
        Look at rows that left the pool, too.
    index
        Ask an index of this kind (flat, ivf_flat, ivf_sq8, hnsw), or the best (auto), instead of searching exactly.
    source
        Only rows of these sources.
    licence
        Only rows of these licences; null is an unknown one.
    chars
        Only rows of so many characters: LOW..HIGH, LOW.. or ..HIGH.
    loss
        Only rows of such a loss in the last run: LOW..HIGH.
    score
        Only rows to which a selection gave such a score: NAME:LOW..HIGH.
    cluster
        Only rows in such a cluster of a selection whose method makes clusters: NAME:NUMBER.
    mark
        Only rows that the last screening left out for this reason; they have left the pool: with `everything`.
    selected_in
        Only rows of this selection or mixture.
    where
        Only rows for which this holds: what stands after WHERE in SQL, as for `delete`.
    parquet
        Write the hits to a Parquet file, too.
    """
    from gradsift import api
    from gradsift.cli import show

    quiet_libraries()
    with show.progress() as progress:
        answered = api.query(
            text, answer=answer, greedy=greedy, id=id, chats=chats, target=target, vectors=vectors, like=like,
            unlike=unlike, k=k, opposed=opposed, space=space, checkpoint=checkpoint, everything=everything,
            index=index, source=source, licence=licence, chars=chars, loss=loss, score=score, cluster=cluster,
            mark=mark, selected_in=selected_in, where=where, parquet=parquet, store=store, progress=progress,
        )  # fmt: skip
    several = chats is not None or vectors is not None
    if json:
        show.document([_plain(one) for one in (answered, *answered.more)] if several else _plain(answered))
        return
    for one in (answered, *answered.more):
        _show(one)
    if parquet is not None:
        show.line(f"Written: {parquet}")


def _plain(answer: "Answer") -> dict[str, Any]:
    document = asdict(answer)
    del document["more"]
    return document


def _show(answer: "Answer") -> None:
    from gradsift.cli import show

    if answer.user:
        show.line(f"user: {answer.user}")
        if answer.assistant:
            show.line(f"assistant{' (generated)' if answer.generated else ''}: {answer.assistant}")
    else:
        show.line(answer.question)
    show.table(_title(answer), _rows(answer))
    if answer.hits and answer.among is not None:
        show.line(f"Of the {answer.among:,} examples that pass the filters, as far as they have rows here.")
    if answer.index:
        show.line(
            f"By the {answer.index} index, which found {answer.recall:.1%} of the ten nearest when it was measured."
        )
    if answer.note:
        show.line(f"Note: {answer.note}.")
    usual, measured = answer.typical if answer.hits else None, "Similarities" if answer.space == "bm25" else "Cosines"
    if usual is not None and answer.opposed:
        show.line(
            f"{measured} of {usual.rows:,} random rows with this question: median {usual.median:.2f}, the lowest 5 % "
            f"below {usual.p5:.2f}, the lowest 1 % below {usual.p1:.2f}."
        )
    elif usual is not None:
        show.line(
            f"{measured} of {usual.rows:,} random rows with this question: median {usual.median:.2f}, the highest 5 % "
            f"above {usual.p95:.2f}, the highest 1 % above {usual.p99:.2f}."
        )


def _title(answer: "Answer") -> str:
    said = []
    if answer.checkpoint is not None:
        said.append("all checkpoints" if answer.checkpoint == "all" else f"checkpoint {answer.checkpoint}")
    if answer.space == "gradients":
        said.append("plain gradients" if answer.rows == "sgd" else f"its plain gradient × {answer.rows} rows")
    what = "Opposed" if answer.opposed else "Nearest"
    return f"{what} in {NAMES[answer.space]}" + (f" ({', '.join(said)})" if said else "")


def _rows(answer: "Answer") -> list[dict[str, Any]]:
    short = short_names(list(answer.hits[0].layers)) if answer.hits else {}
    rows = []
    for hit in answer.hits:
        row = asdict(hit) | {"example_id": hit.example_id[:8]}
        row["layers"] = agreeing(hit.layers, short)
        if not short:
            del row["layers"]
        if hit.score is None:
            del row["score"]
        rows.append(row)
    return rows


def agreeing(layers: Mapping[str, float], short: Mapping[str, str]) -> str:
    """The parameters whose parts agree most, and the one that agrees least, with their cosines."""
    ordered = sorted(layers.items(), key=lambda pair: -pair[1])
    best = ordered[:SHOWN_LAYERS]
    least = ordered[-1:] if len(ordered) > len(best) else []
    words = [f"{short[name]} {value:+.2f}" for name, value in best]
    return ", ".join(words) + "".join(f" … {short[name]} {value:+.2f}" for name, value in least)


def short_names(names: Sequence[str]) -> dict[str, str]:
    """{name: what tells it from the others}: without the parts that all of them begin or end with."""
    parts = [name.split(".") for name in names]
    shortest = min(map(len, parts), default=1)
    first = next((n for n in range(shortest) if len({tuple(p[: n + 1]) for p in parts}) > 1), 0)
    last = next((n for n in range(shortest - first) if len({tuple(p[len(p) - n - 1 :]) for p in parts}) > 1), 0)
    return {name: ".".join(p[first : len(p) - last]) for name, p in zip(names, parts, strict=True)}
