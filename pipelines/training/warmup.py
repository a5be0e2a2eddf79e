"""Stage: warm-up training on a seeded random part of the pool; one checkpoint at the end of each epoch.

LESS §3 (warm-up on 5 %, one checkpoint for each of 4 epochs). A killed warm-up goes on from its last checkpoint and
gives the same tensors as one that was never stopped.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from gradsift.datastore import checkpoints
from gradsift.datastore.checkpoints import Checkpoint, CheckpointState, Tensors
from gradsift.datastore.errors import InputError
from gradsift.datastore.examples import Dataset
from gradsift.datastore.identity import Spec, fingerprint
from gradsift.pipelines.model.chats import usable_chats
from gradsift.pipelines.model.encode import LABEL_POLICY, TRUNCATION
from gradsift.pipelines.model.load import adapter_arrays, load_base, load_lora, lora_parameters, set_adapter
from gradsift.pipelines.model.work import Work
from gradsift.pipelines.recipe import Warmup
from gradsift.pipelines.training.loop import EpochEnd, Report, Start, epochs, make_optimizer

TRAINER_VERSION = 1
Check = Callable[[Any], None]  # of a model


def training_spec(work: Work) -> Spec:
    """Fields that decide any training run of a recipe, apart from its data, seed and hyper-parameters."""
    return {
        "model": work.model.model_digest,
        "model_dtype": work.model.dtype,
        "tokenizer": work.model.tokenizer_digest,
        "adapter": work.recipe.lora.model_dump(),
        "labels": LABEL_POLICY,
        "max_length": work.recipe.encoding.max_length,
        "truncation": TRUNCATION,
        "trainer": TRAINER_VERSION,
    }


def warmup_fingerprint(work: Work, warmup: Warmup, pool: Dataset) -> str:
    """Identity of a warm-up run."""
    return fingerprint(
        {
            **training_spec(work),
            "training": warmup.model_dump(),
            "pool": pool.digest,
            "seed": work.recipe.seed,
        }
    )


def untrained(work: Work, check: Check = lambda _model: None) -> list[Checkpoint]:
    """One checkpoint of the model as it is, for `warmup: null`: a fresh adapter (B = 0), or none where the rows are
    gradients of the model's own weights. `check` as `warm_up` has it."""
    recipe = work.recipe
    with_adapter = recipe.features.parameters != "linear"
    run = fingerprint({**training_spec(work), "untrained": with_adapter, "seed": recipe.seed})
    if not checkpoints.listed(work.store, run):
        adapter = {}
        if with_adapter:
            model = load_lora(work.model, recipe.model, recipe.lora, recipe.seed)
            check(model)
            adapter = adapter_arrays(model)
        else:
            check(load_base(work.model, recipe.model))
        checkpoints.commit(work.store, run, 0, 0, 1.0, CheckpointState(adapter, {}, {}))
    return checkpoints.listed(work.store, run)


def warm_up(work: Work, pool: Dataset, check: Check = lambda _model: None) -> list[Checkpoint]:
    """Train, or finish training, and return the checkpoints, oldest first. `check` is called with the model before it
    is trained: it may refuse a model of which no rows could be taken."""
    recipe, warmup = work.recipe, work.recipe.warmup
    if warmup is None:
        return untrained(work, check)
    run = warmup_fingerprint(work, warmup, pool)
    done = checkpoints.listed(work.store, run)
    if len(done) == warmup.epochs:
        return done
    size = max(round(warmup.fraction * len(pool.example_ids)), warmup.min_examples)
    order = np.random.default_rng([recipe.seed, 0]).permutation(len(pool.example_ids))[:size]
    _, chats = usable_chats(work, [pool.example_ids[k] for k in order])
    if not chats:
        raise InputError("no example of the warm-up sample has a label token; raise encoding.max_length")
    model = load_lora(work.model, recipe.model, recipe.lora, recipe.seed)
    check(model)
    start = Start(make_optimizer(model, warmup), len(done))
    if done:
        restore(model, start.optimizer, checkpoints.load(work.store, done[-1]), done[-1].step)
    report = Report("warm-up", work.progress)
    for end in epochs(model, work.model.tokenizer, chats, warmup, recipe.seed, report, start):
        checkpoints.commit(work.store, run, end.epoch, end.step, end.mean_lr, _state(end))
    return checkpoints.listed(work.store, run)


def _state(end: EpochEnd) -> CheckpointState:
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
