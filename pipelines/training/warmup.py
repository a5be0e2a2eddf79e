"""Stage: warm-up training on a seeded random part of the pool; one checkpoint at the end of each epoch.

LESS §3 (warm-up on 5 %, one checkpoint for each of 4 epochs). A killed warm-up goes on from its last checkpoint and
gives the same tensors as one that was never stopped.
"""

from typing import Any

import numpy as np

from gradsift.datastore import checkpoints, examples
from gradsift.datastore.checkpoints import Checkpoint, CheckpointState
from gradsift.datastore.errors import InputError
from gradsift.datastore.examples import Dataset
from gradsift.datastore.identity import fingerprint
from gradsift.datastore.store import Store
from gradsift.pipelines.model.encode import LABEL_POLICY, TRUNCATION, Encoded, encode
from gradsift.pipelines.model.load import Loaded, adapter_arrays, load_lora, lora_parameters, set_adapter
from gradsift.pipelines.progress import Progress, quiet
from gradsift.pipelines.recipe import Recipe, Warmup
from gradsift.pipelines.training.loop import EpochEnd, make_optimizer, train

TRAINER_VERSION = 1


def training_spec(recipe: Recipe, loaded: Loaded) -> dict[str, Any]:
    """Fields that decide any training run of a recipe, apart from its data, seed and hyper-parameters."""
    return {
        "model": loaded.model_digest,
        "model_dtype": loaded.dtype,
        "tokenizer": loaded.tokenizer_digest,
        "adapter": recipe.lora.model_dump(),
        "labels": LABEL_POLICY,
        "max_length": recipe.encoding.max_length,
        "truncation": TRUNCATION,
        "trainer": TRAINER_VERSION,
    }


def warmup_fingerprint(recipe: Recipe, warmup: Warmup, loaded: Loaded, pool: Dataset) -> str:
    """Identity of a warm-up run."""
    return fingerprint(
        training_spec(recipe, loaded) | {"training": warmup.model_dump(), "pool": pool.digest, "seed": recipe.seed}
    )


def untrained(store: Store, recipe: Recipe, loaded: Loaded) -> list[Checkpoint]:
    """One checkpoint of the model as it is, for `warmup: null`: a fresh adapter (B = 0), or none where the rows are
    gradients of the model's own weights."""
    with_adapter = recipe.features.parameters != "linear"
    run = fingerprint(training_spec(recipe, loaded) | {"untrained": with_adapter, "seed": recipe.seed})
    if not checkpoints.listed(store, run):
        adapter = {}
        if with_adapter:
            adapter = adapter_arrays(load_lora(loaded, recipe.model, recipe.lora, recipe.seed))
        checkpoints.commit(store, run, 0, 0, 1.0, CheckpointState(adapter, {}, {}))
    return checkpoints.listed(store, run)


def usable_chats(store: Store, loaded: Loaded, recipe: Recipe, ids: list[str]) -> tuple[list[str], list[Encoded]]:
    """Ids and encodings of the examples that have a label, in the given order."""
    messages = examples.get_messages(store, ids)
    chats = [encode(loaded.tokenizer, messages[i], recipe.encoding.max_length) for i in ids]
    kept = [(i, c) for i, c in zip(ids, chats, strict=True) if c.usable]
    return [i for i, _ in kept], [c for _, c in kept]


def warm_up(
    store: Store, recipe: Recipe, loaded: Loaded, pool: Dataset, progress: Progress = quiet
) -> list[Checkpoint]:
    """Train, or finish training, and return the checkpoints, oldest first."""
    warmup = recipe.warmup
    if warmup is None:
        return untrained(store, recipe, loaded)
    run = warmup_fingerprint(recipe, warmup, loaded, pool)
    done = checkpoints.listed(store, run)
    if len(done) == warmup.epochs:
        return done
    size = max(round(warmup.fraction * len(pool.example_ids)), warmup.min_examples)
    order = np.random.default_rng([recipe.seed, 0]).permutation(len(pool.example_ids))[:size]
    _, chats = usable_chats(store, loaded, recipe, [pool.example_ids[k] for k in order])
    if not chats:
        raise InputError("no example of the warm-up sample has a label token; raise encoding.max_length")
    model = load_lora(loaded, recipe.model, recipe.lora, recipe.seed)
    optimizer = make_optimizer(model, warmup)
    if done:
        restore(model, optimizer, checkpoints.load(store, done[-1]), done[-1].step)
    train(
        model,
        loaded.tokenizer,
        chats,
        warmup,
        recipe.seed,
        optimizer=optimizer,
        first_epoch=len(done),
        at_epoch_end=lambda end: checkpoints.commit(store, run, end.epoch, end.step, end.mean_lr, _state(end)),
        progress=progress,
        label="warm-up",
    )
    return checkpoints.listed(store, run)


def _state(end: EpochEnd) -> CheckpointState:
    parameters = lora_parameters(end.model)

    def moment(key: str) -> dict[str, Any]:
        return {n: end.optimizer.state[p][key].float().cpu().numpy().copy() for n, p in parameters.items()}

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
