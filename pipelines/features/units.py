"""Units of work: the missing rows of a dataset in a feature space, computed by whatever workers a run has.

A unit is claimed by its lease `unit/N`, computed, and committed while the lease is still the claimer's own. Units are
handed out in pieces: one a piece where this process does them, else at most `MOST_PIECES` of them for a dataset. Who
finds a unit of its piece in other hands goes on to the next; when all pieces have ended, the units that are still open
are handed out again, and those that somebody alive holds are waited for.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from gradsift.datastore import features, leases, lives
from gradsift.datastore.errors import FeatureSpaceMismatch
from gradsift.datastore.examples import Dataset
from gradsift.datastore.identity import Spec, fingerprint
from gradsift.datastore.leases import Lease
from gradsift.datastore.store import Store
from gradsift.pipelines.model.pieces import MOST_PIECES, finish
from gradsift.pipelines.model.work import Order, Piece, Work

LOG = logging.getLogger("gradsift.units")  # of what was computed, for whoever listens
LOOK_AGAIN = 1.0  # seconds between looks at units that others hold
P = TypeVar("P", bound=Piece)


@dataclass(frozen=True)
class Part:
    """Units of one piece: the piece's name, their numbers, and how many rows they have."""

    name: str
    units: tuple[int, ...]
    rows: int


@dataclass(frozen=True)
class UnitsPiece:
    """What pieces have in common that compute units: the rest of a `Piece` says how."""

    order: Order
    part: Part
    alone = False

    @property
    def name(self) -> str:
        """Of what rows, and its number."""
        return self.part.name

    @property
    def rows(self) -> int:
        """How many rows its units have."""
        return self.part.rows


def compute_open(work: Work, space_id: int, dataset: Dataset, label: str, piece_of: Callable[[Part], P]) -> int:
    """Have the open units of a dataset computed; returns how many rows they have.

    Raises what a piece raises, and WorkerError where workers die again and again.
    """
    store = work.store
    rows = sum(features.sizes(store, features.open_units(store, space_id, dataset.dataset_id)).values())
    if not rows:
        return 0
    total = features.statuses(store, space_id, dataset.dataset_id).get("planned", 0)
    computed = 0

    def left() -> list[P]:
        units = _free(work, space_id, dataset, label)
        return [
            piece_of(part) for part in _parts(store, units, label, len(units) if work.spread is None else MOST_PIECES)
        ]

    def done(piece: P) -> None:
        nonlocal computed
        computed = min(total, computed + piece.rows)
        work.progress(label, computed, total)

    finish(work, left, done)
    return rows


def _free(work: Work, space_id: int, dataset: Dataset, label: str) -> list[int]:
    """The open units that nobody holds; waits while there are others only."""
    store = work.store
    while units := features.open_units(store, space_id, dataset.dataset_id):
        held = leases.all_held(store, "unit/")
        if free := [unit for unit in units if _name(unit) not in held]:
            return free
        work.progress(f"{label}: waiting for units that others compute", len(units), None)
        time.sleep(LOOK_AGAIN)
    return []


def _parts(store: Store, units: Sequence[int], label: str, most: int) -> list[Part]:
    """The units in order, in at most so many parts of as many units each."""
    if not units:
        return []
    size, rows = -(-len(units) // most), features.sizes(store, units)
    groups = [tuple(units[start : start + size]) for start in range(0, len(units), size)]
    return [
        Part(f"{label} {number}/{len(groups)}", group, sum(rows.get(unit, 0) for unit in group))
        for number, group in enumerate(groups, 1)
    ]


def claimed(work: Work, units: Sequence[int], compute: Callable[[int, Lease], None]) -> None:
    """Compute those of the units that are open and that nobody else holds, each under its lease."""
    store = work.store
    run = _run(work) if LOG.isEnabledFor(logging.INFO) else ""
    for unit in units:
        with leases.held(store, _name(unit)) as lease:
            if lease is not None and features.is_open(store, unit):
                begun = time.monotonic()
                compute(unit, lease)
                LOG.info("[%s %s unit %d] computed in %.1f s", store.root, run, unit, time.monotonic() - begun)


def _run(work: Work) -> str:
    numbers = lives.open_numbers(work.store, work.recipe.name)
    return f"run {numbers[0]}" if numbers else f"run of {work.recipe.name}"


def _name(unit: int) -> str:
    return f"unit/{unit}"


def require_space(store: Store, space_id: int, spec: Spec) -> None:
    """Raise FeatureSpaceMismatch where rows that this process would compute are not those of the space: its model,
    device or version is another than the run's."""
    wanted = features.space_spec(store, space_id)
    if fingerprint(spec) == fingerprint(wanted):
        return
    odd = sorted(name for name in {*spec, *wanted} if spec.get(name) != wanted.get(name))
    raise FeatureSpaceMismatch(
        f"this worker would make other rows than the run wants: {', '.join(odd)} differ. All workers need the same "
        "gradsift, the same model files under the same path or hub name, and devices of one kind as the run itself has"
    )
