"""Stage: validation. Train the same base on each arm, measure the target's held-out loss, compare by seed.

Arms: `base` (no training), `selected` (with its token masks, if any), `random` (as many examples), `random_tokens` (as
many label tokens) and `random_lengths` (as many examples with the same label-token counts), and `qtuning` (the selected
examples, each batch pruned in training) Each
random arm draws its own examples for each seed. The measure is the mean loss over all label tokens of the test rows
(nats). The difference of an arm to a baseline is paired by seed; its interval is Student's t at 95 %. Every
(arm, target, seed) is recorded when done, so a killed validation goes on where it was.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from datastore import selections
from datastore.errors import InputError
from datastore.examples import Dataset
from datastore.identity import digest_ids, fingerprint
from datastore.selections import Selection
from datastore.store import Store
from pipelines import model as m
from pipelines import recipe as r
from pipelines.encode import Encoded
from pipelines.progress import Progress, quiet
from pipelines.qtuning import dynamic
from pipelines.training import mean_token_loss, train
from pipelines.warmup import training_spec, usable_chats
from scorers.select import random_k, random_lengths, random_tokens

QTUNING = "qtuning"  # the arm of selected examples with batches pruned in training
# Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom.
T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """One training set: the examples of a named arm for a seed, and the targets it is measured on."""

    name: str
    seed: int
    example_ids: tuple[str, ...]
    targets: tuple[str, ...]
    masks: dict[str, list[bool]] = field(default_factory=dict, hash=False)  # of label tokens, by example


@dataclass(frozen=True)
class ArmRow:
    """A line of the result table: one arm on one target, over its seeds."""

    arm: str
    target: str
    seeds: list[int]
    test_loss: list[float]
    test_loss_mean: float
    test_loss_ci95: float | None
    examples: int
    label_tokens: float
    source_precision: float | None
    versus: dict[str, dict[str, Any]] = field(default_factory=dict)  # of `selected`: by baseline, paired by seed


def mean_ci95(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and half-width of its 95 % t interval; None for fewer than two values."""
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return mean, None
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    return mean, (T95[n - 2] if n - 2 < len(T95) else 1.96) * spread / math.sqrt(n)


class Chats:
    """Encoded usable chats of the pool, encoded on demand and kept."""

    def __init__(self, store: Store, recipe: r.Recipe, loaded: m.Loaded) -> None:
        self._store, self._recipe, self._loaded = store, recipe, loaded
        self._known: dict[str, Encoded] = {}

    def __call__(self, ids: Iterable[str]) -> list[Encoded]:
        """Chats of the usable ones of the ids, in the given order."""
        wanted = list(ids)
        new = [i for i in wanted if i not in self._known]
        if new:
            self._known.update(zip(*usable_chats(self._store, self._loaded, self._recipe, new), strict=True))
        return [self._known[i] for i in wanted if i in self._known]

    def usable(self, ids: Iterable[str]) -> list[str]:
        """Those of the ids that have a label, in the given order."""
        wanted = list(ids)
        self(wanted)
        return [i for i in wanted if i in self._known]


def draw_arms(
    settings: r.Validate,
    pool_ids: Sequence[str],
    chosen: dict[str, Selection],
    chats: Chats,
    masks: dict[str, dict[str, list[bool]]] | None = None,
) -> list[Arm]:
    """All arms of a validation. Random draws of equal size are shared by the targets."""
    tokens = [c.n_label_tokens for c in chats(pool_ids)]
    masks = masks or {}
    arms: dict[tuple[str, int, tuple[str, ...]], list[str]] = {}
    for target, selection in chosen.items():
        lengths = [c.n_label_tokens for c in chats(selection.example_ids)]
        spent = sum(lengths)
        for seed in settings.seeds:
            draws = {
                "selected": tuple(selection.example_ids),
                "random": _take(pool_ids, random_k(len(pool_ids), len(selection.example_ids), 7_919 + seed)),
                "random_tokens": _take(pool_ids, random_tokens(tokens, spent, 7_919 + seed)),
                "random_lengths": _take(pool_ids, random_lengths(tokens, lengths, 7_919 + seed)),
            }
            if settings.qtuning:
                draws[QTUNING] = draws["selected"]
            for name in ("selected", *((QTUNING,) if settings.qtuning else ()), *settings.arms):
                arms.setdefault((name, seed, draws[name]), []).append(target)
    return [
        Arm(name, seed, ids, tuple(targets), masks.get(targets[0], {}) if name == "selected" else {})
        for (name, seed, ids), targets in arms.items()
    ]


def _take(ids: Sequence[str], order: Any) -> tuple[str, ...]:
    return tuple(ids[int(k)] for k in order)


def validate(
    store: Store,
    recipe: r.Recipe,
    loaded: m.Loaded,
    pool: Dataset,
    chosen: dict[str, Selection],
    tests: dict[str, Dataset],
    sources: Callable[[Sequence[str]], list[str]],
    progress: Progress = quiet,
) -> list[ArmRow]:
    """Run (or finish) all arms and return the table, targets in recipe order, `base` first."""
    settings = recipe.validate_
    if settings is None:
        return []
    chats = Chats(store, recipe, loaded)
    pool_ids = chats.usable(pool.example_ids)
    test_chats = {t: _test_chats(store, recipe, loaded, d, settings) for t, d in tests.items()}
    chosen = {t: s for t, s in chosen.items() if t in tests}
    arms = [
        *(Arm("base", settings.seeds[0], (), (t,)) for t in chosen),
        *draw_arms(settings, pool_ids, chosen, chats, {t: selections.masks(store, s) for t, s in chosen.items()}),
    ]
    results: list[tuple[Arm, str, dict[str, Any]]] = []
    for number, arm in enumerate(arms):
        results += _run_arm(store, recipe, loaded, arm, chats, test_chats, tests)
        progress("validation arms", number + 1, len(arms))
    return [row for target in chosen for row in _table(recipe, target, results, sources)]


def _test_chats(store: Store, recipe: r.Recipe, loaded: m.Loaded, test: Dataset, settings: r.Validate) -> list[Encoded]:
    ids = test.example_ids
    if settings.test_rows and settings.test_rows < len(ids):
        ids = sorted(_take(ids, np.random.default_rng([recipe.seed, 1]).permutation(len(ids))[: settings.test_rows]))
    _, chats = usable_chats(store, loaded, recipe, ids)
    if not chats:
        raise InputError(f"test {test.name!r} has no row with a label token; raise encoding.max_length")
    return chats


def _run_arm(
    store: Store,
    recipe: r.Recipe,
    loaded: m.Loaded,
    arm: Arm,
    chats: Chats,
    test_chats: dict[str, list[Encoded]],
    tests: dict[str, Dataset],
) -> list[tuple[Arm, str, dict[str, Any]]]:
    settings = recipe.validate_ or r.Validate()
    training = settings.model_dump(exclude={"seeds", "arms", "test_rows", "qtuning"})
    base_spec = training_spec(recipe, loaded) | {
        "examples": digest_ids(arm.example_ids),
        "seed": arm.seed,
        "training": training if arm.example_ids else None,
    }
    if arm.name == QTUNING and settings.qtuning:
        base_spec["qtuning"] = settings.qtuning.model_dump()
    if arm.masks:
        base_spec["masks"] = fingerprint(arm.masks)
    specs = {
        t: base_spec | {"test": tests[t].digest, "test_rows": settings.test_rows, "recipe_seed": recipe.seed}
        for t in arm.targets
    }
    known = {t: selections.arm_result(store, fingerprint(spec)) for t, spec in specs.items()}
    if any(result is None for result in known.values()):
        rows = _masked(arm, chats)
        model = m.load_lora(loaded, recipe.model, recipe.lora, arm.seed)
        train_loss = None
        if rows:
            prune = dynamic(settings.qtuning, loaded.tokenizer) if arm.name == QTUNING and settings.qtuning else None
            train_loss = train(model, loaded.tokenizer, rows, r.Training(**training), arm.seed, prune=prune)
        for target, spec in specs.items():
            result = {
                "test_loss": mean_token_loss(model, loaded.tokenizer, test_chats[target]),
                "train_loss": train_loss,
                "examples": len(rows),
                "label_tokens": sum(c.n_label_tokens for c in rows),
            }
            selections.save_arm(store, fingerprint(spec), arm.name, target, arm.seed, spec, result)
            known[target] = result
    return [(arm, target, result) for target, result in known.items() if result is not None]


def _masked(arm: Arm, chats: Chats) -> list[Encoded]:
    usable = chats.usable(arm.example_ids)
    return [row.masked(arm.masks[i]) if i in arm.masks else row for i, row in zip(usable, chats(usable), strict=True)]


def _table(
    recipe: r.Recipe,
    target: str,
    results: Sequence[tuple[Arm, str, dict[str, Any]]],
    sources: Callable[[Sequence[str]], list[str]],
) -> list[ArmRow]:
    own = set(recipe.targets[target].own_sources)
    mine = [(arm, result) for arm, t, result in results if t == target]
    losses = {name: {a.seed: x["test_loss"] for a, x in mine if a.name == name} for name in _names(mine)}
    rows = []
    for name in _names(mine):
        runs = [(a, x) for a, x in mine if a.name == name]
        mean, ci = mean_ci95(list(losses[name].values()))
        shares = [
            sum(s in own for s in sources(a.example_ids)) / len(a.example_ids) for a, _ in runs if own and a.example_ids
        ]
        rows.append(
            ArmRow(
                name,
                target,
                [a.seed for a, _ in runs],
                list(losses[name].values()),
                mean,
                ci,
                round(float(np.mean([x["examples"] for _, x in runs]))),
                float(np.mean([x["label_tokens"] for _, x in runs])),
                float(np.mean(shares)) if shares else None,
                _comparisons(losses) if name == "selected" else {},
            )
        )
    return rows


def _names(runs: Sequence[tuple[Arm, Any]]) -> list[str]:
    return list(dict.fromkeys(arm.name for arm, _ in runs))


def _comparisons(losses: dict[str, dict[int, float]]) -> dict[str, dict[str, Any]]:
    baselines = [name for name in losses if name not in ("base", "selected")]
    return {name: _paired(losses["selected"], losses[name]) for name in baselines}


def _paired(arm: dict[int, float], baseline: dict[int, float]) -> dict[str, Any]:
    differences = [arm[seed] - baseline[seed] for seed in arm]
    mean, ci = mean_ci95(differences)
    return {"difference": mean, "ci95": ci, "lower_on": sum(d < 0 for d in differences), "of": len(differences)}


def as_dicts(rows: Sequence[ArmRow]) -> list[dict[str, Any]]:
    """The table as plain data."""
    return [asdict(row) for row in rows]
