"""The arms of a validation: which rows each one trains on.

| arm | rows |
|---|---|
| `selected` | the selection for the target, with its token masks |
| `mixture` | the recipe's mixture, copies included |
| `random` | as many examples, drawn anew for each seed |
| `random_balanced` | the same, equal by source |
| `random_tokens`, `random_lengths` | as many label tokens; as many examples of the same lengths |
| `human` | as many examples in given shares of sources |
| `redrawn` | the selection made again for each seed, from half of the target's rows: how much its sets vary |
| `full` | the whole pool |
| a method's name | as many examples by that method, of a budget in label tokens the same budget |
| `qtuning` | the selected examples, each batch pruned in training |
| `base` | none: the model as it is |

"As many" means as many as the selection for the target has (or the mixture, where there is no selection); label tokens
are those that its masks leave. Where the budget is in label tokens, `random` has as many of those, not as many
examples: else it would train on ten times as much as a selection of short answers. An arm that draws the same rows for
several targets trains once.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from gradsift.datastore import examples, features, selections
from gradsift.datastore.errors import InputError
from gradsift.datastore.examples import Dataset
from gradsift.datastore.identity import digest_ids
from gradsift.datastore.selections import Selection
from gradsift.pipelines.features.gather import Material, evidence
from gradsift.pipelines.methods.registry import ROWS, Options, methods
from gradsift.pipelines.model.chats import Chats
from gradsift.pipelines.model.work import Work
from gradsift.pipelines.recipe import Mixing, Select, Validate
from gradsift.pipelines.recipe.validate import ARMS, OURS, REDRAWN
from gradsift.pipelines.select.select import choose
from gradsift.scorers import budgets
from gradsift.scorers.ranking import random_k, random_lengths, random_tokens

QTUNING = "qtuning"
BASE = "base"
Masks = Mapping[str, list[bool]]  # of label tokens, by example
NO_MASKS: Masks = {}
DRAW = 7_919  # added to a seed for draws, so that they do not share the training's


@dataclass(frozen=True)
class Arm:
    """One training set: the rows of a named arm for a seed (an id occurs as often as it counts), and the targets that
    it is measured for."""

    name: str
    seed: int
    example_ids: tuple[str, ...]
    targets: tuple[str, ...]
    masks: Masks = field(default_factory=dict, hash=False)  # of label tokens, by example


@dataclass(frozen=True)
class _UsablePool:
    """The pool's usable examples: ids, sources and label tokens, in one order."""

    ids: Sequence[str]
    sources: Sequence[str]
    tokens: Sequence[int]


@dataclass(frozen=True)
class _Measure:
    """What the other arms of a target have to match: a number of rows, the label tokens of each row, and of a budget in
    label tokens that budget (what was spent, where that is more, or masks leave less)."""

    rows: int
    lengths: Sequence[int]
    tokens: int | None = None


Draws = dict[tuple[str, int, tuple[str, ...]], tuple[list[str], Masks]]


def draw_arms(
    work: Work, material: Material, chats: Chats, chosen: Mapping[str, Selection], mixture: Selection | None
) -> list[Arm]:
    """All arms but `base`, each draw once, in the order of the table. Raises InputError for an arm that cannot be
    drawn."""
    settings, pool = work.recipe.validation, _usable(work, material.pool, chats)
    draws: Draws = {}

    def add(name: str, seed: int, rows: Sequence[str], target: str, masks: Masks = NO_MASKS) -> None:
        draws.setdefault((name, seed, tuple(rows)), ([], masks))[0].append(target)

    for target in material.tests:
        selected = chosen.get(target)
        anchor = selected or mixture
        if anchor is None:
            raise InputError(f"there is neither a selection nor a mixture to validate for {target!r}")
        masks = selections.masks(work.store, anchor)
        like = _like(anchor, masks, chats, len(pool.ids), _tokens(work, anchor is selected))
        for seed in settings.seeds:
            if selected is not None:
                add("selected", seed, _repeated(selected), target, masks)
                if settings.qtuning:
                    add(QTUNING, seed, _repeated(selected), target)
            if mixture is not None:
                add("mixture", seed, _repeated(mixture), target, selections.masks(work.store, mixture))
            for name in settings.arms:
                if name in OURS:
                    continue
                if name == REDRAWN:
                    if selected is None:
                        raise InputError(f"the arm `redrawn` needs a selection, and there is none for {target!r}")
                    rows, own = _redrawn(work, material, selected, target, set(pool.ids), seed)
                    add(name, seed, rows, target, own)
                    continue
                if name in ARMS:  # `random` is a method too; as an arm it is drawn anew for each seed
                    rows = _drawn(settings, name, DRAW + seed, pool, like)
                else:
                    rows = _by_method(work, material, name, target, pool, like.rows)
                add(name, seed, rows, target)
    return [Arm(name, seed, rows, tuple(t), masks) for (name, seed, rows), (t, masks) in draws.items()]


def _usable(work: Work, pool: Dataset, chats: Chats) -> _UsablePool:
    ids = chats.usable(pool.example_ids)
    if not ids:
        raise InputError(f"pool {pool.name!r} has no example with a label token to validate on")
    sources = examples.sources_of(work.store, ids)
    return _UsablePool(ids, [sources[i].source for i in ids], [chat.n_label_tokens for chat in chats(ids)])


def _tokens(work: Work, selected: bool) -> int | None:
    """The recipe's budget in label tokens, if it has one, of its selections or of its mixture."""
    section = work.recipe.selecting if selected else work.recipe.mix
    return None if section is None else section.label_tokens


def _like(anchor: Selection, masks: Masks, chats: Chats, most: int, tokens: int | None) -> _Measure:
    repeated = chats.usable(_repeated(anchor))
    lengths = [
        sum(masks[i]) if i in masks else chat.n_label_tokens for i, chat in zip(repeated, chats(repeated), strict=True)
    ]
    spent = sum(lengths)
    wanted = None if tokens is None else spent if masks else max(tokens, spent)  # the budget: one draw for all targets
    return _Measure(min(anchor.rows, most), lengths, wanted)


def _repeated(selection: Selection) -> list[str]:
    """Ids of a selection, each as often as it counts."""
    return [i for i, n in zip(selection.example_ids, selection.copies, strict=True) for _ in range(n)]


def _drawn(settings: Validate, name: str, draw: int, pool: _UsablePool, like: _Measure) -> list[str]:
    """Rows of an arm that looks at no model."""
    if name == "full":
        return list(pool.ids)
    if name == "random" and like.tokens is not None:
        return _take(pool.ids, random_tokens(pool.tokens, like.tokens, draw))
    if name == "random":
        return _take(pool.ids, random_k(len(pool.ids), like.rows, draw))
    if name == "random_tokens":
        return _take(pool.ids, random_tokens(pool.tokens, sum(like.lengths), draw))
    if name == "random_lengths":
        return _take(pool.ids, random_lengths(pool.tokens, like.lengths, draw))
    if name in ("random_balanced", "human"):
        return _by_source(pool, like.rows, draw, settings.human if name == "human" else None)
    raise InputError(f"no arm {name!r}")


def _by_method(work: Work, material: Material, name: str, target: str, pool: _UsablePool, size: int) -> list[str]:
    encoder = work.recipe.validation.encoder
    if methods()[name].needs & ROWS and not material.pairs:
        raise InputError("this store has no gradient rows for an arm that chooses by a method; use `gradsift run`")
    needs = methods()[name].needs
    e = evidence(work, material, target, encoder if "encoder" in needs else None, needs=needs)
    select = work.recipe.selecting
    in_tokens = select is not None and select.label_tokens is not None
    budget: Options = select.budget if select is not None and in_tokens else {"examples": min(size, len(e.ids))}
    choice, _ = choose(e, Select(method=name, encoder=encoder, **budget))
    usable = set(pool.ids)
    return [i for i in (e.ids[int(k)] for k in choice.order) if i in usable]


def _redrawn(
    work: Work, material: Material, selected: Selection, target: str, usable: set[str], seed: int
) -> tuple[list[str], Masks]:
    """(ids, masks) that the recipe's method, or the one that won, chooses by half of the target's rows, with another
    seed of its own."""
    half = half_of(material.targets[target], [work.recipe.seed, 2, seed])
    again = replace(seen_by(work, material, selected), targets={**material.targets, target: half})
    e = evidence(work, again, target, work.recipe.select.encoder)
    e.seed = work.recipe.seed + DRAW + seed
    won = selections.portfolio(work.store, selected)
    choice, _ = choose(e, work.recipe.select if won is None else work.recipe.select.by(won.won))
    masks = {e.ids[k]: mask.tolist() for k, mask in choice.masks.items()}
    return [e.ids[int(k)] for k in choice.order if e.ids[int(k)] in usable], masks


def seen_by(work: Work, material: Material, selected: Selection) -> Material:
    """The material as the selection saw it, which may have been made at one checkpoint."""
    spaces = {space[0] for space in selections.spec_of(work.store, selected).get("spaces", ())}
    pairs = [pair for pair in material.pairs if features.space_fingerprint(work.store, pair.train) in spaces]
    return replace(material, pairs=tuple(pairs) or material.pairs)


def half_of(target: Dataset, seed: Sequence[int]) -> Dataset:
    """Half of a target's rows at random, at least one of each subtask: a mean over half of the rows without replacement
    varies as one over a bootstrap sample does. It is not recorded."""
    rng = np.random.default_rng(seed)
    members = list(zip(target.example_ids, target.subtasks, strict=True))
    kept: list[tuple[str, str]] = []
    for subtask in sorted(set(target.subtasks)):
        mine = [member for member in members if member[1] == subtask]
        kept += [mine[k] for k in rng.permutation(len(mine))[: max(1, len(mine) // 2)]]
    ids, subtasks = zip(*sorted(kept), strict=True)
    digest = digest_ids(f"{i}\t{subtask}" for i, subtask in sorted(kept))
    return replace(target, digest=digest, example_ids=list(ids), subtasks=list(subtasks))


def _by_source(pool: _UsablePool, size: int, seed: int, human: Mixing | None) -> list[str]:
    """As many ids in shares of sources (equal ones without `human`), at random within each."""
    names = sorted(set(pool.sources))
    given = human.weights if human else None
    if human is not None and not isinstance(given, dict):
        raise InputError("validate.human needs `weights` as {source: share}")
    weights = [given.get(n, 0.0) if isinstance(given, dict) else 1.0 for n in names]
    if isinstance(given, dict) and (unknown := sorted(set(given) - set(names))):
        raise InputError(f"validate.human: the pool has no source {unknown[0]!r}; there are: {', '.join(names)}")
    members = [[k for k, s in enumerate(pool.sources) if s == n] for n in names]
    room = [len(rows) if w > 0 else 0 for rows, w in zip(members, weights, strict=True)]
    shares = budgets.bounded(weights, min(size, sum(room)), [0] * len(names), room)
    rng = np.random.default_rng(seed)
    return [pool.ids[rows[k]] for rows, n in zip(members, shares, strict=True) for k in rng.permutation(len(rows))[:n]]


def _take(ids: Sequence[str], order: Iterable[int]) -> list[str]:
    return [ids[int(k)] for k in order]
