"""Examples without a gradient row, and why: a model made none of them, or it is still to come."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gradsift.datastore import features
from gradsift.datastore.engine import marks
from gradsift.datastore.errors import InputError
from gradsift.datastore.store import Store


@dataclass(frozen=True)
class Unusable:
    """An example without a row, with a place that it was read from ("" and 0 where none is known)."""

    example_id: str
    status: str
    source: str
    file: str
    line: int


def unusable(store: Store, dataset_id: int, spaces: Sequence[int]) -> Iterator[Unusable]:
    """Members of a dataset without a row in one of the spaces, by id; of several statuses, that of the first space."""
    if not spaces:
        return
    rows = store.catalog.rows(
        "SELECT m.example_id, e.source, "
        f"(SELECT r.status FROM feature_row AS r WHERE r.example_id = m.example_id AND r.space_id IN ({marks(spaces)}) "
        "AND r.status <> 'ok' ORDER BY r.space_id LIMIT 1) AS status, "
        "(SELECT o.file FROM origin AS o WHERE o.example_id = m.example_id ORDER BY o.file, o.line LIMIT 1) AS file, "
        "(SELECT o.line FROM origin AS o WHERE o.example_id = m.example_id ORDER BY o.file, o.line LIMIT 1) AS line "
        "FROM dataset_member AS m JOIN example AS e USING (example_id) WHERE m.dataset_id=? AND EXISTS "
        f"(SELECT 1 FROM feature_row AS r WHERE r.example_id = m.example_id AND r.space_id IN ({marks(spaces)}) "
        "AND r.status <> 'ok') ORDER BY m.example_id",
        (*spaces, dataset_id, *spaces),
    )
    for row in rows:
        yield Unusable(row["example_id"], row["status"], row["source"], row["file"] or "", row["line"] or 0)


def require_computed(store: Store, spaces: Sequence[int], ids: Sequence[str], what: str) -> None:
    """Raise InputError where a row of one of the ids is still to come in one of the spaces, as after a repair without
    the model: what is chosen from the others is not what was asked for. Cost: that of the ids."""
    lacking = {name for space in dict.fromkeys(spaces) for name in features.to_come(store, space, ids)}
    if lacking:
        raise InputError(
            f"{what}: rows of {len(lacking):,} of its examples are still to come (`gradsift verify --repair` found "
            "them damaged, or a run was stopped); `gradsift run` with the recipe computes them"
        )
