"""Stage: all datasets of a recipe, read and screened: the pool, the targets, their tests."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import fields, replace

from gradsift.datastore import examples, quarantine
from gradsift.datastore.errors import InputError
from gradsift.datastore.examples import Dataset
from gradsift.datastore.runs import DatasetReport, Ingested, PoolReport
from gradsift.pipelines.features.gather import Material
from gradsift.pipelines.model.work import Work
from gradsift.pipelines.pool import semantic
from gradsift.pipelines.pool.ingest import ingest
from gradsift.pipelines.pool.screen import Screened, screen
from gradsift.pipelines.recipe import Source


def read_datasets(work: Work) -> tuple[Material, Ingested]:
    """Read what the recipe names and screen the pool. Raises InputError for test rows in any target's `val`, and for a
    target without the test set that validation measures on."""
    recipe = work.recipe
    pool, report = _read(work, "pool", recipe.name, recipe.pool)
    targets: dict[str, Dataset] = {}
    tests: dict[str, Dataset] = {}
    of_targets: dict[str, DatasetReport] = {}
    of_tests: dict[str, DatasetReport] = {}
    for name, target in recipe.targets.items():
        targets[name], of_targets[name] = _read(work, "target", name, [target.val])
        if target.test is not None:
            tests[name], of_tests[name] = _read(work, "test", name, [target.test])
        elif recipe.validate_ is not None:
            raise InputError(f"targets.{name} has no `test`, which `validate` needs; add it or drop `validate`")
    refuse_leaks(targets, tests)
    held_out = {i for test in tests.values() for i in test.example_ids}
    left = _without(work, pool, held_out)
    pool_report = _without_tests(work, report, pool, left)
    sets = recipe.decontaminate.sets if recipe.decontaminate else {}
    extra = [_read(work, "test", name, [source])[0] for name, source in sets.items()]
    datasets = {(one.role, one.name) for one in (pool, *targets.values(), *tests.values(), *extra)}
    quarantine.keep(work.store, recipe.name, datasets)
    first = screen(work, left, [*targets.values(), *tests.values(), *extra])
    second = semantic.by_encoder(work, first.pool)
    pool_report = with_screening(work, with_screening(work, pool_report, first), second)
    return Material(second.pool, targets, tests), Ingested(pool_report, of_targets, of_tests)


def with_screening(work: Work, report: PoolReport, screened: Screened) -> PoolReport:
    """The report with what a screening left of the pool."""
    return replace(
        report,
        left_out=[*report.left_out, *screened.left_out],
        screenings=[*report.screenings, *([screened.screening] if screened.screening else [])],
        used=len(screened.pool.example_ids),
        used_dataset_id=screened.pool.dataset_id,
        used_by_source=examples.source_counts(work.store, screened.pool),
    )


def _read(work: Work, role: str, name: str, sources: list[Source]) -> tuple[Dataset, DatasetReport]:
    return ingest(work.store, role, name, sources, work.recipe.seed, work.progress, work.recipe.name)


def _without_tests(work: Work, report: DatasetReport, pool: Dataset, left: Dataset) -> PoolReport:
    """The pool's report with the rows of test sets that are no part of it."""
    before, after = (Counter(examples.source_counts(work.store, one)) for one in (pool, left))
    out = before - after
    values = {one.name: getattr(report, one.name) for one in fields(report)}
    return PoolReport(**values, left_out_test_rows=out.total(), test_rows_by_source=dict(out.most_common()))


def _without(work: Work, pool: Dataset, held_out: set[str]) -> Dataset:
    """The pool without rows of a test set: training on those would make any selection look good."""
    kept = [i for i in pool.example_ids if i not in held_out]
    if len(kept) == len(pool.example_ids):
        return pool
    if not kept:
        raise InputError("every example of the pool is also in a test set")
    return examples.define_dataset(work.store, "pool", pool.name, dict.fromkeys(kept, ""), "without tests")


def refuse_leaks(targets: Mapping[str, Dataset], tests: Mapping[str, Dataset]) -> None:
    """Raises InputError where a test row is in the `val` of any target: what is chosen, and the learning rate that is
    reported, would have seen it. (The selection for one target is measured on all tests, and is part of mixtures.)"""
    for name, test in tests.items():
        for target, val in targets.items():
            if shared := len(set(test.example_ids) & set(val.example_ids)):
                whose = "`val`" if target == name else f"the `val` of targets.{target}"
                raise InputError(
                    f"targets.{name}: {shared} test rows are also in {whose}; a selection may not see the test set: "
                    "take them out of one of the two files"
                )
