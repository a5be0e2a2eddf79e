"""Stage: score the pool against a target and choose: a method's score, its rule, and a budget."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa

from gradsift.datastore import examples, features, selections
from gradsift.datastore.errors import InputError
from gradsift.datastore.identity import digest_ids
from gradsift.datastore.selections import MASK, Selection
from gradsift.datastore.store import Store
from gradsift.pipelines.methods.evidence import Evidence
from gradsift.pipelines.methods.registry import Choice, checked_options, rules, scores, split_options
from gradsift.pipelines.methods.rules import best
from gradsift.pipelines.recipe import Recipe, Select
from gradsift.scorers.errors import MissingPackage, Unsuitable
from gradsift.scorers.ranking import within_tokens

VERSION = 1  # of all methods: raise it when one chooses otherwise from the same rows
TOKEN_TRIES = 6  # sizes tried for a budget of tokens, where a longer order is another order


def budget(select: Select, usable: int) -> int:
    """Number of examples to choose; raises InputError when there are not as many."""
    size = select.examples or max(1, int((select.fraction or 0.0) * usable))
    if size > usable:
        raise InputError(f"select.examples is {size} but only {usable} examples have a gradient row")
    return size


@contextmanager
def refusals_of(what: str) -> Iterator[None]:
    """Turns what a scorer refuses, and a package that it misses, into an InputError that names who asked. Any other
    error is a bug and passes as it is."""
    try:
        yield
    except (Unsuitable, MissingPackage) as error:
        raise InputError(f"{what}: {error}") from error


def choose(e: Evidence, select: Select) -> tuple[Choice, np.ndarray[Any, np.dtype[np.float64]]]:
    """(what the rule chooses, [N] scores: the best column's). Raises InputError for a method that cannot work here."""
    score, rule, given = select.parts()
    for_score, for_rule = split_options(score, rule, checked_options(score, rule, given))
    with refusals_of(f"method {select.method!r}"):
        values = scores()[score].run(e, **for_score)
        choice = _within(e, select, lambda size: rules()[rule].run(e, values, size, **for_rule), rule)
    one = best(values)
    if not np.isfinite(one).all():
        raise InputError(f"method {select.method!r} gave a score that is not finite")
    return choice, one


def _within(e: Evidence, select: Select, run: Any, rule: str) -> Choice:
    if select.label_tokens is None:
        found: Choice = run(budget(select, len(e.ids)))
        return found
    tokens = e.label_tokens()
    if rules()[rule].prefix:
        choice: Choice = run(len(tokens))
        return Choice(within_tokens(choice.order, tokens, select.label_tokens), choice.columns, choice.masks)
    # A rule that plans for its size: nearest from below by a secant on (size, tokens), the excess cut at the end.
    size = max(1, min(len(tokens), int(select.label_tokens / (sum(tokens) / len(tokens)))))
    choice = run(size)
    for _ in range(TOKEN_TRIES):
        spent = sum(tokens[k] for k in choice.order)
        better = max(1, min(len(tokens), round(size * select.label_tokens / max(1, spent))))
        if better == size:
            break
        size = better
        choice = run(size)
    order = within_tokens(choice.order, tokens, select.label_tokens)
    return Choice(order, choice.columns, {k: m for k, m in choice.masks.items() if k in set(order.tolist())})


def select_for(
    store: Store,
    recipe: Recipe,
    evidence: Evidence,
    target_name: str,
) -> Selection:
    """Choose for one target and record the selection; the same inputs again give the recorded one."""
    score, rule, options = recipe.select.parts()
    spec: Mapping[str, Any] = {
        "version": VERSION,
        "method": recipe.select.method,
        "score": score,
        "rule": rule,
        "options": options,
        "encoder": features.space_fingerprint(store, evidence.encoder.train) if evidence.encoder else None,
        "budget": recipe.select.model_dump(include={"fraction", "examples", "label_tokens"}, exclude_none=True),
        "seed": recipe.seed,
        "pool": evidence.pool.digest,
        "sources": digest_ids(examples.source_column(store, evidence.pool)),
        "target": evidence.target.digest,
        "spaces": [
            [features.space_fingerprint(store, p.train), features.space_fingerprint(store, p.query), p.mean_lr]
            for p in evidence.pairs
        ],
        "name": f"{recipe.name}-{target_name}",
    }
    known = selections.find(store, spec)
    if known is not None:
        return known
    choice, scores = choose(evidence, recipe.select)
    ids = evidence.ids
    if not len(choice.order):
        raise InputError(f"method {recipe.select.method!r} chose nothing for {target_name!r}; loosen its options")
    table = {"example_id": pa.array(ids), "score": pa.array(scores)}
    table |= {name: pa.array(values) for name, values in choice.columns.items()}
    if choice.masks:
        rows = [choice.masks[k].tolist() if k in choice.masks else None for k in range(len(ids))]
        table[MASK] = pa.array(rows, pa.list_(pa.bool_()))
    return selections.save(
        store,
        spec["name"],
        target_name,
        spec,
        [ids[k] for k in choice.order],
        [float(scores[k]) for k in choice.order],
        pa.table(table),
    )
