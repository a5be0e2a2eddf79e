"""Results of trainings in the store, as values: validation's arms, trials, and the runs of mixing laws."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TypeVar

from pydantic import TypeAdapter

from gradsift.datastore.identity import Spec, canonical_json
from gradsift.datastore.store import Store

Result = TypeVar("Result")


@dataclass(frozen=True)
class TrainLog:
    """What a training run was. `curve` has [step, loss, gradient norm before clipping, learning rate];
    `early_grad_norm` is the mean norm over the first 100 steps (Secret Recipe's early sign; not comparable between
    different data). What is not finite is None."""

    steps: int
    label_tokens: int
    tokens: int
    seconds: float
    early_grad_norm: float | None
    last_loss: float | None
    peak_bytes: int | None = None
    frozen: int = 0
    curve: Sequence[Sequence[float | None]] = field(default_factory=list)


@dataclass(frozen=True)
class Measured:
    """A model on one test set: mean loss over all label tokens, [I] mean loss and label tokens of each row, and where
    answers are generated their [I] scores, mean score and mean length in tokens."""

    loss: float
    items: Sequence[float]
    tokens: Sequence[int]
    scores: Sequence[float] | None = None
    score: float | None = None
    response_tokens: float | None = None


@dataclass(frozen=True)
class ArmResult:
    """One training of a validation: what it trained on, how it went (None without training), what it measured on the
    targets' test and `val` rows (nothing where it diverged), and figures of lm-evaluation-harness."""

    examples: int
    label_tokens: int
    train: TrainLog | None = None
    diverged: bool = False
    tests: Mapping[str, Measured] = field(default_factory=dict)
    vals: Mapping[str, float] = field(default_factory=dict)
    lm_eval: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Worth:
    """What an arm that is told apart from random gained for all FLOPs that were spent for it (`scorers/worth.py`).

    `selecting` is a target's part of choosing, `training` one seed's; `gain` in nats per token, `per_flop` that for
    each FLOP. It pays from `targets` targets on, and with the run's own number of them from `times` its training on
    (None: from none on).
    """

    selecting: float
    training: float
    gain: float
    per_flop: float
    targets: int | None
    times: float | None


@dataclass(frozen=True)
class TrialResult:
    """A training on trial: [V] mean losses of the target's `val` rows in nats (none where it diverged), the rows, label
    tokens and tokens that it trained on, and its seconds."""

    losses: Sequence[float]
    examples: int
    label_tokens: int
    tokens: int
    seconds: float
    diverged: bool = False


@dataclass(frozen=True)
class LawRun:
    """One short run of a mixing law: [K] losses of the sources' held-out rows."""

    losses: Sequence[float]
    sources: Sequence[str]
    examples: int


Recorded = ArmResult | TrialResult | LawRun


def find(store: Store, key: str, kind: type[Result]) -> Result | None:
    """Recorded result of a training, or None when it has not been done."""
    row = store.catalog.one("SELECT result FROM arm WHERE arm_key=?", (key,))
    if row is None:
        return None
    result: Result = TypeAdapter(kind).validate_python(json.loads(row["result"]))
    return result


def any_of(store: Store) -> bool:
    """Whether a training has been recorded."""
    return store.catalog.one("SELECT 1 FROM arm LIMIT 1") is not None


def save(store: Store, key: str, name: str, target: str, seed: int, spec: Spec, result: Recorded) -> None:
    """Record the result of a training once. `spec` is all that decides it, `key` its fingerprint."""
    with store.catalog.write() as db:
        db.execute(
            "INSERT INTO arm VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (key, name, target, seed, canonical_json(spec), canonical_json(asdict(result)), db.now()),
        )
