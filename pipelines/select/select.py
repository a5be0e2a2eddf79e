"""Stage: score the pool against a target and choose: a method's score, its rule, and a budget."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gradsift.datastore import examples, features, selections
from gradsift.datastore.errors import InputError
from gradsift.datastore.examples import Dataset
from gradsift.datastore.identity import Spec
from gradsift.datastore.runs import SelectionReport
from gradsift.datastore.selections import MASK, Picks, Selection
from gradsift.pipelines.methods.evidence import Evidence
from gradsift.pipelines.methods.registry import (
    Choice,
    Options,
    checked_options,
    packages,
    rules,
    scored,
    split_options,
)
from gradsift.pipelines.methods.room import make_room
from gradsift.pipelines.methods.rules import best
from gradsift.pipelines.model.lengths import lengths_spec
from gradsift.pipelines.model.work import Work
from gradsift.pipelines.recipe import Method, Select, Training
from gradsift.pipelines.training.spec import training_spec
from gradsift.pipelines.training.trial import trials_spec
from gradsift.scorers.errors import MissingPackage, Unsuitable
from gradsift.scorers.ranking import within_tokens

VERSION = 2  # of all methods: raise it when one chooses otherwise from the same rows
TOKEN_TRIES = 6  # sizes tried for a budget of tokens, where a longer order is another order
F64 = NDArray[np.float64]


def budget(select: Select, usable: int, of: int | None = None) -> int:
    """Number of examples to choose, of a budget in label tokens at least; a fraction is of the `usable` ones, or of as
    many as are given. Raises InputError when there are not as many."""
    size = select.examples or select.at_least or max(1, int((select.fraction or 0.0) * (of or usable)))
    if size > usable:
        name = "examples" if select.examples else "at_least"
        raise InputError(f"select.{name} is {size} but only {usable} examples can be used")
    return size


@contextmanager
def refusals_of(what: str) -> Iterator[None]:
    """Turn a scorer's refusal, or a package that it misses, into an InputError that names who asked, and let an
    InputError name it. Any other error is a bug and passes as it is."""
    try:
        yield
    except InputError as error:
        if what in str(error):
            raise
        raise InputError(f"{what}: {error}") from error
    except (Unsuitable, MissingPackage) as error:
        raise InputError(f"{what}: {error}") from error


def choose(e: Evidence, select: Select) -> tuple[Choice, F64]:
    """(what the rule chooses, [N] scores: the best column's). Raises InputError for a method that cannot work here."""
    score, rule, given = select.parts()
    for_score, for_rule = split_options(score, rule, checked_options(score, rule, given))
    for_rule = {**_with_fraction(select, rule), **for_rule}
    with refusals_of(f"method {select.method!r}"):
        if rules()[rule].between is not None:
            return _between(e, select, rule, for_rule)
        size = len(e.ids) if select.label_tokens is not None else budget(select, len(e.ids), e.usable)
        make_room(e, score, rule, {**given, **for_rule}, size)
        values = scored(e, select.method, score, for_score)
        choice = _within(e, select, lambda size: rules()[rule].run(e, values, size, **for_rule), rule)
    best_scores = best(values)
    if not np.isfinite(best_scores).all():
        raise InputError(f"method {select.method!r} gave a score that is not finite")
    return choice, best_scores


def _between(e: Evidence, select: Select, rule: str, options: Options) -> tuple[Choice, F64]:
    """What a rule takes that chooses between methods, with the scores of the one that it took."""
    choice: Choice = rules()[rule].run(e, lambda there, method: choose(there, select.by(method)), **options)
    if choice.scores is None:
        raise InputError(f"rule {rule!r} gave no scores of the method that it took")
    return choice, choice.scores


def _with_fraction(select: Select, rule: str) -> Options:
    """The budget's fraction, for a rule that has an option of this name; {} for others and for other budgets."""
    return {} if select.fraction is None else split_options("none", rule, {"fraction": select.fraction})[1]


def _within(e: Evidence, select: Select, run: Callable[[int], Choice], rule: str) -> Choice:
    least = budget(select, len(e.ids), e.usable)
    if select.label_tokens is None:
        return run(least)
    choice = _near_tokens(e, select.label_tokens, least, run, rule)
    if len(choice.order) < least:
        raise InputError(
            f"select.at_least is {least} and this method gives {len(choice.order)} examples; lower `at_least`, or "
            "loosen the method's options"
        )
    return choice


def _near_tokens(e: Evidence, wanted: int, least: int, run: Callable[[int], Choice], rule: str) -> Choice:
    """What a rule takes of a budget in label tokens, `least` examples where it gives as many."""
    tokens = e.label_tokens()
    if rules()[rule].prefix:
        choice = run(len(tokens))
        return replace(choice, order=within_tokens(choice.order, tokens, wanted, least))
    # A rule that plans for its size: as near as it gets, and what is above the budget is cut off at the end.
    first = max(least, min(len(tokens), int(wanted / (sum(tokens) / len(tokens)))))
    choice = sized_for_tokens(
        run, lambda choice: sum(tokens[k] for k in choice.order), first, len(tokens), wanted, least=least
    )
    order = within_tokens(choice.order, tokens, wanted, least)
    return Choice(order, choice.columns, {k: mask for k, mask in choice.masks.items() if k in set(order.tolist())})


Chosen = TypeVar("Chosen")


def sized_for_tokens(
    run: Callable[[int], Chosen],
    spent: Callable[[Chosen], int],
    first: int,
    most: int,
    wanted: int,
    *,
    least: int = 1,
    reach: bool = False,
) -> Chosen:
    """What `run(size)` gives at a size, not under `least`, whose `spent` tokens are near those `wanted`, where another
    size is another choice: a secant on (size, tokens) from the `first` size. `reach`: grow until they are reached (or
    size `most`).

    Cost: at most TOKEN_TRIES runs after the first.
    """
    size, chosen = first, run(first)
    for _ in range(TOKEN_TRIES):
        tokens = spent(chosen)
        near = size * wanted / max(1, tokens)
        better = max(least, min(most, int(1.1 * near) + 1 if reach else round(near)))
        if better == size or (reach and tokens >= wanted):
            break
        size, chosen = better, run(better)
    return chosen


def select_for(work: Work, e: Evidence, target_name: str) -> Selection:
    """Choose for one target and record the selection; the same inputs again give the recorded one."""
    spec = spec_for(work, e, target_name)
    recorded = selections.use(work.store, spec)
    if recorded is not None:
        return recorded
    return selections.save(work.store, spec["name"], target_name, spec, picks_for(work, e, target_name))


def picks_for(work: Work, e: Evidence, target_name: str) -> Picks:
    """What is chosen for one target, recorded nowhere."""
    select = work.recipe.select
    choice, values = choose(e, select)
    if not len(choice.order):
        raise InputError(f"method {select.method!r} chose nothing for {target_name!r}; loosen its options")
    table = {"example_id": pa.array(e.ids), "score": pa.array(values)}
    table |= {column: pa.array(entries) for column, entries in choice.columns.items()}
    if choice.masks:
        masks = [choice.masks[k].tolist() if k in choice.masks else None for k in range(len(e.ids))]
        table[MASK] = pa.array(masks, pa.list_(pa.bool_()))
    chosen = [e.ids[k] for k in choice.order]
    details = selections.with_portfolio(pa.table(table), choice.portfolio)
    won = choice.portfolio.won if choice.portfolio else ""
    return Picks(chosen, [float(values[k]) for k in choice.order], details, won=won)


def spec_for(work: Work, e: Evidence, target_name: str) -> Spec:
    """All that decides the selection for a target."""
    store, select = work.store, work.recipe.select
    score, rule, options = select.parts()
    return {
        **extra_spec(work, select, e),
        **({} if e.usable is None else {"usable": e.usable}),
        "version": VERSION,
        "method": select.method,
        "score": score,
        "rule": rule,
        "options": options,
        "encoder": features.space_fingerprint(store, e.encoder.train) if e.encoder else None,
        "budget": select.budget,
        "seed": work.recipe.seed,
        "pool": e.pool.digest,
        "provenance": examples.provenance_digest(store, e.pool),
        "target": e.target.digest,
        "spaces": e.fingerprints(),
        "name": f"{work.recipe.name}-{target_name}",
    }


def extra_spec(work: Work, method: Method, e: Evidence) -> Spec:
    """What else decides a method's choice, {} most often: packages of others that it comes from; and where no gradient
    rows name the model, what that model was asked (which examples can be used, how many tokens they have) and trained
    for."""
    spec: dict[str, Any] = {}
    if foreign := packages(*method.parts()):
        spec["packages"] = foreign
    if work.loaded is not None and method.between:
        spec["trials"] = trials_spec(work)
    if work.loaded is not None and not e.pairs:
        spec["lengths"] = lengths_spec(work)
        if "training" in method.needs:
            settings = work.recipe.warmup or Training()
            spec["training"] = {**training_spec(work), "settings": settings.deciding()}
    return spec


def describe(work: Work, target: str, chosen: Selection, pool: Dataset) -> SelectionReport:
    """What a run reports of a selection: size, sources, and the share of the target's own ones in it and the pool."""
    sources = _sources(work, chosen.example_ids)
    own = set(work.recipe.targets[target].own_sources)
    everything = _sources(work, pool.example_ids)
    counts = Counter(sources)
    return SelectionReport(
        name=chosen.name,
        target=target,
        method=chosen.method,
        digest=chosen.digest,
        examples=len(sources),
        rule=work.recipe.select.parts()[1],
        by_source={source: counts[source] for source in sorted(counts, key=lambda source: (-counts[source], source))},
        source_precision=sum(source in own for source in sources) / len(sources) if own else None,
        source_share_of_pool=sum(source in own for source in everything) / len(everything) if own else None,
        selection_id=chosen.selection_id,
        portfolio=selections.portfolio(work.store, chosen) if work.recipe.select.between else None,
    )


def _sources(work: Work, ids: Sequence[str]) -> list[str]:
    of_ids = examples.sources_of(work.store, ids)
    return [of_ids[i].source for i in ids]
