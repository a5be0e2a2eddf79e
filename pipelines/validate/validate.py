"""Stage: validation. Train the same base on each arm, measure every test set, and say how sure the differences are.

Each (arm, seed, learning rate) is trained once, measured on all targets' test sets (the others are its forgetting
panel) and on their `val` sets, and recorded; a killed validation goes on after the last recorded run.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from gradsift.datastore import examples
from gradsift.datastore.errors import InputError
from gradsift.datastore.examples import Dataset
from gradsift.datastore.identity import digest_ids
from gradsift.datastore.runs import ArmRow
from gradsift.datastore.selections import Selection
from gradsift.pipelines.features.gather import Material
from gradsift.pipelines.model.chats import Chats, chats_of, usable_chats
from gradsift.pipelines.model.pieces import finish
from gradsift.pipelines.model.work import Work
from gradsift.pipelines.progress import Step, directly
from gradsift.pipelines.recipe import Validate
from gradsift.pipelines.recipe.validate import OURS
from gradsift.pipelines.validate.arms import BASE, Arm, draw_arms
from gradsift.pipelines.validate.job import Bench, Benches, Job, key_of, recorded, run
from gradsift.pipelines.validate.table import ArmRun, table


@dataclass(frozen=True)
class Made:
    """What a run made and validation compares: a selection for each target, a mixture, or both."""

    chosen: Mapping[str, Selection] = field(default_factory=dict)
    mixture: Selection | None = None


def validate(work: Work, material: Material, made: Made, step: Step = directly) -> list[ArmRow]:
    """Run (or finish) all arms and return the table, targets in recipe order, `base` first.

    The workers of the run do the trainings, where it has some; else each is a step here.
    """
    chats = chats_of(work)
    jobs = planned_jobs(work, material, made, chats)
    if work.spread is not None:
        _have_done(work, jobs)
        step = directly  # all that is left is to read
    runs = []
    for number, job in enumerate(jobs, 1):
        result = step(job.name, lambda: run(work, job, chats))
        runs.append(ArmRun(job.arm, job.lr, result))
        if work.spread is None:
            work.progress("validation runs", number, len(jobs))
    known = examples.sources_of(work.store, sorted({i for job in jobs for i in job.arm.example_ids}))
    sources = {i: provenance.source for i, provenance in known.items()}
    return table(work.recipe, runs, {name: work.recipe.targets[name].metric for name in material.tests}, sources)


def _have_done(work: Work, jobs: Sequence[Job]) -> None:
    """Have the trainings that are not recorded yet done by the workers of the run."""
    distinct = {key_of(work, job): job for job in jobs}  # arms of the same rows train once
    ended = len(distinct) - len(left := _unrecorded(work, distinct.values()))

    def done(_job: Job) -> None:
        nonlocal ended
        ended += 1
        work.progress("validation runs", min(ended, len(distinct)), len(distinct))

    finish(work, lambda: _unrecorded(work, left), done)


def _unrecorded(work: Work, jobs: Iterable[Job]) -> list[Job]:
    return [job for job in jobs if recorded(work, job) is None]


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
    order = work.order(model=True)
    jobs = []
    for arm, arm_steps in _with_steps(arms, steps):
        for lr in rates if arm.example_ids else rates[:1]:
            name = f"validate {arm.name} {arm.seed}" + (f" {lr:g}" if len(rates) > 1 else "")
            jobs.append(Job(name, order, arm, lr, arm_steps, benches))
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
