"""The passes that met an example: its signals at each checkpoint of the last run with gradient rows."""

from dataclasses import dataclass

from gradsift.datastore.errors import InputError
from gradsift.datastore.example_signals import Signals, signals_of
from gradsift.datastore.runs import Run, last_run
from gradsift.datastore.store import Store

ROLES = ("pool", "target")  # rows of the plain gradient beside the pool's keep no signals


@dataclass(frozen=True)
class Pass:
    """What the rows of a dataset (`role` pool or target) at one checkpoint say of an example."""

    role: str
    dataset: str
    checkpoint: int
    space_id: int
    transform: str
    signals: Signals


def computed_run(store: Store) -> Run | None:
    """The newest finished run, not counting later selections from its rows; None where no run has finished."""
    try:
        return last_run(store, computed=True)
    except InputError:
        return None


def passes_of(store: Store, run: Run, example_id: str) -> list[Pass]:
    """The passes of a run that met an example, those of the pool first, oldest checkpoint first. Cost: a row of a
    mapped shard for each."""
    found: list[Pass] = []
    with_signals = [row for row in run.result.rows if row.role in ROLES]
    for row in sorted(with_signals, key=lambda row: (ROLES.index(row.role), row.checkpoint)):
        signals = signals_of(store, row.space_id, example_id)
        if signals is not None and row.space_id not in {one.space_id for one in found}:
            found.append(Pass(row.role, row.dataset, row.checkpoint, row.space_id, row.transform, signals))
    return found
