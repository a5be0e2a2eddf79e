"""Stage: validation. Train the same base on each arm, measure every test set, and say how sure the differences are.

Each (arm, seed, learning rate) is trained once, measured on all targets' test sets (the others are its forgetting
panel) and on their `val` sets, and recorded; a killed validation goes on after the last recorded run.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from gradsift.datastore import examples
from gradsift.datastore.errors import InputError
from gradsift.datastore.examples import Dataset
from gradsift.datastore.identity import digest_ids
from gradsift.datastore.runs import ArmRow
from gradsift.datastore.selections import Selection
from gradsift.pipelines.features.gather import Material
from gradsift.pipelines.model.chats import Chats, usable_chats
from gradsift.pipelines.model.work import Work
from gradsift.pipelines.progress import Step, directly
from gradsift.pipelines.recipe import Validate
from gradsift.pipelines.recipe.validate import OURS
from gradsift.pipelines.validate.arms import BASE, Arm, draw_arms
from gradsift.pipelines.validate.job import Bench, Benches, Job, key_of, recorded, run
from gradsift.pipelines.validate.table import ArmRun, table

Spread = Callable[[Sequence[Job]], None]
"""Does jobs (`job.do_job`), in this process or elsewhere, before it returns."""


@dataclass(frozen=True)
class Made:
    """What a run made and validation compares: a selection for each target, a mixture, or both."""

    chosen: Mapping[str, Selection] = field(default_factory=dict)
    mixture: Selection | None = None


def validate(
    work: Work, material: Material, made: Made, step: Step = directly, spread: Spread | None = None
) -> list[ArmRow]:
    """Run (or finish) all arms and return the table, targets in recipe order, `base` first.

    `spread`, if given, gets the runs that are not recorded yet.
    """
    chats = Chats(work)
    jobs = planned_jobs(work, material, made, chats)
    if spread is not None:
        distinct = {key_of(work, job): job for job in jobs}  # arms of the same rows train once
        spread([job for job in distinct.values() if recorded(work, job) is None])
    runs = []
    for number, job in enumerate(jobs, 1):
        result = step(job.name, lambda: run(work, job, chats))
        runs.append(ArmRun(job.arm, job.lr, result))
        work.progress("validation runs", number, len(jobs))
    known = examples.sources_of(work.store, sorted({i for job in jobs for i in job.arm.example_ids}))
    sources = {i: provenance.source for i, provenance in known.items()}
    return table(work.recipe, runs, {name: work.recipe.targets[name].metric for name in material.tests}, sources)


def planned_jobs(work: Work, material: Material, made: Made, chats: Chats) -> list[Job]:
    """All runs of a validation, recorded or not, in the order of the table."""
    benches = _benches(work, material)
    drawn = draw_arms(work, material, chats, made.chosen, made.mixture)
    arms = [Arm(BASE, work.recipe.validation.seeds[0], (), tuple(material.tests)), *drawn]
    return _jobs(work, arms, benches)


def _benches(work: Work, material: Material) -> Benches:
    return Benches(
        {name: _bench(work, data, name, work.recipe.targets[name].metric) for name, data in material.tests.items()},
        {name: _bench(work, material.targets[name], name, "loss") for name in material.tests},
    )


def _bench(work: Work, data: Dataset, target: str, metric: str) -> Bench:
    settings, ids = work.recipe.validation, data.example_ids
    if data.role == "test" and settings.test_rows and settings.test_rows < len(ids):
        order = np.random.default_rng([work.recipe.seed, 1]).permutation(len(ids))[: settings.test_rows]
        ids = sorted(ids[k] for k in order)
    kept, rows = usable_chats(work, ids)
    if not rows:
        raise InputError(f"{data.role} {data.name!r} has no row with a label token; raise encoding.max_length")
    chats = examples.get_messages(work.store, kept)
    most = work.recipe.targets[target].max_new_tokens
    return Bench(target, digest_ids(kept), rows, [chats[i] for i in kept], metric, most)


def _jobs(work: Work, arms: Sequence[Arm], benches: Benches) -> list[Job]:
    settings = work.recipe.validation
    rates = settings.lrs or [settings.lr]
    steps = _steps(settings, arms) if settings.match == "steps" else {}
    jobs = []
    for arm, arm_steps in _with_steps(arms, steps):
        for lr in rates if arm.example_ids else rates[:1]:
            name = f"validate {arm.name} {arm.seed}" + (f" {lr:g}" if len(rates) > 1 else "")
            jobs.append(Job(name, work.store.place, work.recipe, arm, lr, arm_steps, benches))
    return jobs


def _steps(settings: Validate, arms: Sequence[Arm]) -> dict[str, int]:
    """{target: steps that its selection (or the mixture) takes in the epochs}."""
    steps: dict[str, int] = {}
    for arm in arms:
        if arm.name in OURS:
            for target in arm.targets:
                steps.setdefault(target, -(-len(arm.example_ids) // settings.batch_size) * settings.epochs)
    return steps


def _with_steps(arms: Sequence[Arm], steps: Mapping[str, int]) -> list[tuple[Arm, int | None]]:
    """Arms with their steps; an arm of targets whose selections take different numbers of steps becomes several."""
    timed: list[tuple[Arm, int | None]] = []
    for arm in arms:
        groups: dict[int | None, list[str]] = {}
        for target in arm.targets:
            groups.setdefault(steps.get(target) if arm.example_ids else None, []).append(target)
        timed += [(replace(arm, targets=tuple(targets)), arm_steps) for arm_steps, targets in groups.items()]
    return timed
