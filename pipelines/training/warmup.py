"""Stage: warm-up training on a seeded random part of the pool; one checkpoint at the end of each epoch.

LESS §3 (warm-up on 5 %, one checkpoint for each of 4 epochs). A killed warm-up goes on from its last checkpoint and
gives the same tensors as one that was never stopped.

Which warm-up a run has (`reuse: auto`): the newest finished one of its settings, whatever pool that was drawn from;
where there is none, the present pool's own, which is begun or gone on with. A finished one that lost checkpoints since
(they were damaged) is trained again on its own pool, to the same tensors. `reuse: never`, and a run that asks for a new
warm-up, have the present pool's own. With `from` nothing is trained: checkpoints of others are taken (`adopted.py`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradsift.datastore import checkpoints, warmups
from gradsift.datastore.checkpoints import Checkpoint, CheckpointState, Tensors
from gradsift.datastore.errors import InputError
from gradsift.datastore.examples import Dataset
from gradsift.datastore.identity import fingerprint
from gradsift.datastore.warmups import WarmupRun
from gradsift.pipelines.model.chats import usable_chats
from gradsift.pipelines.model.load import adapter_arrays, load_base, load_lora, lora_parameters, set_adapter
from gradsift.pipelines.model.work import Work
from gradsift.pipelines.recipe import Warmup
from gradsift.pipelines.training import adopted
from gradsift.pipelines.training.adopted import Adopted
from gradsift.pipelines.training.loop import EpochEnd, Report, Start, epochs, make_optimizer
from gradsift.pipelines.training.spec import training_spec

Check = Callable[[Any], None]  # of a model


@dataclass(frozen=True)
class Warmed:
    """The checkpoints of a run, oldest first, the warm-up that made them (None: no training), and whether it was
    finished before this run."""

    points: list[Checkpoint]
    run: WarmupRun | None = None
    reused: bool = False


def settings_of(work: Work, warmup: Warmup) -> str:
    """Fingerprint of all that decides a warm-up but its pool."""
    return fingerprint({**training_spec(work), "training": warmup.deciding(), "seed": work.recipe.seed})


def of_pool(work: Work, warmup: Warmup, digest: str, rows: int) -> WarmupRun:
    """The warm-up that is drawn from a pool."""
    spec = {**training_spec(work), "training": warmup.deciding(), "pool": digest, "seed": work.recipe.seed}
    return WarmupRun(fingerprint(spec), settings_of(work, warmup), digest, rows, warmup.epochs)


def reusable(work: Work, warmup: Warmup) -> list[WarmupRun]:
    """Finished warm-ups of the recipe's settings, the newest first: recorded ones, then those of older versions."""
    before = sorted(((made, run) for made, run in _older(work, warmup)), key=lambda pair: -pair[0])
    return [*warmups.finished(work.store, settings_of(work, warmup)), *(run for _, run in before)]


def _older(work: Work, warmup: Warmup) -> list[tuple[float, WarmupRun]]:
    """(time, warm-up) of those that an older version finished, which kept checkpoints alone: their fingerprints are
    what these settings give with a pool that the store has."""
    kept = warmups.unrecorded(work.store)
    found = []
    for pool in warmups.pools(work.store) if kept else ():
        run = of_pool(work, warmup, pool.digest, pool.rows)
        count, made = kept.pop(run.fingerprint, (0, 0.0))
        if count == warmup.epochs:
            found.append((made, run))
    return found


def untrained(work: Work, check: Check = lambda _model: None) -> list[Checkpoint]:
    """One checkpoint of the model as it is, for `warmup: null`: a fresh adapter (B = 0), or none where the rows are
    gradients of the model's own weights. `check` as `warm_up` has it."""
    run = untrained_fingerprint(work)
    if not checkpoints.listed(work.store, run):
        checkpoints.commit(work.store, run, 0, 0, 1.0, untrained_state(work, check))
    return checkpoints.listed(work.store, run)


def untrained_fingerprint(work: Work) -> str:
    """Identity of the checkpoint of the model as it is."""
    recipe = work.recipe
    with_adapter = recipe.features.parameters != "linear"
    return fingerprint({**training_spec(work), "untrained": with_adapter, "seed": recipe.seed})


def untrained_state(work: Work, check: Check = lambda _model: None) -> CheckpointState:
    """What the checkpoint of the model as it is holds: a fresh adapter, or nothing."""
    recipe = work.recipe
    if recipe.features.parameters == "linear":
        check(load_base(work.model, recipe.model))
        return CheckpointState({}, {}, {})
    model = load_lora(work.model, recipe.model, recipe.lora, recipe.seed)
    check(model)
    return CheckpointState(adapter_arrays(model), {}, {})


def warm_up(work: Work, pool: Dataset, check: Check = lambda _model: None, *, new: bool = False) -> Warmed:
    """The checkpoints of a run: those of an earlier warm-up, or trained now. `check` is called with the model before it
    is trained: it may refuse a model of which no rows could be taken. `new`: not those of another pool."""
    warmup = work.recipe.warmup
    if warmup is None:
        return Warmed(untrained(work, check))
    if warmup.from_:
        return _adopt(work, pool, check)
    own = of_pool(work, warmup, pool.digest, len(pool.example_ids))
    _record_older(work, warmup)
    candidates = [] if new or warmup.reuse == "never" else reusable(work, warmup)
    for run in candidates:
        done = checkpoints.listed(work.store, run.fingerprint)
        if len(done) == run.epochs:
            return Warmed(done, run, reused=True)
        its_pool = pool if run == own else warmups.whole_pool_of(work.store, run)
        if its_pool is not None:
            return _train(work, run, its_pool, check)
    return _train(work, own, pool, check)


def of_adopted(work: Work, found: Sequence[Adopted], digest: str, rows: int) -> WarmupRun:
    """The warm-up that checkpoints of others make: known by their tensors, steps and learning rates, wherever they lie.
    Its pool is the one that it was taken for, against which drift is measured."""
    taken = [[one.digest, one.step, one.mean_lr] for one in found]
    name = fingerprint({**training_spec(work), "adopted": taken})
    return WarmupRun(name, name, digest, rows, len(found))


def _adopt(work: Work, pool: Dataset, check: Check) -> Warmed:
    """Take the checkpoints of others into the store, unless it has them."""
    recipe = work.recipe
    model = load_lora(work.model, recipe.model, recipe.lora, recipe.seed)
    found = adopted.read(recipe, work.model, model)
    new = of_adopted(work, found, pool.digest, len(pool.example_ids))
    run = warmups.find(work.store, new.fingerprint) or new
    done = checkpoints.listed(work.store, run.fingerprint)
    if len(done) < run.epochs:
        check(model)
        warmups.begin(work.store, run, [])
        for ordinal, one in enumerate(found):
            checkpoints.commit(work.store, run.fingerprint, ordinal, one.step, one.mean_lr, one.state)
    warmups.finish(work.store, run.fingerprint)
    return Warmed(checkpoints.listed(work.store, run.fingerprint), run, reused=len(done) == run.epochs)


def _record_older(work: Work, warmup: Warmup) -> None:
    """Record warm-ups of these settings that an older version finished, with the examples that they saw."""
    for made, run in _older(work, warmup):
        pool = warmups.whole_pool_of(work.store, run)  # of another pool, the sample would be another
        kept = usable_chats(work, sample(work, warmup, pool))[0] if pool else []
        warmups.begin(work.store, run, kept, made)
        warmups.finish(work.store, run.fingerprint, made)


def _train(work: Work, run: WarmupRun, pool: Dataset, check: Check) -> Warmed:
    """Train, or finish training, and make this the warm-up that later runs use."""
    recipe, warmup = work.recipe, work.recipe.warmup or Warmup()
    done = checkpoints.listed(work.store, run.fingerprint)
    if len(done) < run.epochs:
        kept, chats = usable_chats(work, sample(work, warmup, pool))
        if not chats:
            raise InputError("no example of the warm-up sample has a label token; raise encoding.max_length")
        model = load_lora(work.model, recipe.model, recipe.lora, recipe.seed)
        check(model)
        start = Start(make_optimizer(model, warmup), len(done))
        if done:
            restore(model, start.optimizer, checkpoints.load(work.store, done[-1]), done[-1].step)
        warmups.begin(work.store, run, kept)
        report = Report("warm-up", work.progress)
        for end in epochs(model, work.model.tokenizer, chats, warmup, recipe.seed, report, start):
            checkpoints.commit(work.store, run.fingerprint, end.epoch, end.step, end.mean_lr, state_at(end))
    warmups.finish(work.store, run.fingerprint)
    return Warmed(checkpoints.listed(work.store, run.fingerprint), run, reused=len(done) == run.epochs)


def sample(work: Work, warmup: Warmup, pool: Dataset) -> list[str]:
    """Examples of the pool that a warm-up is trained on, in the order of its first epoch's draw."""
    size = max(round(warmup.fraction * len(pool.example_ids)), warmup.min_examples)
    order = np.random.default_rng([work.recipe.seed, 0]).permutation(len(pool.example_ids))[:size]
    return [pool.example_ids[k] for k in order]


def state_at(end: EpochEnd) -> CheckpointState:
    """What a checkpoint holds at the end of an epoch."""
    parameters = lora_parameters(end.model)

    def moment(key: str) -> Tensors:
        """Zero for a weight that no loss has reached: the optimizer knows nothing of it."""
        known = {n: end.optimizer.state.get(p, {}).get(key) for n, p in parameters.items()}
        return {
            n: np.zeros(parameters[n].shape, np.float32) if value is None else value.float().cpu().numpy().copy()
            for n, value in known.items()
        }

    return CheckpointState(adapter_arrays(end.model), moment("exp_avg"), moment("exp_avg_sq"))


def restore(model: Any, optimizer: Any, state: CheckpointState, step: int) -> None:
    """Put a checkpoint's adapter and Adam state into a model and its optimizer."""
    import torch

    set_adapter(model, state.adapter)
    for name, parameter in lora_parameters(model).items():
        optimizer.state[parameter] = {
            "step": torch.tensor(float(step)),
            "exp_avg": torch.from_numpy(state.exp_avg[name].copy()).to(parameter.device),
            "exp_avg_sq": torch.from_numpy(state.exp_avg_sq[name].copy()).to(parameter.device),
        }
