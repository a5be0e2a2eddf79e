"""Stage: validation. Train the same base on each arm, measure every test set, and say how sure the differences are.

Each (arm, seed, learning rate) is trained once, measured on all targets' test sets (the others are its forgetting
panel) and on their `val` sets, and recorded; a killed validation goes on after the last recorded run. The measure is
the mean loss over all label tokens of the test rows (nats), with the loss of each row kept for the intervals, and
where a target has a metric, generated answers. An arm that diverges is recorded as such.

A run is a `Job` that pickles: whoever can open the store can do it (`do`), one after the other here, or on the
processes or machines of a task runner (flows/arms.py).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gradsift.datastore import examples, selections
from gradsift.datastore.errors import InputError
from gradsift.datastore.examples import Dataset, Messages
from gradsift.datastore.identity import digest_ids, fingerprint
from gradsift.datastore.selections import Selection
from gradsift.datastore.store import Store
from gradsift.pipelines.methods.evidence import Evidence
from gradsift.pipelines.model.batches import by_length, collate, pad_id
from gradsift.pipelines.model.encode import Encoded
from gradsift.pipelines.model.head import example_losses
from gradsift.pipelines.model.load import Loaded, best_device, load_trainable, open_model
from gradsift.pipelines.progress import Progress, Step, directly, quiet
from gradsift.pipelines.recipe import Recipe, Sft, Validate
from gradsift.pipelines.training.prune import dynamic
from gradsift.pipelines.training.sft import SFT_VERSION, fit
from gradsift.pipelines.training.warmup import training_spec, usable_chats
from gradsift.pipelines.validate.answers import answer
from gradsift.pipelines.validate.arms import BASE, QTUNING, Arm, Chats, draw_arms
from gradsift.pipelines.validate.harness import folder_digest, scores
from gradsift.pipelines.validate.table import ArmRow, Run, table


@dataclass(frozen=True)
class Bench:
    """A set of rows to measure on: encoded, and as chats where answers are generated."""

    name: str
    digest: str
    rows: list[Encoded]
    chats: list[Messages]
    metric: str
    max_new_tokens: int


@dataclass(frozen=True)
class Benches:
    """What every run is measured on, by target."""

    tests: dict[str, Bench]
    vals: dict[str, Bench]


@dataclass(frozen=True)
class Job:
    """One training and its measures: an arm at a learning rate, for a number of steps or the recipe's epochs."""

    name: str
    store_root: Path
    recipe: Recipe
    arm: Arm
    lr: float
    steps: int | None
    benches: Benches


Elsewhere = Callable[[Sequence[Job]], None]


def validate(
    store: Store,
    recipe: Recipe,
    loaded: Loaded,
    pool: Dataset,
    chosen: Mapping[str, Selection],
    mixture: Selection | None,
    targets: Mapping[str, Dataset],
    tests: Mapping[str, Dataset],
    evidence: Callable[[str], Evidence],
    step: Step = directly,
    progress: Progress = quiet,
    elsewhere: Elsewhere | None = None,
) -> list[ArmRow]:
    """Run (or finish) all arms and return the table, targets in recipe order, `base` first.

    With `elsewhere` the runs that are not recorded are given to it, to be done (`do`) before it returns.
    """
    settings = recipe.validate_
    if settings is None:
        return []
    benches = Benches(
        {t: _bench(store, recipe, loaded, d, t) for t, d in tests.items()},
        {t: _bench(store, recipe, loaded, targets[t], t, metric="loss") for t in tests},
    )
    chats = Chats(store, recipe, loaded)
    drawn = draw_arms(store, recipe, pool, chats, list(tests), chosen, mixture, evidence)
    arms = [Arm(BASE, settings.seeds[0], (), tuple(tests)), *drawn]
    rates = settings.lrs or [settings.lr]
    steps = _steps(settings, arms) if settings.match == "steps" else {}
    jobs = []
    for arm, of in _with_steps(arms, steps):
        for lr in rates if arm.example_ids else rates[:1]:
            name = f"validate {arm.name} {arm.seed}" + (f" {lr:g}" if len(rates) > 1 else "")
            jobs.append(Job(name, store.root.resolve(), recipe, arm, lr, of, benches))
    if elsewhere is not None:
        keys = {_key(job, loaded): job for job in jobs}  # arms of the same rows train once
        elsewhere([job for key, job in keys.items() if selections.arm_result(store, key) is None])
    runs = []
    for number, job in enumerate(jobs, 1):
        result = step(job.name, lambda: _run(store, loaded, job, chats))
        runs.append(Run(job.arm, job.lr, result))
        progress("validation runs", number, len(jobs))
    known = examples.sources_of(store, sorted({i for arm in arms for i in arm.example_ids}))
    sources = {i: source for i, (source, _) in known.items()}
    return table(recipe, runs, {t: b.metric for t, b in benches.tests.items()}, sources)


def _steps(settings: Validate, arms: Sequence[Arm]) -> dict[str, int]:
    """{target: steps that its selection (or the mixture) takes in the epochs}."""
    out: dict[str, int] = {}
    for arm in arms:
        if arm.name in ("selected", "mixture"):
            for target in arm.targets:
                out.setdefault(target, -(-len(arm.example_ids) // settings.batch_size) * settings.epochs)
    return out


def _with_steps(arms: Sequence[Arm], steps: Mapping[str, int]) -> list[tuple[Arm, int | None]]:
    """Arms with their steps; one that serves targets whose selections take unlike numbers of steps becomes several."""
    out: list[tuple[Arm, int | None]] = []
    for arm in arms:
        groups: dict[int | None, list[str]] = {}
        for target in arm.targets:
            groups.setdefault(steps.get(target) if arm.example_ids else None, []).append(target)
        out += [(replace(arm, targets=tuple(targets)), of) for of, targets in groups.items()]
    return out


def _bench(
    store: Store, recipe: Recipe, loaded: Loaded, data: Dataset, target: str, metric: str | None = None
) -> Bench:
    settings = recipe.validate_ or Validate()
    ids = data.example_ids
    if data.role == "test" and settings.test_rows and settings.test_rows < len(ids):
        order = np.random.default_rng([recipe.seed, 1]).permutation(len(ids))[: settings.test_rows]
        ids = sorted(ids[k] for k in order)
    kept, rows = usable_chats(store, loaded, recipe, ids)
    if not rows:
        raise InputError(f"{data.role} {data.name!r} has no row with a label token; raise encoding.max_length")
    chats = examples.get_messages(store, kept)
    wanted = recipe.targets[target]
    return Bench(
        target, digest_ids(kept), rows, [chats[i] for i in kept], metric or wanted.metric, wanted.max_new_tokens
    )


def do(job: Job) -> None:
    """Do a job in this process and record it in its store, unless that has been done."""
    with Store(job.store_root, create=False) as store:
        loaded = open_model(job.recipe.model)
        _run(store, loaded, job, Chats(store, job.recipe, loaded))


def _training(job: Job) -> Sft:
    settings = job.recipe.validate_ or Validate()
    return Sft(**(settings.model_dump(include=set(Sft.model_fields), exclude={"preset"}) | {"lr": job.lr}))


def _spec(job: Job, loaded: Loaded) -> dict[str, Any]:
    """All that a job's result depends on."""
    settings, arm, training = job.recipe.validate_ or Validate(), job.arm, _training(job)
    spec = training_spec(job.recipe, loaded) | {
        "sft": SFT_VERSION,
        "training": training.model_dump() if arm.example_ids else {"mode": training.mode},
        "steps": job.steps if arm.example_ids else None,
        "examples": digest_ids(arm.example_ids),
        "masks": fingerprint(arm.masks) if arm.masks else None,
        "qtuning": settings.qtuning.model_dump() if arm.name == QTUNING and settings.qtuning else None,
        "seed": arm.seed,
        "tests": {t: [b.digest, b.metric, b.max_new_tokens] for t, b in job.benches.tests.items()},
        "vals": {t: b.digest for t, b in job.benches.vals.items()},
    }
    if settings.lm_eval is not None:
        asked = settings.lm_eval
        spec["lm_eval"] = asked.model_dump(exclude={"include_path"}) | {"files": folder_digest(asked.include_path)}
    return spec


def _key(job: Job, loaded: Loaded) -> str:
    return fingerprint(_spec(job, loaded))


def _run(store: Store, loaded: Loaded, job: Job, chats: Chats) -> dict[str, Any]:
    """The recorded result of a job, made if it is not there."""
    recipe, arm = job.recipe, job.arm
    settings = recipe.validate_ or Validate()
    spec = _spec(job, loaded)
    known = selections.arm_result(store, fingerprint(spec))
    if known is not None:
        return known
    rows = _masked(arm, chats)
    model = load_trainable(loaded, recipe.model, recipe.lora, arm.seed, settings.mode)
    result: dict[str, Any] = {
        "examples": len(rows),
        "label_tokens": sum(row.n_label_tokens for row in rows),
        "train": None,
        "diverged": False,
    }
    if rows:
        prune = dynamic(settings.qtuning, loaded.tokenizer) if spec["qtuning"] and settings.qtuning else None
        log = fit(model, loaded.tokenizer, rows, _training(job), arm.seed, steps=job.steps, prune=prune)
        result["train"] = asdict(log)
    result |= _measures(model, loaded.tokenizer, recipe, job.benches)
    if settings.lm_eval is not None:
        asked = settings.lm_eval
        result["lm_eval"] = scores(model, loaded.tokenizer, asked.tasks, asked.include_path, asked.limit)
    result = _finite(result)
    selections.save_arm(store, fingerprint(spec), arm.name, ",".join(arm.targets), arm.seed, spec, result)
    return result


def _masked(arm: Arm, chats: Chats) -> list[Encoded]:
    usable = chats.usable(arm.example_ids)
    return [row.masked(arm.masks[i]) if i in arm.masks else row for i, row in zip(usable, chats(usable), strict=True)]


def _measures(model: Any, tokenizer: Any, recipe: Recipe, benches: Benches) -> dict[str, Any]:
    tests = {}
    for name, bench in benches.tests.items():
        items = row_losses(model, tokenizer, bench.rows, recipe.features.batch_tokens)
        tokens = [row.n_label_tokens for row in bench.rows]
        tests[name] = {"loss": float(np.average(items, weights=tokens)), "items": items, "tokens": tokens}
        if bench.metric != "loss":
            found = answer(
                model, tokenizer, bench.chats, bench.metric, bench.max_new_tokens, recipe.encoding.max_length
            )
            tests[name] |= {
                "scores": found.scores,
                "score": float(np.mean(found.scores)),
                "response_tokens": float(np.mean(found.lengths)),
            }
    vals = {}
    for name, bench in benches.vals.items():
        items = row_losses(model, tokenizer, bench.rows, recipe.features.batch_tokens)
        vals[name] = float(np.average(items, weights=[row.n_label_tokens for row in bench.rows]))
    return {"tests": tests, "vals": vals}


@torch.no_grad()
def row_losses(model: Any, tokenizer: Any, rows: Sequence[Encoded], batch_tokens: int) -> list[float]:
    """[I] mean loss of each row over its label tokens, in nats."""
    out = np.zeros(len(rows))
    for part in by_length([len(row.input_ids) for row in rows], batch_tokens):
        batch = collate([rows[k] for k in part], pad_id(tokenizer)).to(best_device())
        out[part] = example_losses(model, batch).double().cpu().numpy()
    return [float(v) for v in out]


def _finite(result: dict[str, Any]) -> dict[str, Any]:
    """The result, or without its figures and marked where training diverged."""
    numbers = [t["loss"] for t in result["tests"].values()] + list(result["vals"].values())
    if np.isfinite(numbers).all():
        train = result["train"]
        if train:
            train["curve"] = [[v if np.isfinite(v) else None for v in row] for row in train["curve"]]
            train |= {k: None for k in ("early_grad_norm", "last_loss") if not np.isfinite(train[k])}
        return result
    return result | {"diverged": True, "tests": {}, "vals": {}, "train": None}
