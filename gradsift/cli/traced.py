"""How lineage looks on a terminal: what is known of a row, one table for each kind of thing."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gradsift.cli import show

if TYPE_CHECKING:
    from gradsift.datastore.quarantine import Entry
    from gradsift.pipelines.query.lineage import FileLineage, Lineage, Traced


def show_traced(found: "Traced") -> None:
    """What was asked for."""
    for gone in found.deleted:
        show.line(f"{gone.example_id} was deleted.")
    for entry in found.refused:
        _show_refused(entry)
    for one in found.examples:
        _show_example(one)
    for file in found.files:
        _show_file(file)


def _show_refused(entry: "Entry") -> None:
    show.line(f"{entry.file}:{entry.line} was refused: {entry.reason} ({entry.role} {entry.dataset}, {entry.source})")
    show.line(f"    {entry.detail}")
    if entry.excerpt:
        show.line(f"    | {entry.excerpt}")


def _show_example(one: "Lineage") -> None:
    show.line(f"{one.example_id}  {one.source}  {one.licence or 'licence unknown'}")
    show.line(f"user: {one.user}")
    show.line(f"assistant: {one.assistant}")
    _table("Read from", [asdict(place) | {"extra": dict(place.extra) or None} for place in one.places])
    _table("Marks of the last screening", [
        {"reason": mark.reason, "similarity": mark.similarity,
         "this row": "left out" if mark.left_out else "stays", "twin": mark.twin} for mark in one.marks
    ])  # fmt: skip
    _table("In datasets", [
        {"dataset": data.version or f"{data.role} {data.name}", "subtask": data.subtask or None, "void": data.void}
        for data in one.datasets
    ])  # fmt: skip
    _table("In the model's passes", [asdict(one_pass) for one_pass in one.passes])
    if one.warmups:
        show.line(f"Warm-ups that trained on it: {', '.join(name[:12] for name in one.warmups)}")
    _table("Scores", [
        {"selection": scored.version or scored.name, "target": scored.target, "method": scored.method,
         "score": scored.score, "rank": scored.rank, "of": scored.of, "cluster": scored.cluster, "part": scored.part}
        for scored in one.scores
    ])  # fmt: skip
    order = {found.reference: found.rows for found in one.order}
    _table("Chosen by", [
        {"selection": choice.reference, "kind": choice.kind, "target": choice.target, "method": choice.method,
         "rank": choice.rank, "copies": choice.copies,
         "row": ", ".join(map(str, order.get(choice.reference, ()))) or None, "void": choice.void}
        for choice in one.choices
    ])  # fmt: skip
    _table("In exports on disk", [
        {"export": found.name, "row": found.row, "file": f"{found.folder}/{found.file}"} for found in one.exports
    ])  # fmt: skip
    _table("Trained on by", [
        {"arm": arm.arm, "rows of": arm.because, "lr": arm.lr, "seeds": len(arm.seeds), "mean test loss":
         ", ".join(f"{name} {loss:.4f}" for name, loss in arm.losses.items()) or "diverged"} for arm in one.arms
    ])  # fmt: skip
    if one.arms_untold:
        show.line(f"Arms that drew rows of their own, this one or not: {', '.join(one.arms_untold)}")


def _show_file(file: "FileLineage") -> None:
    show.line(f"{file.file}: {file.rows:,} rows became {file.examples:,} examples, {sum(file.refused.values()):,} were "
              "refused")  # fmt: skip
    _table("Refused", [{"reason": reason, "rows": rows} for reason, rows in file.refused.items()])
    _table("Left out by the last screening", [{"reason": reason, "examples": n} for reason, n in file.left_out.items()])
    _table(
        "Chosen by",
        [asdict(taken) for taken in file.taken],
        ("reference", "kind", "target", "method", "examples", "rows", "void"),
    )
    _table(
        "Rows",
        [{"line": line.line, "example": line.example_id[:12] or None, "outcome": line.outcome} for line in file.lines],
    )


def _table(title: str, rows: Sequence[dict[str, Any]], columns: Sequence[str] | None = None) -> None:
    """A table without the columns in which nothing stands, if there is a row."""
    names = [name for name in columns or (rows[0] if rows else ()) if any(row[name] is not None for row in rows)]
    if rows:
        show.table(title, rows, names)
