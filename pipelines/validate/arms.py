"""The arms of a validation: which rows each one trains on.

| arm | rows |
|---|---|
| `selected` | the selection for the target, with its token masks |
| `mixture` | the recipe's mixture, copies included |
| `random` | as many examples, drawn anew for each seed |
| `random_balanced` | the same, equal by source |
| `random_tokens`, `random_lengths` | as many label tokens; as many examples of the same lengths |
| `human` | as many examples in given shares of sources |
| `full` | the whole pool |
| a method's name | as many examples by that method |
| `qtuning` | the selected examples, each batch pruned in training |
| `base` | none: the model as it is |

"As many" is as the selection for the target (without one, as the mixture), and of label tokens those that its masks
leave. Arms that draw the same rows for several
targets train once.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from gradsift.datastore import examples, selections
from gradsift.datastore.errors import InputError
from gradsift.datastore.examples import Dataset
from gradsift.datastore.selections import Selection
from gradsift.datastore.store import Store
from gradsift.pipelines.methods.evidence import Evidence
from gradsift.pipelines.methods.registry import methods
from gradsift.pipelines.model.encode import Encoded
from gradsift.pipelines.model.load import Loaded
from gradsift.pipelines.recipe import Mixing, Recipe, Select, Validate
from gradsift.pipelines.select.select import choose
from gradsift.pipelines.training.warmup import usable_chats
from gradsift.scorers import budgets
from gradsift.scorers.ranking import random_k, random_lengths, random_tokens

QTUNING = "qtuning"
BASE = "base"
DRAW = 7_919  # added to a seed for draws, so that they do not share the training's


@dataclass(frozen=True)
class Arm:
    """One training set: the rows of a named arm for a seed (an id stands as often as it counts), and the targets that
    it is an arm of."""

    name: str
    seed: int
    example_ids: tuple[str, ...]
    targets: tuple[str, ...]
    masks: Mapping[str, list[bool]] = field(default_factory=dict, hash=False)  # of label tokens, by example


class Chats:
    """Encoded usable chats of the pool, encoded on demand and kept."""

    def __init__(self, store: Store, recipe: Recipe, loaded: Loaded) -> None:
        self._store, self._recipe, self._loaded = store, recipe, loaded
        self._known: dict[str, Encoded] = {}
        self._asked: set[str] = set()

    def __call__(self, ids: Iterable[str]) -> list[Encoded]:
        """Chats of the usable ones of the ids, in the given order."""
        wanted = list(ids)
        new = [i for i in dict.fromkeys(wanted) if i not in self._asked]
        if new:
            self._asked.update(new)
            self._known.update(zip(*usable_chats(self._store, self._loaded, self._recipe, new), strict=True))
        return [self._known[i] for i in wanted if i in self._known]

    def usable(self, ids: Iterable[str]) -> list[str]:
        """Those of the ids that have a label, in the given order."""
        wanted = list(ids)
        self(wanted)
        return [i for i in wanted if i in self._known]


def draw_arms(
    store: Store,
    recipe: Recipe,
    pool: Dataset,
    chats: Chats,
    targets: Sequence[str],
    chosen: Mapping[str, Selection],
    mixture: Selection | None,
    evidence: Callable[[str], Evidence],
) -> list[Arm]:
    """All arms but `base`, each draw once, in the order of the table. Raises InputError for an arm that cannot be."""
    settings = recipe.validate_ or Validate()
    ids = chats.usable(pool.example_ids)
    if not ids:
        raise InputError(f"pool {pool.name!r} has no example with a label token to validate on")
    sources = examples.sources_of(store, ids)
    codes = [sources[i][0] for i in ids]
    tokens = [c.n_label_tokens for c in chats(ids)]
    out: dict[tuple[str, int, tuple[str, ...]], tuple[list[str], Mapping[str, list[bool]]]] = {}

    def add(
        name: str, seed: int, rows: Sequence[str], target: str, masks: Mapping[str, list[bool]] | None = None
    ) -> None:
        key = (name, seed, tuple(rows))
        out.setdefault(key, ([], masks or {}))[0].append(target)

    for target in targets:
        selected = chosen.get(target)
        anchor = selected or mixture
        if anchor is None:
            raise InputError(f"there is neither a selection nor a mixture to validate for {target!r}")
        size = min(anchor.rows, len(ids))
        masks = selections.masks(store, anchor)
        repeated = chats.usable(_repeated(anchor))
        lengths = [
            sum(masks[i]) if i in masks else c.n_label_tokens for i, c in zip(repeated, chats(repeated), strict=True)
        ]
        for seed in settings.seeds:
            if selected is not None:
                add("selected", seed, _repeated(selected), target, masks)
                if settings.qtuning:
                    add(QTUNING, seed, _repeated(selected), target)
            if mixture is not None:
                add("mixture", seed, _repeated(mixture), target, selections.masks(store, mixture))
            for name in settings.arms:
                if name in ("selected", "mixture"):
                    continue
                rows = _rows(recipe, name, seed, size, ids, codes, tokens, lengths, lambda: evidence(target))
                add(name, seed, rows, target)
    return [Arm(name, seed, rows, tuple(t), masks) for (name, seed, rows), (t, masks) in out.items()]


def _repeated(selection: Selection) -> list[str]:
    """Ids of a selection, each as often as it counts."""
    return [i for i, n in zip(selection.example_ids, selection.copies, strict=True) for _ in range(n)]


def _rows(
    recipe: Recipe,
    name: str,
    seed: int,
    size: int,
    ids: Sequence[str],
    sources: Sequence[str],
    tokens: Sequence[int],
    lengths: Sequence[int],
    evidence: Callable[[], Evidence],
) -> list[str]:
    settings = recipe.validate_ or Validate()
    draw = DRAW + seed
    if name == "full":
        return list(ids)
    if name == "random":
        return _take(ids, random_k(len(ids), size, draw))
    if name == "random_tokens":
        return _take(ids, random_tokens(tokens, sum(lengths), draw))
    if name == "random_lengths":
        return _take(ids, random_lengths(tokens, lengths, draw))
    if name in ("random_balanced", "human"):
        human = settings.human if name == "human" else None
        return _by_source(ids, sources, size, draw, human)
    if name not in methods():
        raise InputError(f"no arm {name!r}")
    e = evidence()
    usable = set(ids)
    select = Select(method=name, examples=min(size, len(e.ids)), encoder=settings.encoder)
    choice, _ = choose(e, select)
    return [i for i in (e.ids[int(k)] for k in choice.order) if i in usable]


def _by_source(ids: Sequence[str], sources: Sequence[str], size: int, seed: int, human: Mixing | None) -> list[str]:
    """As many ids in shares of sources (equal ones without `human`), at random within each."""
    names = sorted(set(sources))
    given = human.weights if human else None
    if human is not None and not isinstance(given, dict):
        raise InputError("validate.human needs `weights` as {source: share}")
    weights = [given.get(n, 0.0) if isinstance(given, dict) else 1.0 for n in names]
    if isinstance(given, dict) and (unknown := sorted(set(given) - set(names))):
        raise InputError(f"validate.human: the pool has no source {unknown[0]!r}; there are: {', '.join(names)}")
    members = [[k for k, s in enumerate(sources) if s == n] for n in names]
    room = [len(rows) if w > 0 else 0 for rows, w in zip(members, weights, strict=True)]
    shares = budgets.bounded(weights, min(size, sum(room)), [0] * len(names), room)
    rng = np.random.default_rng(seed)
    return [ids[rows[k]] for rows, n in zip(members, shares, strict=True) for k in rng.permutation(len(rows))[:n]]


def _take(ids: Sequence[str], order: Iterable[int]) -> list[str]:
    return [ids[int(k)] for k in order]
